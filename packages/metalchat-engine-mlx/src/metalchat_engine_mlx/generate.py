"""One answer: the prompt in chunks, then token by token, each step built while the one before it runs."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import mlx.core as mx
from metalchat_engine import (
    Event,
    Finish,
    FinishReason,
    PromptProgress,
    SampledToken,
    TextDelta,
    Timings,
    TokenLogprob,
    Usage,
)

from metalchat_engine_mlx import blas
from metalchat_engine_mlx.cache import KVCache
from metalchat_engine_mlx.constraints import Guide
from metalchat_engine_mlx.decoder import Decoder
from metalchat_engine_mlx.reply import Reply
from metalchat_engine_mlx.rope import Regime
from metalchat_engine_mlx.sampling import Sampler

if TYPE_CHECKING:
    from metalchat_prompt import OutputEvent, Tokenizer


Keep = Callable[[KVCache, Sequence[int], Regime, int], None]


@dataclass(slots=True)
class Draw:
    """A token that is being computed, and what was asked to be known about it."""

    token: mx.array
    chosen: mx.array | None = None
    best: mx.array | None = None
    best_logprobs: mx.array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that one answer depends on. `limit` is the largest number of answer tokens, at least 1."""

    tokens: Sequence[int]
    limit: int
    chunk: int
    stop_ids: frozenset[int]
    logprobs: int | None
    started: float


