"""What a Llama config.json says, checked against the ranges that a real model can have."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from metalchat_engine import InvalidModel, UnsupportedModel, UnsupportedRequest

from metalchat_engine_mlx.quantization import Quantization, read_quantization
from metalchat_engine_mlx.rope import Rope, read_rope

Options = Mapping[str, bool | int | float | str]

_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """The shape of a model. `max_position_embeddings` is the context length it was made for."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope: Rope
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    eos_token_ids: frozenset[int] = frozenset()
    quantization: Quantization = field(default_factory=Quantization)
    dtype: str | None = None

    @property
    def context_length(self) -> int:
        """The positions that the model can tell apart, with its rope scaling."""
        return self.rope.context_length(self.max_position_embeddings)

    @property
    def cache_values_per_token(self) -> int:
        """How many numbers the KV cache holds for each token."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim


class Fields:
    """Typed, ranged access to the keys of a config; `options` win over the file, key by key.

    A bad value of the file raises InvalidModel, a bad option UnsupportedRequest.
    """

    def __init__(self, document: Mapping[str, Any], what: str, options: Options | None = None) -> None:
        self.what = what
        self.options = options or {}
        self.document = {**document, **self.options}

    def refuse(self, key: str, value: object, expected: str) -> NoReturn:
        if key in self.options:
            raise UnsupportedRequest(f"option '{key}' is {shown(value)}, expected {expected}", option=key)
        raise InvalidModel(f"'{self.what}': '{key}' is {shown(value)}, expected {expected}")

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self.document.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(key, value, f"{low} to {high}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value = self.document.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.refuse(key, value, f"{low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.document.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(key, value, "true or false")
        return value

    def ids(self, key: str, vocab_size: int) -> frozenset[int]:
        """A token id or a list of 1 to 64 of them; none where the key is missing or null."""
        value = self.document.get(key)
        if value is None:
            return frozenset()
        found = value if isinstance(value, list) else [value]
        if not 1 <= len(found) <= 64 or not all(
            isinstance(item, int) and not isinstance(item, bool) and 0 <= item < vocab_size for item in found
        ):
            self.refuse(key, value, f"a token id below {vocab_size}, or a list of 1 to 64")
        return frozenset(found)


def read_config(
    document: Mapping[str, Any], *, what: str = "config.json", options: Options | None = None
) -> LlamaConfig:
    """Check a config of `model_type` llama.

    Raises:
        UnsupportedModel: another architecture, activation, or a quantisation that is not MLX's.
        InvalidModel: a value out of its range; no memory has been taken for it.
        UnsupportedRequest: an option out of its range.
    """
    fields = Fields(document, what, options)
    model_type = fields.document.get("model_type")
    if model_type != "llama":
        raise UnsupportedModel(f"'{what}': 'model_type' is {shown(model_type)}, this engine runs 'llama'")
    activation = fields.document.get("hidden_act", "silu")
    if activation != "silu":
        raise UnsupportedModel(f"'{what}': 'hidden_act' is {shown(activation)}, this engine runs 'silu'")
    hidden = fields.integer("hidden_size", 1, 65536)
    heads = fields.integer("num_attention_heads", 1, 1024)
    kv_heads = fields.integer("num_key_value_heads", 1, heads, default=heads)
    if heads % kv_heads:
        fields.refuse("num_key_value_heads", kv_heads, f"a divisor of 'num_attention_heads', which is {heads}")
    if fields.document.get("head_dim") is None and hidden % heads:
        fields.refuse("num_attention_heads", heads, f"a divisor of 'hidden_size', which is {hidden}")
    head_dim = fields.integer("head_dim", 2, 1024, default=hidden // heads)
    if head_dim % 2:
        fields.refuse("head_dim", head_dim, "an even number")
    vocab_size = fields.integer("vocab_size", 1, 2**20)
    positions = fields.integer("max_position_embeddings", 1, 2**26, default=2048)
    dtype = fields.document.get("torch_dtype", fields.document.get("dtype"))
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size", 1, 2**20),
        num_hidden_layers=fields.integer("num_hidden_layers", 1, 1000),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=fields.number("rms_norm_eps", 1e-12, 1.0, default=1e-6),
        max_position_embeddings=positions,
        rope=read_rope(fields, head_dim=head_dim, positions=positions),
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        attention_bias=fields.flag("attention_bias", False),
        mlp_bias=fields.flag("mlp_bias", False),
        eos_token_ids=fields.ids("eos_token_id", vocab_size),
        quantization=read_quantization(fields),
        dtype=dtype if dtype in _DTYPES else None,
    )
    return config


def shown(value: object) -> str:
    """A value for a message: one line of printable ASCII, cut at 60 characters."""
    if value is None:
        return "missing"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
