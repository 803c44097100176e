"""Writes mlx_lm.json: what mlx-lm's own loader and generator answer for tiny models of families that it alone knows.

Run by hand with an interpreter that has all of mlx-lm: `python make_mlx_lm.py`; with `-`, the answers go to standard
output. The weights are those that `metalchat_engine_mlx.testing` makes from the seed, so only the answers are stored.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(path) for path in HERE.parents[2].glob("metalchat-*/src")]

PROMPT = [17, 260, 300, 41, 412, 5, 99, 230, 17, 260, 301, 77, 540, 8, 120, 333, 64, 64, 210, 19]
TOKENS = 16

_USUAL = {
    "vocab_size": 544,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
_EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
_STATE = {"vocab_size": 544, "hidden_size": 64, "num_hidden_layers": 2, "conv_kernel": 4, "state_size": 16}

VARIANTS: dict[str, dict[str, Any]] = {
    "cohere": _USUAL | {"logit_scale": 0.25, "use_qk_norm": True},
    "cohere2": _USUAL | {"sliding_window": 8, "sliding_window_pattern": 2},
    "deepseek_v2": _USUAL
    | _EXPERTS
    | {
        "kv_lora_rank": 16,
        "q_lora_rank": None,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "mscale_all_dim": 1.0},
    },
    "exaone": {
        "vocab_size": 544,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "layer_norm_epsilon": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    },
    "glm4": _USUAL | {"attention_bias": True, "partial_rotary_factor": 0.5},
    "gpt2": {"vocab_size": 544, "n_embd": 64, "n_ctx": 512, "n_positions": 512, "n_head": 4, "n_layer": 2}
    | {"layer_norm_epsilon": 1e-5, "num_key_value_heads": 4},
    "gpt_oss": _USUAL
    | _EXPERTS
    | {
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 64},
    },
    "internlm2": _USUAL | {"bias": True},
    "lfm2": _USUAL
    | {
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 64,
        "block_ff_dim": 128,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": [1],
    },
    "mamba": _STATE | {"intermediate_size": 128, "use_bias": False, "use_conv_bias": True, "time_step_rank": 4},
    "mamba2": _STATE
    | {
        "intermediate_size": 128,
        "num_heads": 8,
        "head_dim": 16,
        "use_bias": False,
        "use_conv_bias": True,
        "n_groups": 1,
        "time_step_limit": [0.0, 100.0],
        "time_step_rank": 4,
        "chunk_size": 16,
        "tie_word_embeddings": True,
        "layer_norm_epsilon": 1e-5,
    },
    "nemotron": _USUAL | {"hidden_act": "relu2", "norm_eps": 1e-5, "partial_rotary_factor": 0.5},
    "olmoe": _USUAL | _EXPERTS,
    "recurrent_gemma": _USUAL
    | {
        "attention_bias": False,
        "conv1d_width": 4,
        "lru_width": 64,
        "attention_window_size": 8,
        "logits_soft_cap": 30.0,
        "block_types": ["recurrent", "attention"],
        "embeddings_scale_by_sqrt_dim": True,
    },
    "rwkv7": {
        "vocab_size": 544,
        "hidden_size": 64,
        "intermediate_size": 128,
        "norm_eps": 1e-5,
        "head_dim": 16,
        "num_hidden_layers": 2,
        "a_low_rank_dim": 8,
        "v_low_rank_dim": 8,
        "gate_low_rank_dim": 8,
        "decay_low_rank_dim": 8,
    },
    "stablelm": _USUAL | {"use_qkv_bias": True, "partial_rotary_factor": 0.25, "norm_eps": 1e-5},
}


def main() -> None:
    import mlx.core as mx
    from metalchat_engine_mlx.testing import write_fallback_model
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load_model

    found: dict[str, Any] = {}
    for model_type, changes in VARIANTS.items():
        for bits in (None, 4):
            config = {"model_type": model_type, **changes}
            with tempfile.TemporaryDirectory() as folder:
                model, _ = load_model(write_fallback_model(Path(folder), config, bits=bits))
                steps = list(generate_step(mx.array(PROMPT), model, max_tokens=TOKENS))
            found[f"{model_type}{'' if bits is None else ' in 4 bits'}"] = {
                "config": config,
                "bits": bits,
                "tokens": [int(token) for token, _ in steps],
                "logprobs": [round(float(logprobs[token].item()), 5) for token, logprobs in steps],
            }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items())
    text = f"{{\n{lines}\n}}\n"
    if sys.argv[1:] == ["-"]:
        sys.stdout.write(text)
    else:
        (HERE / "mlx_lm.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
