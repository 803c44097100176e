"""What a conversation is made of: messages and their parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPart:
    """Plain text, never markup: a special token spelt out in it stays text."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePart:
    """An encoded image, for engines that declare the `images` capability."""

    data: bytes
    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningPart:
    """What the model thought before it answered; part of an assistant's message."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallPart:
    """A call the model asked for. `arguments` is a JSON object, as text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResultPart:
    """What a tool answered to the call of the same id."""

    call_id: str
    name: str
    content: str
    is_error: bool = False


Part: TypeAlias = TextPart | ImagePart | ReasoningPart | ToolCallPart | ToolResultPart


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn: who speaks, and what in what order."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text parts, joined; reasoning, calls and results are left out."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @classmethod
    def system(cls, text: str) -> "Message":
        return cls(role="system", parts=(TextPart(text=text),))

    @classmethod
    def user(cls, text: str) -> "Message":
        return cls(role="user", parts=(TextPart(text=text),))

    @classmethod
    def assistant(cls, text: str) -> "Message":
        return cls(role="assistant", parts=(TextPart(text=text),))


def _no_parameters() -> dict[str, Any]:
    return {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function the model may call. `parameters` is a JSON Schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Any] = field(default_factory=_no_parameters)
