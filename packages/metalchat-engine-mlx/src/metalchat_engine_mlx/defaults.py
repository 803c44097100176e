"""How a model wants to be sampled and where it ends: its generation_config.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metalchat_engine_mlx.fields import Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What generation_config.json asks for where a request does not say."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    eos_token_ids: frozenset[int] = field(default_factory=frozenset)


def read_defaults(document: Mapping[str, Any], vocab_size: int) -> Defaults:
    """Check a generation_config.json; raises InvalidModel for values out of range."""
    fields = Fields(document, "generation_config.json")

    def optional(key: str, low: float, high: float) -> float | None:
        return None if document.get(key) is None else fields.number(key, low, high)

    greedy = document.get("do_sample") is not None and not fields.flag("do_sample", True)
    return Defaults(
        temperature=0.0 if greedy else optional("temperature", 0.0, 100.0),
        top_p=optional("top_p", 1e-6, 1.0),
        top_k=None if document.get("top_k") is None else fields.integer("top_k", 0, 2**31),
        min_p=optional("min_p", 0.0, 1.0),
        repetition_penalty=optional("repetition_penalty", 0.01, 100.0),
        eos_token_ids=fields.ids("eos_token_id", vocab_size),
    )
