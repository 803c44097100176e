"""The values of `general.architecture` that are read, and what each of them says in metadata of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from metalchat_engine_mlx.gguf._metadata import flag, real, whole
from metalchat_engine_mlx.gguf.header import GgufHeader

_MAX_WINDOW: Final = 2**24
_MAX_WIDTH: Final = 2**20
_EXPERTS: Final = frozenset({"expert_count", "expert_used_count"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the file says under the name of its architecture, and the config as far as all have it in common."""

    header: GgufHeader
    name: str
    config: Mapping[str, Any]

    def whole(self, key: str, *, high: int, default: int | None = None) -> int:
        return whole(self.header, f"{self.name}.{key}", high=high, default=default)

    def real(self, key: str, *, low: float = 1e-6, high: float = 1e6, default: float) -> float:
        return real(self.header, f"{self.name}.{key}", low=low, high=high, default=default)

    def flag(self, key: str, *, default: bool) -> bool:
        return flag(self.header, f"{self.name}.{key}", default=default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How one architecture is written.

    `eps` and `partial` are the words of its config.json for the norms' epsilon and for the share of a head that is
    rotated. `pairs` says that the rows of queries and keys lie in ggml's order of rotary pairs, `plus_one` that norms
    hold what the checkpoint adds one to. `own` gives the rest of the config, out of `keys`; `drops` are keys that the
    config.json does not have.
    """

    model_type: str
    class_name: str
    eps: str = "rms_norm_eps"
    partial: str | None = None
    pairs: bool = False
    plus_one: bool = False
    keys: frozenset[str] = frozenset()
    own: Callable[[Said], dict[str, Any]] = lambda _: {}
    drops: frozenset[str] = frozenset()


def _llama(said: Said) -> dict[str, Any]:
    count = said.whole("expert_count", high=1024, default=0)
    if count == 0:
        return {}
    return {
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "num_local_experts": count,
        "num_experts_per_tok": said.whole("expert_used_count", high=count),
    }


def _qwen3_moe(said: Said) -> dict[str, Any]:
    count = said.whole("expert_count", high=1024)
    return {
        "num_experts": count,
        "num_experts_per_tok": said.whole("expert_used_count", high=count),
        "moe_intermediate_size": said.whole("expert_feed_forward_length", high=_MAX_WIDTH),
        "norm_topk_prob": True,
    }


def _gemma2(said: Said) -> dict[str, Any]:
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": said.whole("attention.sliding_window", high=_MAX_WINDOW, default=4096),
        "attn_logit_softcapping": said.real("attn_logit_softcapping", low=1e-3, high=1e6, default=50.0),
        "final_logit_softcapping": said.real("final_logit_softcapping", low=1e-3, high=1e6, default=30.0),
        "query_pre_attn_scalar": _query_scalar(said, largest=46),
    }


def _gemma3(said: Said) -> dict[str, Any]:
    cap = said.real("final_logit_softcapping", low=0.0, high=1e6, default=0.0)
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": said.whole("attention.sliding_window", high=_MAX_WINDOW),
        "sliding_window_pattern": said.whole("attention.sliding_window_pattern", high=1000, default=6),
        "rope_theta": said.real("rope.freq_base", low=1.0, high=1e12, default=1e6),
        "rope_local_base_freq": said.real("rope.freq_base_swa", low=1.0, high=1e12, default=10000.0),
        "final_logit_softcapping": cap or None,
        "query_pre_attn_scalar": _query_scalar(said, largest=62),
    }


def _query_scalar(said: Said, *, largest: int) -> float:
    """The file does not say; the model of 27 billion, which its layers give away, is the one that differs."""
    if said.config["num_hidden_layers"] == largest:
        return said.config["hidden_size"] / said.config["num_attention_heads"]
    return float(said.config["head_dim"])


def _phi3(said: Said) -> dict[str, Any]:
    window = said.whole("attention.sliding_window", high=_MAX_WINDOW, default=0)
    return {"sliding_window": window or None}


def _granite(said: Said) -> dict[str, Any]:
    return {
        "attention_multiplier": said.real("attention.scale", default=said.config["head_dim"] ** -0.5),
        "embedding_multiplier": said.real("embedding_scale", default=1.0),
        "residual_multiplier": said.real("residual_scale", default=1.0),
        "logits_scaling": said.real("logit_scale", default=1.0),
    }


def _starcoder2(said: Said) -> dict[str, Any]:
    return {"use_bias": said.config["attention_bias"], "hidden_act": "gelu_pytorch_tanh"}


def _gpt_neox(said: Said) -> dict[str, Any]:
    return {
        "use_parallel_residual": said.flag("use_parallel_residual", default=True),
        "rotary_emb_base": said.config["rope_theta"],
        "hidden_act": "gelu",
    }


_BIASES: Final = frozenset({"attention_bias", "mlp_bias"})

ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "llama": Architecture(
        model_type="llama",
        class_name="LlamaForCausalLM",
        pairs=True,
        keys=_EXPERTS | {"attention.sliding_window"},
        own=_llama,
    ),
    "qwen2": Architecture(model_type="qwen2", class_name="Qwen2ForCausalLM", drops=_BIASES),
    "qwen3": Architecture(model_type="qwen3", class_name="Qwen3ForCausalLM"),
    "qwen3moe": Architecture(model_type="qwen3_moe", class_name="Qwen3MoeForCausalLM", keys=_EXPERTS, own=_qwen3_moe),
    "gemma2": Architecture(
        model_type="gemma2",
        class_name="Gemma2ForCausalLM",
        plus_one=True,
        keys=frozenset({"attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping"}),
        own=_gemma2,
    ),
    "gemma3": Architecture(
        model_type="gemma3_text",
        class_name="Gemma3ForCausalLM",
        plus_one=True,
        keys=frozenset({"attention.sliding_window", "final_logit_softcapping"}),
        own=_gemma3,
    ),
    "phi3": Architecture(
        model_type="phi3",
        class_name="Phi3ForCausalLM",
        partial="partial_rotary_factor",
        keys=frozenset({"attention.sliding_window", "rope.scaling.attn_factor"}),
        own=_phi3,
        drops=_BIASES,
    ),
    "smollm3": Architecture(model_type="smollm3", class_name="SmolLM3ForCausalLM", pairs=True),
    "olmo2": Architecture(model_type="olmo2", class_name="Olmo2ForCausalLM"),
    "granite": Architecture(
        model_type="granite",
        class_name="GraniteForCausalLM",
        pairs=True,
        keys=frozenset({"attention.scale", "embedding_scale", "residual_scale", "logit_scale"}),
        own=_granite,
    ),
    "starcoder2": Architecture(
        model_type="starcoder2",
        class_name="Starcoder2ForCausalLM",
        eps="norm_epsilon",
        own=_starcoder2,
        drops=_BIASES,
    ),
    "gptneox": Architecture(
        model_type="gpt_neox",
        class_name="GPTNeoXForCausalLM",
        eps="layer_norm_eps",
        partial="rotary_pct",
        own=_gpt_neox,
        drops=frozenset({"mlp_bias", "rope_theta"}),
    ),
}
