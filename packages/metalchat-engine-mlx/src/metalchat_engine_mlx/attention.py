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
        self.spec, self.index = spec, index
        self._attend = blocks.attention
        self._rotated = spec.heads + spec.kv_heads
        matrices = [parameters.matrix(prefix + linear.name) for linear in spec.projections]
        if spec.by_head:
            matrices = [matrix.take_rows(_head_order(spec)) for matrix in matrices]
        self.projection = blocks.linear(matrices)
        del matrices
        self.output = blocks.linear([parameters.matrix(prefix + spec.output.name)])
        self.scale = spec.scale
        self.magnitude: mx.array | None = None
        if spec.rope is not None and spec.rope.attention_factor != 1.0:
            # What yarn and longrope multiply rotated queries and keys by, both of them.
            if spec.rope.dims == spec.head_dim:
                self.scale *= spec.rope.attention_factor**2
            else:
                rest = spec.head_dim - spec.rope.dims
                factors = [spec.rope.attention_factor] * spec.rope.dims + [1.0] * rest
                self.magnitude = blocks.vector(mx.array(factors, dtype=mx.float32))
        self.norms: tuple[Norm, Norm] | None = None
        self.head_norms: mx.array | None = None
        self.eps = 0.0
        queries, keys = spec.query_norm, spec.key_norm
        if queries is not None and keys is not None:
            if queries.size == spec.head_dim:
                weights = [norm_weight(queries, prefix, parameters, blocks)] * spec.heads
                weights += [norm_weight(keys, prefix, parameters, blocks)] * spec.kv_heads
                self.head_norms = mx.stack(weights)[:, None]
                self.eps = queries.eps
            else:
                self.norms = (Norm(queries, prefix, parameters, blocks), Norm(keys, prefix, parameters, blocks))

    def arrays(self) -> list[mx.array]:
        parts = (self.projection, self.output, *(self.norms or ()))
        own = [array for array in (self.magnitude, self.head_norms) if array is not None]
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
        spec, count, heads, rotated = self.spec, x.shape[0], self.spec.heads, self._rotated
        qkv = self.projection(x)
        if self.norms is not None:
            bounds = [heads * spec.head_dim, rotated * spec.head_dim]
            queries, keys, values = mx.split(qkv, bounds, axis=-1)
            qkv = mx.concatenate([self.norms[0](queries), self.norms[1](keys), values], axis=-1)
        several = len(caches) > 1 and spans is None
        texts = count if several else 1
        qkv = qkv.reshape(texts, count // texts, rotated + spec.kv_heads, spec.head_dim).transpose(0, 2, 1, 3)
        turned = qkv[:, :rotated]
        if self.head_norms is not None:
            turned = mx.fast.rms_norm(turned, None, self.eps) * self.head_norms
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
            keys, values = cache.update(self.index, all_[:, heads:], mine[:, rotated:])
            if own:
                pieces.append(self._look(all_[:, :heads], keys, values, own))
        if not pieces:
            return None
        attended = pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=0 if spans is None else 2)
        return self.output(attended.transpose(0, 2, 1, 3).reshape(wanted, heads * spec.head_dim))

    def _turned(self, values: mx.array, periods: Periods, offset: int | mx.array) -> mx.array:
        """Queries and keys, rotated."""
        rope = self.spec.rope
        if rope is None:
            return values
        turned = mx.fast.rope(
            values, rope.dims, traditional=False, base=None, scale=1.0, offset=offset, freqs=periods[rope]
        )
        return turned if self.magnitude is None else turned * self.magnitude

    def _look(self, queries: mx.array, keys: mx.array, values: mx.array, wanted: int) -> mx.array:
        if wanted < queries.shape[2]:
            queries = queries[:, :, -wanted:]
        spec = self.spec
        return self._attend(queries, keys, values, self.scale, window=spec.window, softcap=spec.softcap)


def _head_order(spec: AttentionSpec) -> mx.array:
    """The rows (head, query or key or value, dim) in the order (query or key or value, head, dim)."""
    rows = mx.arange(3 * spec.heads * spec.head_dim)
    return rows.reshape(spec.heads, 3, spec.head_dim).transpose(1, 0, 2).reshape(-1)
