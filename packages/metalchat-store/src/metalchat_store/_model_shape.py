"""What a configuration says about the size of a model, each number checked before anything is computed from it."""

from collections.abc import Mapping
from dataclasses import dataclass

from metalchat_store.errors import NotAModel

PREFILL = 512
"""Tokens of a prompt that are computed together."""

_LIMITS = {
    "num_hidden_layers": 1000,
    "hidden_size": 1 << 20,
    "num_attention_heads": 1 << 14,
    "num_key_value_heads": 1 << 14,
    "head_dim": 1 << 14,
    "vocab_size": 1 << 24,
    "intermediate_size": 1 << 22,
    "max_position_embeddings": 1 << 40,
}
_OTHER_NAMES = {
    "num_hidden_layers": ("n_layer", "n_layers"),
    "hidden_size": ("n_embd", "d_model"),
    "num_attention_heads": ("n_head",),
    "max_position_embeddings": ("n_positions", "n_ctx", "max_sequence_length"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The numbers that decide how much memory a model takes; None for what is not said."""

    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    vocabulary: int | None = None
    intermediate: int | None = None
    context: int | None = None

    @property
    def cache_values(self) -> int | None:
        """Numbers that keys and values of one token have in all layers. Windows, which drop some, are not counted."""
        heads = self.kv_heads or self.heads
        head = self.head_dim
        if head is None and self.hidden is not None and self.heads is not None:
            head = self.hidden // self.heads
        return None if self.layers is None or heads is None or head is None else 2 * self.layers * heads * head

    @property
    def working_bytes(self) -> int:
        """About what the largest layer needs while 512 tokens of a prompt are computed, and the logits, in float32."""
        hidden, inner = self.hidden or 0, self.intermediate or 4 * (self.hidden or 0)
        return 4 * (PREFILL * (6 * hidden + 2 * inner) + (self.vocabulary or 0))


def shape_of(config: Mapping[str, object], where: str = "config.json") -> Shape:
    """The shape that a `config.json` describes, or its `text_config` where the model reads more than text.

    Raises `NotAModel` for a number that no model has.
    """
    inner = config.get("text_config")
    if "hidden_size" not in config and isinstance(inner, Mapping):
        config = {**config, **inner}

    def number(key: str) -> int | None:
        for name in (key, *_OTHER_NAMES.get(key, ())):
            value = config.get(name)
            if value is None:
                continue
            if type(value) is not int or not 1 <= value <= _LIMITS[key]:
                shown = value if isinstance(value, int | float | bool) else "not a number"
                raise NotAModel(f"'{where}': '{name}' is {str(shown)[:40]}, expected 1 to {_LIMITS[key]:,}")
            return value
        return None

    return Shape(
        layers=number("num_hidden_layers"),
        hidden=number("hidden_size"),
        heads=number("num_attention_heads"),
        kv_heads=number("num_key_value_heads"),
        head_dim=number("head_dim"),
        vocabulary=number("vocab_size"),
        intermediate=number("intermediate_size"),
        context=number("max_position_embeddings"),
    )


def gguf_config(facts: Mapping[str, object]) -> dict[str, object]:
    """The same facts from the metadata of a GGUF file, under the names of a `config.json`."""
    family = facts.get("general.architecture")
    names = {
        "num_hidden_layers": "block_count",
        "hidden_size": "embedding_length",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "head_dim": "attention.key_length",
        "vocab_size": "vocab_size",
        "intermediate_size": "feed_forward_length",
        "max_position_embeddings": "context_length",
    }
    found = {key: facts.get(f"{family}.{name}") for key, name in names.items()}
    return {key: value for key, value in found.items() if value is not None}
