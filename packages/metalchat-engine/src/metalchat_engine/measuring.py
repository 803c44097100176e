"""How fast a model answers, alone and in company, through nothing but the contract."""

import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from metalchat_engine.engine import Model
from metalchat_engine.errors import ContextTooLong
from metalchat_engine.events import Finish, TextDelta
from metalchat_engine.request import GenerationRequest, Sampling

# Words that most vocabularies hold whole.
_WORDS = tuple(
    word
    for line in (
        "time year people way day man thing woman life child world school state family student group country problem",
        "part place case week company system program question work government number night point home water room hand",
        "area money story fact month lot right study book eye job word business issue side kind head house service",
    )
    for word in line.split()
)
_SAMPLE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The mean of some runs and their standard deviation, 0 for a single one."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Raises ZeroDivisionError for no values."""
        mean = math.fsum(values) / len(values)
        squares = math.fsum((value - mean) ** 2 for value in values)
        return cls(mean=mean, deviation=math.sqrt(squares / max(len(values) - 1, 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One answer; `started` is when it was asked for, and `said_at` when each piece came, by the clock of `measure`."""

    text: str
    started: float
    said_at: tuple[float, ...]
    finish: Finish

    @property
    def first(self) -> float:
        return self.started + self.finish.timings.prefill_seconds

    @property
    def ended(self) -> float:
        return self.first + self.finish.timings.decode_seconds

    def tokens_after(self, moment: float) -> float:
        """How many tokens came after the first, and after a moment: those of the pieces that did, about."""
        tokens = self.finish.usage.completion_tokens
        if moment <= self.first:
            return max(tokens - 1, 0)
        return tokens * sum(said > moment for said in self.said_at) / max(len(self.said_at), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRun:
    """Answers that were asked for at once."""

    answers: tuple[Timed, ...]

    @property
    def prompt_tokens(self) -> int:
        return sum(answer.finish.usage.prompt_tokens for answer in self.answers)

    @property
    def completion_tokens(self) -> int:
        return sum(answer.finish.usage.completion_tokens for answer in self.answers)

    @property
    def first_token_seconds(self) -> float:
        """The mean time from a call to its first token."""
        return sum(answer.finish.timings.prefill_seconds for answer in self.answers) / len(self.answers)

    @property
    def prefill_rate(self) -> float | None:
        """Prompt tokens that were computed, a second, from the first call to the first token of the last answer."""
        cached = sum(answer.finish.usage.cached_tokens for answer in self.answers)
        seconds = max(answer.first for answer in self.answers) - min(answer.started for answer in self.answers)
        return _rate(self.prompt_tokens - cached, seconds)

    @property
    def decode_rate(self) -> float | None:
        """Answer tokens a second, all answers together, from when each has its first token to the end of all."""
        begun = max(answer.first for answer in self.answers)
        tokens = sum(answer.tokens_after(begun) for answer in self.answers)
        return _rate(tokens, max(answer.ended for answer in self.answers) - begun)

    @property
    def peak_memory(self) -> int | None:
        """Bytes, None where the engine cannot tell."""
        return max((answer.finish.timings.peak_memory or 0 for answer in self.answers), default=0) or None


def measure(
    model: Model, requests: Sequence[GenerationRequest], *, clock: Callable[[], float] = time.perf_counter
) -> BatchRun:
    """Ask for all answers at once, each in a thread of its own. Raises what the first that failed raised."""
    found: list[Timed | BaseException | None] = [None] * len(requests)
    ready = threading.Barrier(len(requests))

    def ask(place: int) -> None:
        try:
            ready.wait()
            found[place] = _timed(model, requests[place], clock)
        except BaseException as error:  # noqa: BLE001 - raised again where the result is wanted
            found[place] = error

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(1, len(requests))]
    for thread in threads:
        thread.start()
    ask(0)
    for thread in threads:
        thread.join()
    for answer in found:
        if isinstance(answer, BaseException):
            raise answer
    return BatchRun(answers=tuple(answer for answer in found if isinstance(answer, Timed)))


def bench(
    model: Model, *, prompt_tokens: int, output_tokens: int, batches: Sequence[int] = (1,), runs: int = 3
) -> Iterator[BatchRun]:
    """`runs` times in turn, a run of each of the `batches`: the number of requests at once.

    Prompts are random words, about `prompt_tokens` long and never the same, so that no cache has seen them; answers are
    greedy, and end at `output_tokens` unless the model ends them before. What happens before the first run that is
    yielded is not counted. Raises ContextTooLong where these lengths do not fit.
    """
    room = model.info.context_length
    if prompt_tokens + output_tokens > room:
        raise ContextTooLong(
            f"{prompt_tokens} prompt tokens and {output_tokens} output tokens do not fit the context length of {room};"
            " lower one of them",
            option="context_length",
        )
    numbers = random.Random(0)  # noqa: S311 - nothing here is a secret
    sample = min(prompt_tokens, _SAMPLE)
    warm = measure(model, [_request(_words(numbers, sample), 2)])
    words = max(round(prompt_tokens * sample / max(warm.prompt_tokens, 1)), 1)
    for _ in range(runs):
        for size in batches:
            yield measure(model, [_request(_words(numbers, words), output_tokens) for _ in range(size)])


def _request(prompt: str, tokens: int) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, sampling=Sampling(temperature=0), max_tokens=tokens)


def _words(numbers: random.Random, count: int) -> str:
    return " ".join(numbers.choices(_WORDS, k=count))


def _timed(model: Model, request: GenerationRequest, clock: Callable[[], float]) -> Timed:
    started = clock()
    said: list[str] = []
    said_at: list[float] = []
    finish: Finish | None = None
    for event in model.generate(request):
        if isinstance(event, TextDelta):
            said.append(event.text)
            said_at.append(clock())
        elif isinstance(event, Finish):
            finish = event
    if finish is None:
        raise RuntimeError("the engine ended a stream without a Finish")
    return Timed(text="".join(said), started=started, said_at=tuple(said_at), finish=finish)


def _rate(tokens: float, seconds: float) -> float | None:
    return tokens / seconds if tokens > 0 and seconds > 0 else None