class Answer:
    """Runs a plan on a model. `tokens` are those whose keys and values the cache holds, once a step is over.

    `regime` is that of the prompt, or of all tokens where they were computed again.
    """

    def __init__(
        self,
        model: Decoder,
        plan: Plan,
        cache: KVCache,
        sampler: Sampler,
        reply: Reply,
        vocabulary: "Tokenizer",
        turn: "Turn",
        *,
        guide: Guide | None = None,
        keep: Keep | None = None,
        checkpoint: int = 0,
    ) -> None:
        self._keep, self._checkpoint = keep, checkpoint
        self._model, self._plan, self.cache, self._sampler = model, plan, cache, sampler
        self._reply, self._vocabulary, self._turn, self._guide = reply, vocabulary, turn, guide
        self._known = list(plan.tokens)
        self._sampled: list[SampledToken] = []
        self.regime = model.config.regime(len(plan.tokens))

    @property
    def tokens(self) -> list[int]:
        return self._known[: self.cache.length]

    def events(self) -> Iterator[Event]:
        plan = self._plan
        total, cached = len(plan.tokens), self.cache.length
        if cached:
            yield PromptProgress(processed=cached, total=total)
        regime, guide = self.regime, self._guide
        start = cached
        while start < self._checkpoint or total - start > plan.chunk:
            end = start + plan.chunk
            if start < self._checkpoint:
                end = min(end, self._checkpoint)
            with self._turn():
                self._model.prefill(mx.array(list(plan.tokens[start:end])), self.cache, regime)
                if end == self._checkpoint and self._keep is not None:
                    self._keep(self.cache, plan.tokens[:end], regime, end - cached)
            start = end
            yield PromptProgress(processed=start, total=total)
        with self._turn():
            draw = self._draw(self._model(mx.array(list(plan.tokens[start:])), self.cache, regime))
            draw.token.item()
        first = time.perf_counter()
        yield PromptProgress(processed=total, total=total)
        if self._keep is not None:
            with self._turn():
                self._keep(self.cache, plan.tokens, regime, total - cached)

        reason: FinishReason = "length"
        count = 0
        while count < plan.limit:
            with self._turn():
                last = count + 1 == plan.limit
                following = None if last or guide is not None else self._following(draw)
                token = _integer(draw.token)
                if guide is not None and token not in plan.stop_ids:
                    # The next token depends on this one: its mask is made while the model computes.
                    guide.accept(token)
                    following = None if last or guide.done else self._following(draw)
                self._known.append(token)
            if token in plan.stop_ids:
                reason = "stop"
                break
            count += 1
            if plan.logprobs is not None:
                self._sampled.append(self._described(token, draw))
            yield from self._told(self._reply.push(token))
            if self._reply.stopped or (guide is not None and guide.done):
                reason = "stop"
            if following is None or self._reply.stopped:
                break
            draw = following
        yield from self._told(self._reply.finish(truncated=reason == "length"))
        if self._reply.stopped:
            reason = "stop"
        if self._sampled:
            yield TextDelta(text="", sampled=self._taken())
        yield Finish(
            reason="tool_calls" if self._reply.called else reason,
            usage=Usage(prompt_tokens=total, completion_tokens=count, cached_tokens=cached),
            timings=Timings(
                prefill_seconds=first - plan.started,
                decode_seconds=time.perf_counter() - first,
                peak_memory=mx.get_peak_memory() + self._model.scratch_bytes,
            ),
            stop=self._reply.stop,
        )

    def _following(self, draw: Draw) -> Draw:
        config = self._model.config
        regime = config.regime(self.cache.length + 1)
        token = draw.token.reshape(1)
        if config.recomputes and regime != self.regime:
            known = mx.concatenate([mx.array(self._known), token.astype(mx.int32)])
            logits, self.cache = self._model.again(known, regime, self._plan.chunk)
            self.regime = regime
        else:
            logits = self._model(token, self.cache, regime)
        return self._draw(logits)

    def _draw(self, logits: mx.array) -> Draw:
        allowed = None
        if self._guide is not None:
            mx.async_eval(logits)
            allowed = blas.array(self._guide.mask())
        draw = Draw(self._sampler(logits, allowed))
        wanted = self._plan.logprobs
        if wanted is None:
            mx.async_eval(draw.token)
            return draw
        logits = logits.astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits)
        draw.chosen = logprobs[draw.token]
        wanted = min(wanted, logprobs.shape[0])
        draw.best = mx.argpartition(-logprobs, wanted - 1)[:wanted] if wanted else mx.zeros(0, dtype=mx.uint32)
        draw.best_logprobs = logprobs[draw.best]
        mx.async_eval(draw.token, draw.chosen, draw.best, draw.best_logprobs)
        return draw

    def _described(self, token: int, draw: Draw) -> SampledToken:
        if draw.chosen is None or draw.best is None or draw.best_logprobs is None:
            raise TypeError("the token was drawn without logprobs")
        with self._turn():
            chosen = numbers(draw.chosen.reshape(1))[0]
            ids, logprobs = numbers(draw.best), numbers(draw.best_logprobs)
        pairs = sorted(zip(logprobs, ids, strict=True), key=lambda pair: (-pair[0], pair[1]))
        return SampledToken(
            chosen=self._token(token, chosen),
            alternatives=tuple(self._token(int(index), logprob) for logprob, index in pairs),
        )

    def _token(self, token: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(token=token, text=self._vocabulary.decode([token]), logprob=logprob)

    def _told(self, events: "Sequence[OutputEvent]") -> Iterator[Event]:
        """The events, and with the first text the tokens that were drawn since the last."""
        for event in events:
            yield replace(event, sampled=self._taken()) if isinstance(event, TextDelta) and self._sampled else event

    def _taken(self) -> tuple[SampledToken, ...]:
        sampled = tuple(self._sampled)
        self._sampled.clear()
        return sampled


class Turn(Protocol):
    """Gives the model to this thread for one step. Raises ModelClosed once it is closed."""

    def __call__(self) -> AbstractContextManager[None]: ...


def _integer(scalar: mx.array) -> int:
    value = scalar.item()
    if not isinstance(value, int):
        raise TypeError("a token is a whole number")
    return value


def numbers(vector: mx.array) -> list[float]:
    """The values of a vector."""
    values = vector.tolist()
    if not isinstance(values, list):
        raise TypeError("a vector is a list of numbers")
    return [float(value) for value in values if isinstance(value, int | float)]
