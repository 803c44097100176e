"""Tiny models of every family as GGUF files: what a converter makes of the checkpoint that `tiny_weights` gives."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from metalchat_engine_mlx.testing._tiny import tiny_config, tiny_weights
from metalchat_engine_mlx.testing.gguf import Value, byte_level_tokenizer, encode, gguf_bytes

ARCHITECTURES: Final = {
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "gpt_neox": "gptneox",
    "granite": "granite",
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "olmo2": "olmo2",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "smollm3": "smollm3",
    "starcoder2": "starcoder2",
}
_PAIRS: Final = ("llama", "granite", "smollm3")
_TENSORS: Final = {
    "model.embed_tokens": "token_embd",
    "gpt_neox.embed_in": "token_embd",
    "model.norm": "output_norm",
    "gpt_neox.final_layer_norm": "output_norm",
    "lm_head": "output",
    "embed_out": "output",
}
_IN_LAYER: Final = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "attention.query_key_value": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "attention.dense": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.c_fc": "ffn_up",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.c_proj": "ffn_down",
    "mlp.dense_4h_to_h": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
}
_EXPERTS: Final = {"w1": "gate", "w3": "up", "w2": "down", "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
_NORMS_AFTER: Final = (
    "gemma2",
    "gemma3",
    "olmo2",
)  # those that have both norms around the attention, or that one alone

Arrays = NDArray[Any]


def write_family(path: Path, *, kind: str = "F32", seed: int = 0, **changes: Any) -> Path:
    """Write the model that `write_tiny_model` writes with the same seed and changes; `kind` is the matrices' type."""
    config = tiny_config(**changes)
    architecture = ARCHITECTURES[config["model_type"]]
    tensors: dict[str, Arrays] = {}
    experts: dict[str, list[Arrays]] = {}
    for name, values in tiny_weights(config, seed=seed).items():
        module, _, part = name.rpartition(".")
        found = re.fullmatch(r"(?:model|gpt_neox)\.layers\.(\d+)\.(.+)", module)
        if found is None:
            target = _TENSORS[module]
        elif expert := re.fullmatch(r".+\.experts\.\d+\.(\w+)", found[2]):
            experts.setdefault(f"blk.{found[1]}.ffn_{_EXPERTS[expert[1]]}_exps.weight", []).append(values)
            continue
        else:
            inner = _IN_LAYER[found[2]]
            if found[2] == "post_attention_layernorm" and architecture in _NORMS_AFTER:
                inner = "post_attention_norm"
            target = f"blk.{found[1]}.{inner}"
        tensors[f"{target}.{part}"] = _ordered(values, target, architecture, config)
    tensors |= {name: np.stack(stacked) for name, stacked in experts.items()}
    scaling = config.get("rope_scaling") or {}
    for length in ("short", "long"):
        if f"{length}_factor" in scaling:
            tensors[f"rope_factors_{length}.weight"] = np.array(scaling[f"{length}_factor"], np.float32)
    stored = {name: encode(values, kind if values.ndim > 1 else "F32") for name, values in tensors.items()}
    path.write_bytes(gguf_bytes(_metadata(config, architecture), stored))
    return path


def _ordered(values: Arrays, target: str, architecture: str, config: Mapping[str, Any]) -> Arrays:
    heads = config["num_attention_heads"]
    name = target.rpartition(".")[2]
    if architecture in _PAIRS and name in ("attn_q", "attn_k"):
        count = heads if name == "attn_q" else config["num_key_value_heads"]
        return values.reshape(count, 2, values.shape[0] // count // 2, -1).swapaxes(1, 2).reshape(values.shape)
    if architecture == "gptneox" and name == "attn_qkv":
        return values.reshape(heads, 3, values.shape[0] // heads // 3, -1).swapaxes(0, 1).reshape(values.shape)
    return values + 1 if architecture.startswith("gemma") and "norm" in name else values


def _metadata(config: Mapping[str, Any], architecture: str) -> dict[str, Value]:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    share = config.get("partial_rotary_factor", config.get("rotary_pct", 1.0))
    is_layer_norm = architecture in ("starcoder2", "gptneox")
    scaling = config.get("rope_scaling") or {}
    said: dict[str, Any] = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config.get("num_key_value_heads", heads),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_epsilon" if is_layer_norm else "attention.layer_norm_rms_epsilon": config.get(
            "norm_epsilon", config.get("layer_norm_eps", config["rms_norm_eps"])
        ),
        "rope.freq_base": float(config.get("rope_theta", config.get("rotary_emb_base", 10000.0))),
        "rope.dimension_count": int(head_dim * share),
        "attention.sliding_window": config.get("sliding_window"),
        "attn_logit_softcapping": config.get("attn_logit_softcapping"),
        "final_logit_softcapping": config.get("final_logit_softcapping"),
        "attention.scale": config.get("attention_multiplier"),
        "embedding_scale": config.get("embedding_multiplier"),
        "residual_scale": config.get("residual_multiplier"),
        "logit_scale": config.get("logits_scaling"),
        "expert_count": config.get("num_local_experts", config.get("num_experts")),
        "expert_used_count": config.get("num_experts_per_tok"),
        "expert_feed_forward_length": config.get("moe_intermediate_size"),
        "use_parallel_residual": config.get("use_parallel_residual"),
        "rope.scaling.original_context_length": config.get("original_max_position_embeddings"),
        "rope.scaling.attn_factor": scaling.get("attention_factor"),
    }
    if scaling.get("rope_type") == "linear":
        said |= {"rope.scaling.type": "linear", "rope.scaling.factor": scaling["factor"]}
    return {
        "general.architecture": architecture,
        "general.name": "tiny",
        **{f"{architecture}.{key}": value for key, value in said.items() if value is not None},
        **byte_level_tokenizer(),
    }
