"""Attention: its projections, norms, rotation and scores, as the spec of a layer says."""

from collections.abc import Mapping, Sequence

import mlx.core as mx

from metalchat_engine_mlx.cache import KVCache
from metalchat_engine_mlx.config import AttentionSpec
from metalchat_engine_mlx.device import Blocks
from metalchat_engine_mlx.norms import Norm, norm_weight
from metalchat_engine_mlx.parameters import Parameters
from metalchat_engine_mlx.rope import Rope

Periods = Mapping[Rope, mx.array]
Spans = Sequence[tuple[int, int]] | None


class Attention:
    """Layer number `index` of the cache is this one's."""

    def __init__(self, spec: AttentionSpec, index: int, prefix: str, parameters: Parameters, blocks: Blocks) -> None:
        self._spec, self._index = spec, index
        self._attend = blocks.attention
        self._rotated = spec.heads + spec.kv_heads
        matrices = [parameters.matrix(prefix + linear.name) for linear in spec.projections]
        if spec.by_head:
            matrices = [matrix.take_rows(_head_order(spec)) for matrix in matrices]
        self._projection = blocks.linear(matrices)
        del matrices
        self._output = blocks.linear([parameters.matrix(prefix + spec.output.name)])
        self._scale = spec.scale
        self._magnitude: mx.array | None = None
        if spec.rope is not None and spec.rope.attention_factor != 1.0:
            # What yarn and longrope multiply rotated queries and keys by, both of them.
            if spec.rope.dims == spec.head_dim:
                self._scale *= spec.rope.attention_factor**2
            else:
                rest = spec.head_dim - spec.rope.dims
                factors = [spec.rope.attention_factor] * spec.rope.dims + [1.0] * rest
                self._magnitude = blocks.vector(mx.array(factors, dtype=mx.float32))
        self._norms: tuple[Norm, Norm] | None = None
        self._head_norms: mx.array | None = None
        queries, keys = spec.query_norm, spec.key_norm
        if queries is not None and keys is not None:
            if queries.size == spec.head_dim:
                weights = [norm_weight(queries, prefix, parameters, blocks)] * spec.heads
                weights += [norm_weight(keys, prefix, parameters, blocks)] * spec.kv_heads
                self._head_norms = mx.stack(weights)[:, None]
                self._eps = queries.eps
            else:
                self._norms = (Norm(queries, prefix, parameters, blocks), Norm(keys, prefix, parameters, blocks))

    def arrays(self) -> list[mx.array]:
        parts = (self._projection, self._output, *(self._norms or ()))
        own = [array for array in (self._magnitude, self._head_norms) if array is not None]
        return own + [array for part in parts for array in part.arrays()]

    def __call__(
        self,
        x: mx.array,
        caches: Sequence[KVCache],
        periods: Periods,
        offset: int | mx.array,
        wanted: int,
        spans: Spans = None,
    ) -> mx.array | None:
        """x [n, hidden] to what is added for the last `wanted` tokens, None for none.

        One cache gets all n tokens, which begin at `offset`; several get one each, at its own of the offsets [n]. Or
        each gets those of its own of the `spans`, and all are wanted.
        """
        spec, count, heads, rotated = self._spec, x.shape[0], self._spec.heads, self._rotated
        qkv = self._projection(x)
        if self._norms is not None:
            bounds = [heads * spec.head_dim, rotated * spec.head_dim]
            queries, keys, values = mx.split(qkv, bounds, axis=-1)
            qkv = mx.concatenate([self._norms[0](queries), self._norms[1](keys), values], axis=-1)
        several = len(caches) > 1 and spans is None
        texts = count if several else 1
        qkv = qkv.reshape(texts, count // texts, rotated + spec.kv_heads, spec.head_dim).transpose(0, 2, 1, 3)
        turned = qkv[:, :rotated]
        if self._head_norms is not None:
            turned = mx.fast.rms_norm(turned, None, self._eps) * self._head_norms
        if spans is None:
            turned = self._turned(turned, periods, offset)
        own = wanted if texts == 1 else 1
        pieces = []
        for text, cache in enumerate(caches):
            # One text keeps its arrays as they are: a slice would be one more step of the graph.
            mine, all_ = (qkv[text : text + 1], turned[text : text + 1]) if several else (qkv, turned)
            if spans is not None:
                start, stop = spans[text]
                mine, own = qkv[:, :, start:stop], stop - start
                all_ = self._turned(turned[:, :, start:stop], periods, cache.length)
            keys, values = cache.update(self._index, all_[:, heads:], mine[:, rotated:])
            if own:
                pieces.append(self._look(all_[:, :heads], keys, values, own))
        if not pieces:
            return None
        attended = pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=0 if spans is None else 2)
        return self._output(attended.transpose(0, 2, 1, 3).reshape(wanted, heads * spec.head_dim))

    def _turned(self, values: mx.array, periods: Periods, offset: int | mx.array) -> mx.array:
        """Queries and keys, rotated."""
        rope = self._spec.rope
        if rope is None:
            return values
        turned = mx.fast.rope(
            values, rope.dims, traditional=False, base=None, scale=1.0, offset=offset, freqs=periods[rope]
        )
        return turned if self._magnitude is None else turned * self._magnitude

    def _look(self, queries: mx.array, keys: mx.array, values: mx.array, wanted: int) -> mx.array:
        if wanted < queries.shape[2]:
            queries = queries[:, :, -wanted:]
        spec = self._spec
        return self._attend(queries, keys, values, self._scale, window=spec.window, softcap=spec.softcap)


def _head_order(spec: AttentionSpec) -> mx.array:
    """The rows (head, query or key or value, dim) in the order (query or key or value, head, dim)."""
    rows = mx.arange(3 * spec.heads * spec.head_dim)
    return rows.reshape(spec.heads, 3, spec.head_dim).transpose(1, 0, 2).reshape(-1)
