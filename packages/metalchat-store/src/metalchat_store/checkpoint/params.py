"""Meta's `params.json`, checked, and the `config.json` that it becomes."""

import json
import math
from dataclasses import dataclass

from metalchat_store.errors import NotAModel

LIMIT = 1 << 20
_NOT_TEXT = {
    "vision_chunk_size": "reads images",
    "vision_num_cross_attention_layers": "reads images",
    "vision_args": "reads images",
    "moe_args": "is a mixture of experts",
    "quantization_args": "is quantised",
    "quantization": "is quantised",
    "lora_args": "has adapters",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """The shape of a Llama text model."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    norm_eps: float
    rope_theta: float
    scaled_rope: bool
    rope_factor: float | None = None

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


def read_params(data: bytes) -> Params:
    """The content of `params.json`. Raises `NotAModel`, also for what is no text model of plain weights."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError, MemoryError) as error:
        raise NotAModel("'params.json' is not valid JSON") from error
    if len(data) > LIMIT or not isinstance(value, dict):
        raise NotAModel("'params.json' is not a JSON object of at most 1 MiB")
    for key, what in _NOT_TEXT.items():
        if value.get(key) not in (None, 0, -1, False):
            raise NotAModel(f"'params.json' has {key!a}: a model that {what} is not converted; pull it in safetensors")
    dim = _integer(value, "dim", 1 << 20)
    layers = _integer(value, "n_layers", 1000)
    heads = _integer(value, "n_heads", 1 << 14)
    kv_heads = _integer(value, "n_kv_heads", 1 << 14) if value.get("n_kv_heads") is not None else heads
    if dim % heads or dim // heads % 2 or heads % kv_heads:
        raise NotAModel(f"'params.json': {dim} values cannot be shared by {heads} heads and {kv_heads} key-value heads")
    scaled = value.get("use_scaled_rope", False)
    if not isinstance(scaled, bool):
        raise NotAModel("'params.json': 'use_scaled_rope' is not true or false")
    factor = value.get("rope_scaling_factor")
    return Params(
        dim=dim,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        norm_eps=_real(value, "norm_eps", 1e-5, 1.0),
        rope_theta=_real(value, "rope_theta", 10000.0, 1e12),
        scaled_rope=scaled,
        rope_factor=None if factor is None else _real(value, "rope_scaling_factor", 8.0, 1e6),
    )


def config(
    params: Params,
    *,
    vocabulary: int,
    intermediate: int,
    dtype: str,
    tied: bool,
    context: int,
    factor: float,
    first_special: int,
    stops: tuple[int, ...],
) -> dict[str, object]:
    """The `config.json` of a Llama model.

    `context` in tokens and `factor`, that of the rope's scaling where `params` does not say it, are what Meta gives
    for the release; `stops` are the ids that end an answer, `first_special` that of the beginning of a text.
    """
    scaling = {
        "rope_type": "llama3",
        "factor": params.rope_factor or factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": params.dim,
        "intermediate_size": intermediate,
        "num_hidden_layers": params.layers,
        "num_attention_heads": params.heads,
        "num_key_value_heads": params.kv_heads,
        "head_dim": params.head_dim,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "rms_norm_eps": params.norm_eps,
        "rope_theta": params.rope_theta,
        "rope_scaling": scaling if params.scaled_rope else None,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "torch_dtype": {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[dtype],
        "bos_token_id": first_special,
        "eos_token_id": list(stops) if len(stops) > 1 else stops[0],
    }


def _integer(value: dict[str, object], key: str, most: int) -> int:
    found = value.get(key)
    if type(found) is not int or not 0 < found <= most:
        raise NotAModel(f"'params.json': '{key}' is not a whole number from 1 to {most:,}")
    return found


def _real(value: dict[str, object], key: str, default: float, most: float) -> float:
    found = value.get(key, default)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found <= most or math.isnan(found):
        raise NotAModel(f"'params.json': '{key}' is not a number above 0")
    return float(found)
