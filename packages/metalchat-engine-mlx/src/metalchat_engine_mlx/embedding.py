"""A text as a vector: the mean of the last hidden states of its tokens, of length one."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from metalchat_engine_mlx.cache import KVCache
from metalchat_engine_mlx.decoder import Decoder

Compute = Callable[[Callable[[Decoder], Any]], Any]


def embedding(tokens: Sequence[int], compute: Compute, chunk: int) -> list[float]:
    """`compute` runs work where the model is computed, `chunk` tokens at a time, so that others get their turn."""
    cache: KVCache = compute(lambda model: model.new_cache(most=len(tokens)))
    total: NDArray[np.float64] | None = None
    for start in range(0, len(tokens), chunk):
        piece = tokens[start : start + chunk]

        def work(model: Decoder, piece: Sequence[int] = piece) -> NDArray[np.float64]:
            states = model.states(mx.array(list(piece)), cache, model.config.regime(len(tokens)))
            summed = mx.sum(states.astype(mx.float32), axis=0)
            mx.eval(summed, cache.arrays())
            return np.array(summed, np.float64)

        found: NDArray[np.float64] = compute(work)
        total = found if total is None else total + found
    if total is None:
        raise TypeError("a text has tokens")
    length = float(np.linalg.norm(total))
    return (total / length if length > 0 else total).tolist()
