"""The layers of a decoder in NumPy, for weights of float32: one thread, and none of MLX's, waits for nobody."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from metalchat_engine_mlx import blas
from metalchat_engine_mlx.device import Part
from metalchat_engine_mlx.gemm import Floats
from metalchat_engine_mlx.norms import Norm
from metalchat_engine_mlx.pool import Pool
from metalchat_engine_mlx.rope import Rope

if TYPE_CHECKING:
    from metalchat_engine_mlx.attention import Attention, Periods
    from metalchat_engine_mlx.cache import KVCache
    from metalchat_engine_mlx.decoder import Layer

Step = Callable[[Floats], Floats]
# The cosines and sines of every token [n, 1, dims / 2], by rope.
Turns = Mapping[Rope, tuple[Floats, Floats]]


def step_of(part: Part) -> Step:
    """What a part does to NumPy's arrays: its own `on_host` where it has one."""
    own: Step | None = getattr(part, "on_host", None)
    return own if own is not None else lambda x: blas.view(part(blas.array(x)))


class HostLayer:
    """What `Layer` does."""

    def __init__(self, layer: "Layer", pool: Pool) -> None:
        self._parallel, self._residual = layer.parallel, layer.residual
        self._attention = HostAttention(layer.attention, pool)
        self._feed_forward = step_of(layer.feed_forward)
        self._before_attention, self._after_attention = _norm(layer.before_attention), _norm(layer.after_attention)
        self._before_feed_forward = _norm(layer.before_feed_forward)
        self._after_feed_forward = _norm(layer.after_feed_forward)

    def __call__(
        self, x: Floats, caches: "Sequence[KVCache]", counts: Sequence[int], turns: Turns, wanted: int
    ) -> Floats:
        """x [n, hidden] to the states of the last `wanted`; `counts` of them belong to the text of each cache."""
        attended = self._attention(self._before_attention(x), caches, counts, turns, wanted)
        if attended is None:
            return x
        attended = self._after_attention(attended)
        x = x[len(x) - wanted :]
        between = x + self._scaled(attended)
        fed = self._feed_forward(self._before_feed_forward(x if self._parallel else between))
        return between + self._scaled(self._after_feed_forward(fed))

    def _scaled(self, added: Floats) -> Floats:
        return added if self._residual == 1.0 else np.multiply(added, self._residual, dtype=np.float32)


class HostAttention:
    """What `Attention` does."""

    def __init__(self, attention: "Attention", pool: Pool) -> None:
        self._spec, self._index, self._scale = attention.spec, attention.index, attention.scale
        self._pool = pool
        self._projection, self._output = step_of(attention.projection), step_of(attention.output)
        self._norms = None if attention.norms is None else (_norm(attention.norms[0]), _norm(attention.norms[1]))
        # Of each head: [heads, dim].
        self._head_norms = None if attention.head_norms is None else blas.view(attention.head_norms)[:, 0]
        self._eps = attention.eps
        self._magnitude = None if attention.magnitude is None else blas.view(attention.magnitude)

    def __call__(
        self, x: Floats, caches: "Sequence[KVCache]", counts: Sequence[int], turns: Turns, wanted: int
    ) -> Floats | None:
        spec, heads, dim = self._spec, self._spec.heads, self._spec.head_dim
        rotated = heads + spec.kv_heads
        qkv = self._projection(x)
        if self._norms is not None:
            queries, keys, values = np.split(qkv, [heads * dim, rotated * dim], axis=1)
            qkv = np.concatenate([self._norms[0](queries), self._norms[1](keys), values], axis=1)
        qkv = qkv.reshape(len(x), -1, dim)
        turned = qkv[:, :rotated]
        if self._head_norms is not None:
            turned = blas.rms_norm(turned, self._head_norms, self._eps)
        if spec.rope is not None:
            turned = blas.rotated(turned, *turns[spec.rope])
            if self._magnitude is not None:
                turned *= self._magnitude
        attended = [
            found
            for found in self._looked(turned, qkv[:, rotated:], caches, counts, wanted, len(x))
            if found is not None
        ]
        if not attended:
            return None
        return self._output(attended[0] if len(attended) == 1 else np.concatenate(attended))

    def _looked(
        self,
        turned: Floats,
        values: Floats,
        caches: "Sequence[KVCache]",
        counts: Sequence[int],
        wanted: int,
        total: int,
    ) -> Iterator[Floats | None]:
        """What the wanted tokens of each text see."""
        spec, heads, start = self._spec, self._spec.heads, 0
        for cache, count in zip(caches, counts, strict=True):
            stop = start + count
            mine = turned[start:stop].transpose(1, 0, 2)
            keys, seen = cache.write(self._index, mine[heads:], values[start:stop].transpose(1, 0, 2))
            first = max(total - wanted - start, 0)
            queries, start = mine[:heads, first:], stop
            if not queries.shape[1]:
                yield None
                continue
            keys, seen = _shown(keys, queries.shape[1], spec.window), _shown(seen, queries.shape[1], spec.window)
            found = blas.attend(queries, keys, seen, self._scale, self._pool, window=spec.window, softcap=spec.softcap)
            yield found.transpose(1, 0, 2).reshape(queries.shape[1], -1)


def _norm(norm: Norm | None) -> Step:
    if norm is None:
        return lambda x: x
    weight, bias, eps = blas.view(norm.weight), None if norm.bias is None else blas.view(norm.bias), norm.eps
    if norm.is_rms:
        return lambda x: blas.rms_norm(x, weight, eps)
    return lambda x: blas.layer_norm(x, weight, bias, eps)


def _shown(values: Floats, tokens: int, window: int | None) -> Floats:
    """Of keys or values those that some of the last `tokens` see."""
    return values if window is None else values[:, max(values.shape[1] - window - tokens + 1, 0) :]


class HostRunner:
    """All layers, and what is before and behind them."""

    def __init__(self, layers: "Sequence[Layer]", norm: Norm, head: Part, pool: Pool) -> None:
        self._layers = [HostLayer(layer, pool) for layer in layers]
        self._norm, self._head = _norm(norm), step_of(head)

    def states(
        self, x: mx.array, caches: "Sequence[KVCache]", counts: Sequence[int], periods: "Periods", wanted: int
    ) -> Floats:
        """x [n, hidden] to the states of the last `wanted` tokens."""
        found = blas.view(x)
        places = [np.arange(cache.length, cache.length + count) for cache, count in zip(caches, counts, strict=True)]
        tokens = np.concatenate(places).astype(np.float32)[:, None, None]
        angles = {rope: tokens * (1 / blas.view(each)) for rope, each in periods.items()}
        turns = {rope: (np.cos(each), np.sin(each)) for rope, each in angles.items()}
        for layer in self._layers[:-1]:
            found = layer(found, caches, counts, turns, len(found))
        return self._layers[-1](found, caches, counts, turns, wanted)

    def logits(self, states: Floats) -> mx.array:
        return blas.array(self._head(self._norm(states)))
