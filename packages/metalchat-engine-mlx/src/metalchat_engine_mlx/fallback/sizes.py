"""The sizes of a model that only mlx-lm knows, told from its config and its headers before anything is built of it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from metalchat_engine_mlx.fallback.library import Family
from metalchat_engine_mlx.fields import Fields
from metalchat_engine_mlx.models._base import MAX_POSITIONS
from metalchat_engine_mlx.weights import Tensor

# The families have different names for the same number. What sees pictures, too, has its text model in a table.
_TABLES = ("text_config", "language_config", "llm_config")
_VOCABULARY = ("vocab_size", "padded_vocab_size", "n_vocab")
_HIDDEN = ("hidden_size", "d_model", "n_embd", "model_dim", "dim", "hidden_dim")
_LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "num_transformer_layers")
_HEADS = ("num_attention_heads", "n_heads", "n_head", "num_heads", "num_query_heads")
_KV_HEADS = ("num_key_value_heads", "n_kv_heads", "num_kv_heads", "num_global_key_value_heads")
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length",
              "max_context_length", "model_max_length", "context_length", "seq_length", "max_seq_length")  # fmt: skip
_HEAD_DIMS = ("head_dim", "qk_head_dim", "v_head_dim", "global_head_dim", "swa_head_dim", "swa_v_head_dim")
_STATES = ("state_size", "ssm_state_size", "mamba_d_state", "d_state", "head_dim", "linear_key_head_dim")
_CONVOLUTIONS = ("conv_kernel", "d_conv", "mamba_d_conv", "linear_conv_kernel_dim", "conv_L_cache", "conv1d_width")
_INNER = re.compile("inner|intermediate|ffn|d_ssm")
# mlx-lm makes a Python object for each of what these count.
_COUNTS = re.compile(r"(^|_)(layers?|experts?|blocks?|loops?|groups?|heads?|inputs|embedders?)$")
_MOST_COUNTED, _MOST_LAYERS = 4096, 1024
_LARGEST = 2**31
_NO_POSITIONS = 2**15
_NUMBER = re.compile(r"^(?:Optional\[)?(?:int|float)(?:\s*\|\s*(?:int|float|None))*\]?$")
_TEXT = re.compile(r"^(?:Optional\[)?str(?:\s*\|\s*None)?\]?$")
_NUMBERED = re.compile(r"(?:^|\.)(\d{1,9})\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """At most so much. `token_values` are the numbers that the cache holds of a token, in all layers together, and
    `state_values` those that it holds of a text of any length; `inner` features has a token at once between layers.
    """

    vocab_size: int
    hidden: int
    layers: int
    heads: int
    inner: int
    token_values: int
    state_values: int
    context_length: int


def check_numbers(fields: Fields, family: Family, tensors: Mapping[str, Tensor]) -> None:
    """Refuse what mlx-lm would stumble over, or never come to the end of.

    Raises InvalidModel for a key that is missing or of the wrong type, for more layers than there are tensors or than
    1024, for more than 4096 of anything else that is counted, and for a number from 2^31 on.
    """
    document = fields.document
    for key in sorted(family.required):
        if document.get(key) is None:
            fields.refuse(key, None, f"what mlx-lm {family.version} needs for '{family.model_type}'")
    for key, kind in family.fields.items():
        value = document.get(key)
        if value is None:
            continue
        if _NUMBER.match(kind) and not isinstance(value, int | float):
            fields.refuse(key, value, "a number")
        if _TEXT.match(kind) and not isinstance(value, str):
            fields.refuse(key, value, "a text")
    layers = min(len(tensors), _MOST_LAYERS)
    for key, value in document.data.items():
        if not family.fields or key in family.fields:
            for name, number in _numbers(key, value):
                most = _LARGEST
                if _COUNTS.search(name):
                    most = layers if "layer" in name else _MOST_COUNTED
                if number > most and "theta" not in name:
                    fields.refuse(key, number, f"at most {most}")


def read_sizes(fields: Fields, family: Family, tensors: Mapping[str, Tensor]) -> Sizes:
    """Raises InvalidModel for a number out of its range, or one that cannot be told."""
    tables = [
        fields,
        *(fields.nested(table) for name in _TABLES if isinstance(table := fields.document.get(name), dict)),
    ]

    def integer(names: Sequence[str], low: int, high: int, default: int | None = None) -> int:
        for table in tables:
            for name in names:
                if isinstance(value := table.document.get(name), list) and value:
                    return max(table.nested({name: item}).integer(name, low, high) for item in value)
                if value is not None:
                    return table.integer(name, low, high)
        return fields.integer(names[0], low, high, default)

    def largest(names: Sequence[str], default: int) -> int:
        found = [integer([name], 0, _LARGEST, 0) for name in names]
        return max(*found, default)

    vocab_size = integer(_VOCABULARY, 1, 2**24)
    hidden = integer(_HIDDEN, 1, 2**20)
    layers = max(integer(_LAYERS, 0, _MOST_LAYERS, 0), _numbered(tensors)) * integer(["num_loops"], 1, 64, 1)
    heads = integer(_HEADS, 1, _MOST_COUNTED, max(hidden // 64, 1))
    split = integer(["qk_nope_head_dim"], 0, 2**16, 0) + integer(["qk_rope_head_dim"], 0, 2**16, 0)
    head_dim = largest(_HEAD_DIMS, max(hidden // heads, split))
    latent = integer(["kv_lora_rank"], 0, 2**20, 0) + split
    # With keys in two parts, each head has its own, whatever is said of shared ones.
    kv_heads = heads if split else integer(_KV_HEADS, 1, _MOST_COUNTED, heads)
    cached = max(2 * kv_heads * head_dim, 2 * latent)
    cached += integer(["index_head_dim"], 0, 2**16, 0)
    named = [
        number
        for table in tables
        for key, value in table.document.data.items()
        if _INNER.search(key)
        for _, number in _numbers(key, value)
        if number < 2**24
    ]
    wide = max(2 * hidden, heads * head_dim, *named)
    state = largest(_STATES, 64) + 2 * largest(_CONVOLUTIONS, 4)
    used = integer(["num_experts_per_tok", "moe_topk", "moe_top_k", "top_k_experts"], 0, _MOST_COUNTED, 0)
    return Sizes(
        vocab_size=vocab_size,
        hidden=hidden,
        layers=layers,
        heads=heads,
        inner=max([4 * hidden, *(number * max(used, 1) for number in named)]),
        token_values=layers * cached if family.attends else 0,
        state_values=layers * wide * state if family.recurs else 0,
        context_length=integer(_POSITIONS, 1, MAX_POSITIONS, _NO_POSITIONS),
    )


def parameters(tensors: Mapping[str, Tensor], bits: Mapping[str, int]) -> int:
    """How many weights there are; `bits` are those of each packed module."""
    total = 0
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        if module in bits:
            total += (
                prod(tensor.shape) * 32 // bits[module] if part == "weight" else prod(tensor.shape) * (part == "bias")
            )
        elif name.endswith("_blocks") and tensor.dtype == "U8":
            total += 2 * prod(tensor.shape)
        elif not (name.endswith("_scales") and tensor.dtype == "U8"):
            total += prod(tensor.shape)
    return total


def _numbered(tensors: Mapping[str, Tensor]) -> int:
    """How many layers the names of the tensors tell of."""
    found = [int(match[1]) for name in tensors if (match := _NUMBERED.search(name))]
    return min(max(found, default=-1) + 1, len(tensors))


def _numbers(key: str, value: Any) -> Iterator[tuple[str, int]]:
    """Every integer in a value, with the key that it stands under."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(str(name), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers("", inner)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield key, value
