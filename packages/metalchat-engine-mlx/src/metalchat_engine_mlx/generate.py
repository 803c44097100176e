"""One answer as its asker sees it: tokens in the order in which they were drawn, turned into events."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

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

from metalchat_engine_mlx.drawing import Drawn
from metalchat_engine_mlx.outbox import End, Outbox, Progress
from metalchat_engine_mlx.reply import Reply

if TYPE_CHECKING:
    from metalchat_prompt import OutputEvent, Tokenizer


class Answer:
    """Runs in the thread that asked. `check_open` raises once the model is closed; `peak` tells the peak of memory."""

    def __init__(
        self,
        outbox: Outbox,
        reply: Reply,
        vocabulary: "Tokenizer",
        *,
        prompt_tokens: int,
        logprobs: bool,
        started: float,
        check_open: Callable[[], None],
        peak: Callable[[], int],
    ) -> None:
        self._outbox, self._reply, self._vocabulary = outbox, reply, vocabulary
        self._total, self._logprobs, self._started = prompt_tokens, logprobs, started
        self._check_open, self._peak = check_open, peak
        self._sampled: list[SampledToken] = []

    def events(self) -> Iterator[Event]:
        reason: FinishReason = "length"
        count = cached = 0
        first = self._started
        for item in self._items():
            if isinstance(item, Progress):
                if item.cached:
                    cached = item.processed
                first = time.perf_counter()
                yield PromptProgress(processed=item.processed, total=self._total)
            elif isinstance(item, Drawn):
                count += 1
                if self._logprobs:
                    self._sampled.append(self._described(item))
                yield from self._told(self._reply.push(item.token))
                if self._reply.stopped:
                    break
            else:
                reason = item.reason
        self._outbox.cancel()
        if self._reply.stopped:
            reason = "stop"
        yield from self._told(self._reply.finish(truncated=reason == "length"))
        if self._reply.stopped:
            reason = "stop"
        if self._sampled:
            yield TextDelta(text="", sampled=self._taken())
        yield Finish(
            reason="tool_calls" if self._reply.called else reason,
            usage=Usage(
                prompt_tokens=self._total,
                completion_tokens=count,
                cached_tokens=cached,
                proposed_tokens=self._outbox.proposed,
                accepted_tokens=self._outbox.accepted,
            ),
            timings=Timings(
                prefill_seconds=first - self._started,
                decode_seconds=time.perf_counter() - first,
                peak_memory=self._peak(),
            ),
            stop=self._reply.stop,
        )

    def _items(self) -> Iterator[Progress | Drawn | End]:
        """What is computed, up to the end. Raises what has gone wrong, and ModelClosed once the model is closed."""
        while True:
            self._check_open()
            item = self._outbox.take()
            self._check_open()
            if isinstance(item, BaseException):
                raise item
            yield item
            if isinstance(item, End):
                return

    def _described(self, drawn: Drawn) -> SampledToken:
        if drawn.chosen is None:
            raise TypeError("the token was drawn without logprobs")
        return SampledToken(
            chosen=self._token(drawn.token, drawn.chosen),
            alternatives=tuple(self._token(token, logprob) for token, logprob in drawn.best),
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
