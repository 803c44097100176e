"""Renders a conversation so that no control token in the result was spelt by a message, a tool or a variable.

What is spelt out in a message is hidden before rendering: one character of it becomes a private-use character that
stands in for it. In the rendered text the tokenizer then sees the control tokens that the template wrote and no others;
the stand-ins are put back into the pieces between them, which are encoded as plain text.

A message may also end with the beginning of a control token that a neighbour completes. Hiding such ends can change
what a template does (one that compares a type with `object` where `<|object_ref_start|>` is a token), so it is done in
a second rendering, which counts only if it has other control tokens than the first one. A template that changes the
letters of a message, by `lower` for instance, can still write a token that the message did not spell.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from metalchat_prompt._control import ControlTokens, Span
from metalchat_prompt.errors import ConversationRefused, InvalidTemplate
from metalchat_prompt.tokenizer import AddedToken, Tokenizer

# What this package wrote itself, and templates compare: who speaks, and what kind of part it is.
_OURS = frozenset({"role", "type"})
# Below these keys everything came from somebody else.
_THEIRS = frozenset({"function", "arguments"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What a template is given."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None
    variables: Mapping[str, Any]


class _Level(IntEnum):
    WHOLE = 0
    EDGES = 1
    PARTS = 2


def guarded_text(
    render: Callable[[Conversation], str], conversation: Conversation, tokenizer: Tokenizer, *, source: str
) -> str | list[str | AddedToken]:
    """The rendered text, or its pieces where a message would otherwise have become a control token.

    `source` is the text of the template, which the stand-ins keep clear of.
    """
    hider = _Hider(tokenizer, conversation, source)
    whole = hider.hide(conversation, _Level.WHOLE)
    text = render(whole)
    parts = hider.hide(conversation, _Level.PARTS)
    if parts != whole:
        try:
            careful = render(parts)
        except (ConversationRefused, InvalidTemplate):
            # The template compared one of the parts with something; the edges alone are never compared.
            careful = render(hider.hide(conversation, _Level.EDGES))
        if tokenizer.control.count(careful) != tokenizer.control.count(text):
            text = careful
    if not hider.hidden(text):
        return text
    return _pieces(text, hider, tokenizer)


def _pieces(text: str, hider: "_Hider", tokenizer: Tokenizer) -> list[str | AddedToken]:
    pieces: list[str | AddedToken] = []
    last = 0
    for start, end, token in tokenizer.control_spans(text):
        # A normaliser that drops private-use characters would see through a stand-in.
        if not hider.hidden(text[start:end]):
            pieces += [hider.reveal(text[last:start]), token]
            last = end
    return [*pieces, hider.reveal(text[last:])]


class _Hider:
    """Swaps characters for stand-ins that occur nowhere in the conversation, the template or the control tokens."""

    def __init__(self, tokenizer: Tokenizer, conversation: Conversation, source: str) -> None:
        self._tokenizer = tokenizer
        self._conversation = conversation
        self._source = source
        self._free: Iterator[str] | None = None
        self._stand_ins: dict[str, str] = {}
        self._originals: dict[str, str] = {}

    def hide(self, conversation: Conversation, level: _Level) -> Conversation:
        messages = []
        for message in conversation.messages:
            # A model's own turn may use the markup that is not special, such as `<think>`.
            own = message["role"] == "assistant"
            control = self._tokenizer.control_special if own else self._tokenizer.control
            messages.append(self._value(message, control, level, _OURS))
        control = self._tokenizer.control
        return Conversation(
            messages=messages,
            tools=None if conversation.tools is None else self._value(conversation.tools, control, level, _OURS),
            variables=self._value(conversation.variables, control, level, frozenset()),
        )

    def hidden(self, text: str) -> bool:
        """Whether a stand-in is in the text."""
        return any(stand_in in text or _escaped(stand_in) in text for stand_in in self._originals)

    def reveal(self, text: str) -> str:
        """The text with the characters that were hidden; `tojson(ensure_ascii=True)` may have escaped a stand-in."""
        for stand_in, original in self._originals.items():
            text = text.replace(stand_in, original).replace(_escaped(stand_in), original)
        return text

    def _value(self, value: Any, control: ControlTokens, level: _Level, ours: frozenset[str]) -> Any:
        if isinstance(value, str):
            return self._text(value, control, level)
        if isinstance(value, Mapping):
            return {
                self._text(key, control, _Level.WHOLE) if isinstance(key, str) else key: item
                if key in ours
                else self._value(item, control, level, frozenset() if key in _THEIRS else ours)
                for key, item in value.items()
            }
        if isinstance(value, Sequence):
            return [self._value(item, control, level, ours) for item in value]
        return value

    def _text(self, text: str, control: ControlTokens, level: _Level) -> str:
        while spans := control.whole(text):
            before, text = text, self._swap(text, spans)
            if text == before:
                break  # a normaliser that turns stand-ins into markup; no span with a stand-in in it is believed
        if level is _Level.WHOLE:
            return text
        # Templates trim what they are given.
        bare = text.strip()
        start = len(text) - len(text.lstrip())
        spans = control.edges(text) + [(start + first, start + last) for first, last in control.edges(bare)]
        if level is _Level.PARTS and (control.inside(text) or control.inside(bare)):
            spans.append((start, start + len(bare)) if bare else (0, len(text)))
        return self._swap(text, spans) if spans else text

    def _swap(self, text: str, spans: list[Span]) -> str:
        characters = list(text)
        for start, end in spans:
            place = _place(text, start, end)
            characters[place] = self._stand_in(characters[place])
        return "".join(characters)

    def _stand_in(self, character: str) -> str:
        if character in self._originals:
            return character
        if character not in self._stand_ins:
            stand_in = next(self._unused(), None)
            if stand_in is None:
                raise ConversationRefused("the conversation uses every private-use character there is")
            self._stand_ins[character] = stand_in
            self._originals[stand_in] = character
        return self._stand_ins[character]

    def _unused(self) -> Iterator[str]:
        if self._free is None:
            taken = "".join(_strings(self._conversation)) + self._source
            used = set(taken) | self._tokenizer.control.characters
            lowered = taken.lower() if "\\u" in taken.lower() else ""
            places = (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))
            self._free = (
                character
                for character in map(chr, places)
                if character not in used and _escaped(character) not in lowered
            )
        return self._free


def _place(text: str, start: int, end: int) -> int:
    """The character to swap: rather punctuation, which no template turns into upper case, quotes or trims."""
    places = range(start, end)
    fit = [place for place in places if text[place].isprintable() and text[place] not in ' "\\']
    return next((place for place in fit if not text[place].isalnum()), next(iter(fit), start))


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Conversation):
        yield from _strings([value.messages, value.tools, value.variables])
    elif isinstance(value, Mapping):
        yield from _strings([*value.keys(), *value.values()])
    elif isinstance(value, Sequence):
        for item in value:
            yield from _strings(item)
