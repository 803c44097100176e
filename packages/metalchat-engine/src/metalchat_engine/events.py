"""What a model answers: a stream of events that ends with exactly one `Finish`."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]
CallProblem: TypeAlias = Literal["unknown_tool", "invalid_arguments", "malformed", "truncated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptProgress:
    """`processed` of `total` prompt tokens are in the KV cache."""

    processed: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token's id, its text (may be half a character, shown as U+FFFD) and natural-log probability."""

    token: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledToken:
    """The token that was drawn, and the likeliest alternatives, most probable first."""

    chosen: TokenLogprob
    alternatives: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """More of the answer, always whole characters. `sampled` is filled when logprobs were asked for."""

    text: str
    sampled: tuple[SampledToken, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDelta:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A whole call. `arguments` is a JSON object, as text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedToolCall:
    """A call that nobody may run. `text` is what the model wrote, `message` says in one line what is wrong with it.

    problem: "unknown_tool" (no tool of that name was declared), "invalid_arguments" (they break the tool's schema),
    "malformed" (no call can be read from it), "truncated" (the answer ended in the middle of it). `name` is empty where
    it could not be read.
    """

    id: str
    name: str
    text: str
    problem: CallProblem
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts. `cached_tokens` of the `prompt_tokens` were in the cache already.

    An engine that guesses ahead has tried `proposed_tokens`, and `accepted_tokens` of them were what the model said.
    Where a stop string ends the answer, some that follow it may be counted.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    proposed_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds, by a monotonic clock, and bytes.

    `prefill_seconds` runs from the call to the first sampled token, `decode_seconds` from there to
    the end. `peak_memory` is the largest number of bytes the engine held, None where it cannot tell.
    """

    prefill_seconds: float
    decode_seconds: float
    peak_memory: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The end of the stream. `stop` is the stop string that ended it, None for the model's own end.

    reason: "stop" (the model's end token or a stop string), "length" (`max_tokens` or the context
    length), "tool_calls" (the answer holds a `ToolCall`, which waits for a result).
    """

    reason: FinishReason
    usage: Usage
    timings: Timings
    stop: str | None = None


Event: TypeAlias = PromptProgress | TextDelta | ReasoningDelta | ToolCall | RejectedToolCall | Finish
