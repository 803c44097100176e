"""The files of a Hugging Face model that Meta's will become, as far as `params.json` tells before weights come."""

import json
import math

from metalchat_store.checkpoint.llama import header, renamed, shapes
from metalchat_store.checkpoint.model import PARAMS, Traits
from metalchat_store.checkpoint.params import Params, config, read_params
from metalchat_store.errors import NotAModel

_WIDTH = 2  # bytes of a value: Meta gives out bfloat16
_DTYPE = "BF16"


def preview(data: bytes, size: int, traits: Traits) -> tuple[bytes, bytes, int]:
    """`config.json`, the beginning of `model.safetensors`, and the size of that.

    `data` is `params.json`, `size` that of all checkpoints, which tells whether the head is the embedding. The ids of
    special tokens, which the tokenizer has, are left at 0. Raises `NotAModel`.
    """
    params = read_params(data)
    vocabulary, intermediate = _sizes(data, params)
    choices = [_tensors(params, vocabulary, intermediate, tied=tied) for tied in (True, False)]
    lengths = [sum(length for *_, length in tensors) for tensors in choices]
    tied = abs(size - lengths[0]) <= abs(size - lengths[1])
    beginning = header(choices[0] if tied else choices[1])
    settings = config(
        params,
        vocabulary=vocabulary,
        intermediate=intermediate,
        dtype=_DTYPE,
        tied=tied,
        context=traits.context,
        factor=traits.rope_factor,
        first_special=0,
        stops=(0,),
    )
    return json.dumps(settings).encode(), beginning, len(beginning) + (lengths[0] if tied else lengths[1])


def _tensors(
    params: Params, vocabulary: int, intermediate: int, *, tied: bool
) -> list[tuple[str, str, tuple[int, ...], int]]:
    found = shapes(params, vocabulary=vocabulary, intermediate=intermediate, tied=tied)
    return [(renamed(name), _DTYPE, shape, _WIDTH * math.prod(shape)) for name, shape, _ in found]


def _sizes(data: bytes, params: Params) -> tuple[int, int]:
    """Rows of the embedding, and width of the feed-forward, which Meta's code computes in this way."""
    value = json.loads(data)
    vocabulary, multiple, factor = (value.get(key) for key in ("vocab_size", "multiple_of", "ffn_dim_multiplier"))
    if type(vocabulary) is not int or not 0 < vocabulary <= 1 << 20:
        raise NotAModel(f"'{PARAMS}' does not say how many tokens there are")
    known = factor is None or (isinstance(factor, int | float) and 0 < factor < 1000)
    if type(multiple) is not int or not 0 < multiple <= 1 << 20 or not known:
        raise NotAModel(f"'{PARAMS}' does not say how wide the feed-forward is")
    width = int(2 * 4 * params.dim / 3)
    width = width if factor is None else int(factor * width)
    if not 0 < width <= 1 << 20:
        raise NotAModel(f"'{PARAMS}' has a feed-forward wider than any known model's")
    return vocabulary, -(-width // multiple) * multiple
