"""A model's output, as it comes, to text, reasoning and tool calls."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby
from typing import Literal, TypeAlias

from metalchat_engine import ReasoningDelta, RejectedToolCall, TextDelta, Tool, ToolCall

from metalchat_prompt._bodies import Body
from metalchat_prompt._calls import CallReader, new_id
from metalchat_prompt._openers import UNDECIDED, Opener, Start, Syntax, syntax
from metalchat_prompt._prose import Prose
from metalchat_prompt.formats import OutputFormat

OutputEvent: TypeAlias = TextDelta | ReasoningDelta | ToolCall | RejectedToolCall

_LONGEST_SPACE = 256
_LABELS = {"<|channel>": "thought\n"}
_NOTHING = Syntax(openers={}, first={}, markers=frozenset())


class OutputParser:
    """Parses one answer. However the text is cut, the events are the same but for where deltas are.

    Text is withheld while it may be the beginning of a call or of reasoning, and no longer. A call is one event, once
    it is whole; one that is not fit to be run is a `RejectedToolCall`. What stands in a fenced block, in quotation
    marks, in backticks or in a quotation is text, whatever it spells; so is what opens a call and goes on otherwise.
    Space around reasoning and between calls is dropped.

    `tokens` are ids of control tokens with their spelling: those spellings count only as tokens, never as text.
    `opened` says that the prompt has opened reasoning already. Nothing that a model can write raises an error, and time
    is proportional to the length of the text.
    """

    def __init__(
        self,
        layout: OutputFormat,
        tools: Sequence[Tool] = (),
        *,
        tokens: Mapping[int, str] | None = None,
        opened: bool = False,
        make_id: Callable[[], str] = new_id,
    ) -> None:
        reader = CallReader(tools, make_id)
        self._reader = reader
        self._syntax = _NOTHING if layout.calls is None or not tools else syntax(layout.calls, reader)
        self._open, self._close = layout.reasoning or ("", "")
        markers = self._syntax.markers | ({self._open, self._close} if layout.reasoning else set())
        self.tokens: Mapping[int, str] = {
            index: spelling for index, spelling in (tokens or {}).items() if spelling in markers
        }
        self._lexer = _Lexer(markers - set(self.tokens.values()))
        self._state: _State = "reasoning" if opened and layout.reasoning else "start"
        self._may_reason = bool(layout.reasoning) and not opened
        self._keeps_space = not opened
        self._space = ""
        self._held = ""
        self._spelling = ""
        self._opener: Opener | None = None
        self._body: Body | None = None
        self._prose = Prose()
        self._events: list[OutputEvent] = []
        self._thought = False
        self._label = _LABELS.get(self._open, "")
        self.called = False
        """Whether there has been a ToolCall."""

    @property
    def reasoning(self) -> bool:
        """Whether what comes next is reasoning."""
        return self._state == "reasoning"

    def push(self, text: str, token_ids: Sequence[int] = ()) -> tuple[OutputEvent, ...]:
        """Take more of the answer: text, then the control tokens that follow it. Ids not in `tokens` say nothing."""
        if self._state == "text" and not self._syntax.openers:
            self._say(self._lexer.flush() + text)
            text = ""
        for marker, piece in self._lexer.push(text) if text else ():
            if marker:
                self._marker(piece)
            else:
                self._text(piece)
        for index in token_ids:
            spelling = self.tokens.get(index)
            if spelling is not None:
                self._text(self._lexer.flush())
                self._marker(spelling)
        return self._taken()

    def finish(self, *, truncated: bool = False) -> tuple[OutputEvent, ...]:
        """The answer is over; `truncated` says that the model had more to say."""
        rest = self._lexer.flush()
        if self._state != "after" or not any(mark.startswith(rest) for mark in (*self._closers, *self._syntax.silent)):
            self._text(rest)
        match self._state:
            case "start" if self._keeps_space:
                self._say(self._space)
            case "reasoning":
                self._think(self._space)
            case "head" if truncated and self._spelling:
                message = "the answer ended in the middle of the call"
                held = self._spelling + self._held
                self._events.append(self._reader.rejected("truncated", held, message))
            case "head":
                self._say(self._space + self._spelling + self._held)
            case "body" if self._body is not None:
                self._body.end(truncated=truncated)
                self._drain(self._body)
        self._space = self._held = ""
        self._state = "text"
        return self._taken()

    @property
    def _closers(self) -> Collection[str]:
        """What may follow the call that has just ended."""
        return self._opener.closers if self._state == "after" and self._opener is not None else ()

    def _text(self, text: str) -> None:
        while text:
            match self._state:
                case "text":
                    self._say(text)
                    return
                case "reasoning":
                    self._reason(text)
                    return
                case "start" | "after":
                    text = self._begin(text)
                case "head":
                    text = self._look(text)
                case "body":
                    text = self._fill(text)

    def _begin(self, text: str) -> str:
        """Space before the first word of an answer, or of what follows a call."""
        rest = text.lstrip()
        self._space += text[: len(text) - len(rest)] if self._keeps_space else ""
        if len(self._space) > _LONGEST_SPACE:
            self._state = "text"
            rest, self._space = self._space + rest, ""
            return rest
        if not rest:
            return ""
        if self._state == "start" and rest[0] in self._syntax.first:
            self._enter(self._syntax.first[rest[0]], "")
        elif self._state == "after" and self._opener is not None and rest[0] in self._opener.again:
            self._enter(self._opener, "")
        elif self._state == "after" and self._opener is not None and self._opener.again and rest[0] in ";,":
            return rest[1:]
        else:
            self._state = "text"
            rest, self._space = self._space + rest, ""
        return rest

    def _enter(self, opener: Opener, spelling: str) -> None:
        self._opener, self._spelling, self._held = opener, spelling, ""
        self._state = "head"

    def _look(self, text: str) -> str:
        """Hold text until it is certain whether a call begins."""
        self._held += text
        opener = self._opener
        verdict = None if opener is None else opener.verdict(self._held[:UNDECIDED])
        if verdict is None and len(self._held) < UNDECIDED:
            return ""
        if isinstance(verdict, Start):
            return self._started(verdict)
        held, self._held = self._space + self._spelling + self._held, ""
        self._space = ""
        self._state = "text"
        return held

    def _started(self, start: Start) -> str:
        rest, self._held = self._held[start.at :], ""
        self._space = ""
        self._body = start.body
        self._state = "body"
        return rest

    def _fill(self, text: str) -> str:
        body = self._body
        if body is None:
            return text
        taken = body.take(text)
        self._drain(body)
        return text[taken:]

    def _drain(self, body: Body) -> None:
        self._events.extend(body.found)
        self.called = self.called or any(isinstance(call, ToolCall) for call in body.found)
        body.found.clear()
        if body.done:
            self._body = None
            self._keeps_space = False
            self._may_reason = False
            self._prose = Prose()
            self._state = "after"

    def _marker(self, spelling: str) -> None:
        match self._state:
            case "head":
                if self._opener is not None and spelling in self._opener.inner:
                    self._text(spelling)
                    return
                held = self._space + self._spelling + self._held
                self._space = self._held = ""
                self._state = "text"
                self._say(held)
                self._marker(spelling)
            case "body" if self._body is not None:
                body = self._body
                belongs = body.mark(spelling)
                self._drain(body)
                if not belongs:
                    self._marker(spelling)
            case "reasoning":
                if spelling == self._close:
                    self._space = ""
                    self._keeps_space = False
                    self._state = "start"
                elif spelling != self._open or self._thought:
                    self._reason(spelling)
            case _:
                self._plain_marker(spelling)

    def _plain_marker(self, spelling: str) -> None:
        """A marker in or before the text of an answer."""
        opener = self._syntax.openers.get(spelling)
        if spelling == self._open and self._state == "start" and self._may_reason:
            self._space, self._may_reason = "", False
            self._state = "reasoning"
        elif opener is not None and self._opens(opener):
            self._enter(opener, spelling)
            verdict = opener.verdict("")
            if isinstance(verdict, Start):
                self._started(verdict)
        elif spelling not in self._closers and (spelling not in self._syntax.silent or self._prose.quoted):
            self._space += spelling
            self._state = "text"
            held, self._space = self._space, ""
            self._say(held)

    def _opens(self, opener: Opener) -> bool:
        if opener.line_start:
            return self._prose.line_start and not self._prose.fenced
        return not self._prose.quoted

    def _say(self, text: str) -> None:
        if text:
            self._prose.feed(text)
            self._events.append(TextDelta(text=text))

    def _reason(self, text: str) -> None:
        """Lines that are empty at the beginning and at the end of reasoning are left out, and so is its label."""
        if not self._thought:
            text = self._space + text
            self._space = ""
            if self._label.startswith(text):
                self._space = text
                return
            text = text.removeprefix(self._label).lstrip("\n")
            self._thought = bool(text)
            self._label = "" if text else self._label
        text = self._space + text
        kept = text.rstrip("\n")
        whole = len(text) - (len(text) - len(kept)) % _LONGEST_SPACE
        self._space = text[whole:]
        self._think(text[:whole])

    def _think(self, text: str) -> None:
        if text:
            self._events.append(ReasoningDelta(text=text))

    def _taken(self) -> tuple[OutputEvent, ...]:
        """The events so far; neighbouring deltas become one."""
        events: list[OutputEvent] = []
        for kind, group in groupby(self._events, type):
            found = list(group)
            text = "".join(event.text for event in found if isinstance(event, TextDelta | ReasoningDelta))
            if kind is TextDelta:
                events.append(TextDelta(text=text))
            elif kind is ReasoningDelta:
                events.append(ReasoningDelta(text=text))
            else:
                events.extend(found)
        self._events.clear()
        return tuple(events)


_State: TypeAlias = Literal["start", "reasoning", "text", "head", "body", "after"]


class _Lexer:
    """Finds markers that are spelt out in text, and holds back what may be the beginning of one."""

    def __init__(self, markers: "frozenset[str] | set[str]") -> None:
        ordered = sorted(markers, key=lambda marker: (-len(marker), marker))
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        self._begun = frozenset(marker[:size] for marker in ordered for size in range(1, len(marker)))
        self._longest = max(map(len, ordered), default=0)
        self._held = ""

    def push(self, text: str) -> list[tuple[bool, str]]:
        """Pieces of text, and markers, in order."""
        if self._pattern is None:
            return [(False, text)] if text else []
        text = self._held + text
        pieces: list[tuple[bool, str]] = []
        at = 0
        for found in self._pattern.finditer(text):
            pieces += [(False, text[at : found.start()]), (True, found[0])]
            at = found.end()
        cut = len(text)
        for size in range(min(self._longest - 1, len(text) - at), 0, -1):
            if text[-size:] in self._begun:
                cut = len(text) - size
                break
        self._held = text[cut:]
        pieces.append((False, text[at:cut]))
        return [piece for piece in pieces if piece[1]]

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held
