"""How the next token is drawn from the logits, in float32."""

import copy
import math
from collections.abc import Sequence

import mlx.core as mx
from metalchat_engine import Sampling

from metalchat_engine_mlx.defaults import Defaults


class Sampler:
    """The choice of tokens for one request. Its random numbers come from a key of its own, never from a shared state.

    `prompt` is what the repetition penalty counts besides the answer; presence and frequency count the answer alone.
    """

    def __init__(
        self, sampling: Sampling, defaults: Defaults, *, prompt: Sequence[int], vocab_size: int, seed: int
    ) -> None:
        def choose(given: float | None, default: float | None, neutral: float) -> float:
            return given if given is not None else default if default is not None else neutral

        self._temperature = choose(sampling.temperature, defaults.temperature, 1.0)
        self._top_p = choose(sampling.top_p, defaults.top_p, 1.0)
        self._top_k = int(choose(sampling.top_k, defaults.top_k, 0))
        self._min_p = choose(sampling.min_p, defaults.min_p, 0.0)
        self._repetition = choose(sampling.repetition_penalty, defaults.repetition_penalty, 1.0)
        self._presence = sampling.presence_penalty or 0.0
        self._frequency = sampling.frequency_penalty or 0.0
        self._key = mx.random.key(seed) if self._temperature > 0 else None
        self._bias: mx.array | None = None
        if sampling.logit_bias:
            ids = mx.array(list(sampling.logit_bias))
            self._bias = (
                mx.zeros(vocab_size).at[ids].add(mx.array(list(sampling.logit_bias.values()), dtype=mx.float32))
            )
        self._seen: mx.array | None = None
        if self._repetition != 1.0:
            self._seen = mx.zeros(vocab_size, dtype=mx.bool_)
            self._seen[mx.array(list(set(prompt)))] = True
        self._counts: mx.array | None = mx.zeros(vocab_size) if self._presence or self._frequency else None

    def __call__(self, logits: mx.array, allowed: mx.array | None = None) -> mx.array:
        """The next token id, a scalar; lazily, so that the step that needs it can be built before it is known.

        `allowed` says of every token whether it may be drawn.
        """
        logits = self._adjusted(logits.astype(mx.float32))
        if allowed is not None:
            logits = mx.where(allowed, logits, -mx.inf)
        if self._key is None:
            token = mx.argmax(logits)
        else:
            self._key, key = mx.random.split(self._key)
            logits = (logits - mx.max(logits)) * (1 / max(self._temperature, 1e-6))
            token = mx.random.categorical(self._narrowed(logits), key=key)
        if self._seen is not None:
            self._seen[token] = True
        if self._counts is not None:
            self._counts[token] += 1
        return token

    def copy(self) -> "Sampler":
        """One that would draw the same from the same logits; neither notices what the other draws."""
        other = copy.copy(self)
        other._seen = None if self._seen is None else mx.array(self._seen)
        other._counts = None if self._counts is None else mx.array(self._counts)
        return other

    def _adjusted(self, logits: mx.array) -> mx.array:
        if self._seen is not None:
            penalised = mx.where(logits > 0, logits / self._repetition, logits * self._repetition)
            logits = mx.where(self._seen, penalised, logits)
        if self._counts is not None:
            logits = logits - self._presence * (self._counts > 0) - self._frequency * self._counts
        return logits if self._bias is None else logits + self._bias

    def _narrowed(self, logits: mx.array) -> mx.array:
        """Logits of what top-k, then top-p, then min-p leave; minus infinity elsewhere."""
        size = logits.shape[0]
        if 0 < self._top_k < size:
            smallest = mx.min(mx.topk(logits, self._top_k))
            logits = mx.where(logits < smallest, -mx.inf, logits)
        if self._top_p < 1.0:
            descending = -mx.sort(-logits)
            before = mx.cumsum(mx.softmax(descending), inclusive=False)
            smallest = mx.min(mx.where(before < self._top_p, descending, mx.inf))
            logits = mx.where(logits < smallest, -mx.inf, logits)
        if self._min_p > 0.0:
            if self._min_p >= 1.0:
                return mx.where(logits < mx.max(logits), -mx.inf, logits)
            logits = mx.where(logits < mx.max(logits) + math.log(self._min_p), -mx.inf, logits)
        return logits
