"""A decoder of any family: many tokens of one text at a time, or one token of each of many texts."""

from collections.abc import Callable, Sequence
from itertools import accumulate

import mlx.core as mx

from metalchat_engine_mlx import blas
from metalchat_engine_mlx.attention import Attention, Periods, Spans
from metalchat_engine_mlx.cache import KVCache
from metalchat_engine_mlx.config import ExpertsSpec, FeedForwardSpec, LayerSpec, ModelConfig, NormSpec
from metalchat_engine_mlx.device import Blocks, Part
from metalchat_engine_mlx.experts import Experts
from metalchat_engine_mlx.host_step import HostRunner
from metalchat_engine_mlx.norms import Norm
from metalchat_engine_mlx.parameters import Parameters
from metalchat_engine_mlx.rope import Regime, Rope


class Decoder:
    """Building it takes the arrays out of `parameters`. `cache_bits` are those of a quantised KV cache."""

    def __init__(
        self, config: ModelConfig, parameters: Parameters, blocks: Blocks, *, cache_bits: int | None = None
    ) -> None:
        self.config = config
        self.cache_bits = cache_bits
        self._blocks, self._choice = blocks, parameters.choice
        tied = config.tie_word_embeddings or f"{config.head}.weight" not in parameters
        self._embedding, head = blocks.embedding(parameters.matrix(config.embedding), tied=tied)
        self._layers = [Layer(layer, index, parameters, blocks) for index, layer in enumerate(config.layers)]
        self._norm = Norm(config.norm, "", parameters, blocks)
        self._head: Part = head if head is not None else blocks.linear([parameters.matrix(config.head)])
        self._runner: HostRunner | None = None
        if blocks.pool is not None:
            self._runner = HostRunner(self._layers, self._norm, self._head, blocks.pool)
        self._ropes = config.ropes()
        self._periods: dict[Regime, Periods] = {}
        mx.eval(self.arrays())  # from here on nothing is read from the files
        self.nbytes = sum({id(array): array.nbytes for array in self.arrays()}.values())

    def arrays(self) -> list[mx.array]:
        parts = (self._norm, self._embedding, self._head, *self._layers)
        return [array for part in parts for array in part.arrays()]

    @property
    def scratch(self) -> Callable[[], int]:
        """What tells the bytes that are kept besides the weights, outside of MLX; it keeps no weights alive."""
        blocks = self._blocks
        return lambda: blocks.scratch_bytes

    @property
    def batch_from(self) -> int:
        """How many texts must wait for their next token for `together` to pay."""
        return self._blocks.batch_from

    def new_cache(self, adapter: str | None = None, *, most: int | None = None) -> KVCache:
        return KVCache(self.config.windows, self.cache_bits, most=most, adapter=adapter)

    def prefill(self, tokens: mx.array, cache: KVCache, regime: Regime) -> None:
        """Write the keys and values of `tokens` [n] to the cache, and evaluate them."""
        self._run(tokens, [cache], regime, logits=False)
        mx.eval(cache.arrays())

    def __call__(self, tokens: mx.array, cache: KVCache, regime: Regime) -> mx.array:
        """The logits [vocab_size] after the last of `tokens` [n]; all of them are written to the cache."""
        return self._logits(self._run(tokens, [cache], regime))[0]

    def together(
        self, tokens: mx.array, caches: Sequence[KVCache], regime: Regime, counts: Sequence[int] | None = None
    ) -> mx.array:
        """The logits [n, vocab_size] after each of `tokens` [n], all of them written to the caches.

        The next `counts` tokens belong to the text of each cache, one token where it is None.
        """
        counts = [1] * len(caches) if counts is None else counts
        return self._logits(self._run(tokens, caches, regime, counts=counts))

    def states(self, tokens: mx.array, cache: KVCache, regime: Regime) -> mx.array:
        """The last hidden states [n, hidden_size] of `tokens` [n], which the logits come from."""
        return self._norm(self._run(tokens, [cache], regime, counts=[tokens.shape[0]]))

    def _logits(self, states: mx.array) -> mx.array:
        config = self.config
        if self._runner is not None:
            logits = self._runner.logits(blas.view(states))
        else:
            logits = self._head(self._norm(states))
        if config.logit_scale != 1.0:
            logits = logits * config.logit_scale
        if config.logit_softcap is not None:
            logits = mx.tanh(logits / config.logit_softcap) * config.logit_softcap
        return logits

    def again(
        self, tokens: mx.array, regime: Regime, chunk: int, adapter: str | None = None
    ) -> tuple[mx.array, KVCache]:
        """The logits after all `tokens` [n] and a cache of its own, computed from the first on, `chunk` at a time."""
        cache, start = self.new_cache(adapter), 0
        while tokens.shape[0] - start > chunk:
            self.prefill(tokens[start : start + chunk], cache, regime)
            start += chunk
        return self(tokens[start:], cache, regime), cache

    def _run(
        self,
        tokens: mx.array,
        caches: Sequence[KVCache],
        regime: Regime,
        *,
        logits: bool = True,
        counts: Sequence[int] | None = None,
    ) -> mx.array:
        """The states after the last token, after none without `logits`, or after each where there are `counts`."""
        count = tokens.shape[0]
        self._choice.name = caches[0].adapter
        periods = self._periods.get(regime)
        if periods is None:
            # Only a dynamic rope has many regimes, one for each length; none is worth keeping.
            if len(self._periods) > 8:
                self._periods.clear()
            periods = self._periods[regime] = {rope: _periods(rope, regime) for rope in self._ropes}
        x = self._embedding(tokens)
        if self.config.embedding_scale != 1.0:
            x = x * self.config.embedding_scale
        if self._runner is not None:
            own = [count] if counts is None else counts
            wanted = int(logits) if counts is None else count
            x = blas.array(self._runner.states(x, caches, own, periods, wanted))
        else:
            x = self._through(x, caches, periods, logits, counts)
        for cache, own in zip(caches, [count] if counts is None else counts, strict=True):
            cache.length += own
        return x

    def _through(
        self, x: mx.array, caches: Sequence[KVCache], periods: Periods, logits: bool, counts: Sequence[int] | None
    ) -> mx.array:
        """x [n, hidden] through all layers."""
        count = x.shape[0]
        last = len(self._layers) - 1
        spans = None if counts is None or len(caches) == 1 or count == len(caches) else _spans(counts)
        several = len(caches) > 1 and spans is None
        offset = mx.array([cache.length for cache in caches]) if several else caches[0].length
        for index, layer in enumerate(self._layers):
            # Of the last layer nothing is needed but the keys and values, and the states that logits come from.
            wanted = count if counts is not None or index < last else int(logits)
            x = layer(x, caches, periods, offset, wanted, spans)
        return x


