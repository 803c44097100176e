"""One whole answer, gathered from a model's events."""

from collections.abc import Iterable
from dataclasses import dataclass

from metalchat_engine.engine import Model
from metalchat_engine.events import Event, Finish, PromptProgress, ReasoningDelta, SampledToken, TextDelta, ToolCall
from metalchat_engine.request import GenerationRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The events of one generation, in order, and what they add up to."""

    events: tuple[Event, ...]

    @property
    def pieces(self) -> tuple[str, ...]:
        """The texts of the deltas, the empty ones left out."""
        return tuple(event.text for event in self.events if isinstance(event, TextDelta) and event.text)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def reasoning(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, ReasoningDelta))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(event for event in self.events if isinstance(event, ToolCall))

    @property
    def sampled(self) -> tuple[SampledToken, ...]:
        return tuple(token for event in self.events if isinstance(event, TextDelta) for token in event.sampled)

    @property
    def progress(self) -> tuple[PromptProgress, ...]:
        return tuple(event for event in self.events if isinstance(event, PromptProgress))

    @property
    def finish(self) -> Finish:
        """The last event; an AssertionError if it is not the only `Finish`."""
        finishes = [event for event in self.events if isinstance(event, Finish)]
        assert len(finishes) == 1, f"a stream must hold exactly one Finish, this one holds {len(finishes)}"
        assert self.events[-1] is finishes[0], "Finish must be the last event of a stream"
        return finishes[0]


def collect(model: Model, request: GenerationRequest) -> Answer:
    """Run one generation to its end."""
    events: Iterable[Event] = model.generate(request)
    return Answer(events=tuple(events))