class Layer:
    """Attention and feed-forward, each between its norms and added to its input."""

    def __init__(self, spec: LayerSpec, index: int, parameters: Parameters, blocks: Blocks) -> None:
        prefix = f"{spec.name}."

        def norm(found: NormSpec | None) -> Norm | None:
            return None if found is None else Norm(found, prefix, parameters, blocks)

        self.parallel, self.residual = spec.parallel, spec.residual
        self.attention = Attention(spec.attention, index, prefix, parameters, blocks)
        self.feed_forward = _feed_forward(spec.feed_forward, prefix, parameters, blocks)
        self.before_attention, self.after_attention = norm(spec.before_attention), norm(spec.after_attention)
        self.before_feed_forward = norm(spec.before_feed_forward)
        self.after_feed_forward = norm(spec.after_feed_forward)
        mx.eval(self.arrays())

    def arrays(self) -> list[mx.array]:
        norms = (
            self.before_attention,
            self.after_attention,
            self.before_feed_forward,
            self.after_feed_forward,
        )
        parts = (self.attention, self.feed_forward, *(norm for norm in norms if norm is not None))
        return [array for part in parts for array in part.arrays()]

    def __call__(
        self,
        x: mx.array,
        caches: Sequence[KVCache],
        periods: Periods,
        offset: int | mx.array,
        wanted: int,
        spans: Spans = None,
    ) -> mx.array:
        """x [n, hidden] to the states of the last `wanted` tokens; the other arguments are those of `Attention`."""
        normed = x if self.before_attention is None else self.before_attention(x)
        attended = self.attention(normed, caches, periods, offset, wanted, spans)
        if attended is None:
            return x
        if self.after_attention is not None:
            attended = self.after_attention(attended)
        if wanted < x.shape[0]:
            x = x[-wanted:]
        if self.residual != 1.0:
            attended = attended * self.residual
        between = x + attended
        inner = x if self.parallel else between
        if self.before_feed_forward is not None:
            inner = self.before_feed_forward(inner)
        fed = self.feed_forward(inner)
        if self.after_feed_forward is not None:
            fed = self.after_feed_forward(fed)
        return between + (fed if self.residual == 1.0 else fed * self.residual)


def _feed_forward(spec: FeedForwardSpec | ExpertsSpec, prefix: str, parameters: Parameters, blocks: Blocks) -> Part:
    if isinstance(spec, ExpertsSpec):
        return Experts(spec, prefix, parameters, blocks)
    gate, up = spec.gate, spec.up
    if spec.fused is not None:
        both = parameters.matrix(prefix + spec.fused.name)
        inner = both.rows // 2
        gates, ups = both.select_rows(0, inner), both.select_rows(inner, 2 * inner)
    elif up is not None:
        gates = None if gate is None else parameters.matrix(prefix + gate.name)
        ups = parameters.matrix(prefix + up.name)
    else:
        raise TypeError("a feed-forward has an up projection")
    return blocks.feed_forward(gates, ups, parameters.matrix(prefix + spec.down.name), spec.activation)


def _spans(counts: Sequence[int]) -> list[tuple[int, int]]:
    ends = list(accumulate(counts))
    return list(zip([0, *ends], ends, strict=False))


def _periods(rope: Rope, regime: Regime) -> mx.array:
    return mx.array(rope.periods(regime), dtype=mx.float32)
