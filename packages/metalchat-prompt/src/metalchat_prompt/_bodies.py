"""The text of calls under way: each body knows where its calls end, and takes any cut of its text."""

import re
from collections.abc import Callable, Collection
from typing import Protocol, TypeAlias

from metalchat_engine import RejectedToolCall, ToolCall

from metalchat_prompt._calls import LONGEST, CallReader

Found: TypeAlias = ToolCall | RejectedToolCall
_NAME = re.compile(r'"name"\s{0,8}:\s{0,8}"([^"\\]{1,128})"')


class Body(Protocol):
    """`found` are the calls that are whole; whoever reads them takes them away. `done` says that the body has ended."""

    found: list[Found]
    done: bool

    def take(self, text: str) -> int:
        """Take the next text; how many characters of it belong here."""
        ...

    def mark(self, spelling: str) -> bool:
        """A marker came: whether it belongs here."""
        ...

    def end(self, *, truncated: bool) -> None:
        """The answer is over."""
        ...


class _Collected:
    """Text that is kept up to a limit."""

    def __init__(self, reader: CallReader) -> None:
        self.found: list[Found] = []
        self.done = False
        self._reader = reader
        self._parts: list[str] = []
        self._size = 0

    def _keep(self, text: str) -> None:
        if text:
            if self._size < LONGEST:
                self._parts.append(text)
            self._size += len(text)

    def _text(self) -> str:
        text = "".join(self._parts)[:LONGEST]
        self._parts.clear()
        self._size = 0
        return text

    def _read(self, read: Callable[[str], Found | list[Found]]) -> None:
        """Makes calls of what was kept."""
        long = self._size > LONGEST
        text = self._text()
        if long:
            self.found.append(self._reader.rejected("malformed", text, f"the call has over {LONGEST} characters"))
            return
        made = read(text)
        self.found.extend(made if isinstance(made, list) else [made])

    def _broken(self, *, truncated: bool) -> None:
        text = self._text()
        name = _NAME.search(text[:4096])
        message = "the answer ended in the middle of the call" if truncated else "the call does not end as it must"
        kind = "truncated" if truncated else "malformed"
        self.found.append(self._reader.rejected(kind, text, message, name=name[1] if name else ""))


class JsonBody(_Collected):
    """An object, or a list of objects, each of which is a call for `make`."""

    def __init__(self, reader: CallReader, make: Callable[[str], Found] | None = None) -> None:
        super().__init__(reader)
        self._make = make or reader.json_call
        self._depth = self._base = 0
        self._quoted = self._escaped = self._any = False

    def take(self, text: str) -> int:
        start = 0
        for at, character in enumerate(text):
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._quoted = False
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                if character == "[" and self._depth == 0:
                    self._base, start = 1, at + 1
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == self._base and character == "}":
                    self._any = True
                    self._keep_object(text[start : at + 1])
                    start = at + 1
                    self._read(self._make)
                if self._depth <= 0:
                    self._keep_object(text[start:at])
                    if self._parts:
                        self._broken(truncated=False)
                    self.done = True
                    return at + 1
        self._keep_object(text[start:])
        return len(text)

    def mark(self, spelling: str) -> bool:
        if self._quoted:
            self.take(spelling)
            return True
        if self._parts:
            self._broken(truncated=False)
        self.done = True
        return False

    def end(self, *, truncated: bool) -> None:
        if self._parts or (truncated and not self._any):
            self._broken(truncated=truncated)
        self.done = True

    def _keep_object(self, text: str) -> None:
        # Between the objects of a list there are commas and space.
        self._keep(text if self._parts else text.lstrip(" \t\r\n,"))


class PythonBody(_Collected):
    """`[f(a=1), g()]`, up to the bracket that closes it."""

    def __init__(self, reader: CallReader) -> None:
        super().__init__(reader)
        self._depth = 0
        self._quote = ""
        self._escaped = False

    def take(self, text: str) -> int:
        for at, character in enumerate(text):
            if self._quote:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == self._quote:
                    self._quote = ""
            elif character in "'\"":
                self._quote = character
            elif character in "([{":
                self._depth += 1
            elif character in ")]}":
                self._depth -= 1
                if self._depth <= 0:
                    self._keep(text[: at + 1])
                    self._read(self._reader.python)
                    self.done = True
                    return at + 1
        self._keep(text)
        return len(text)

    def mark(self, spelling: str) -> bool:
        if self._quote:
            self.take(spelling)
            return True
        self.end(truncated=False)
        return False

    def end(self, *, truncated: bool) -> None:
        self._broken(truncated=truncated)
        self.done = True


class RawBody(_Collected):
    """All text up to a marker out of `closers`, or up to the end of the answer."""

    def __init__(
        self,
        reader: CallReader,
        read: Callable[[str], Found | list[Found]],
        *,
        closers: Collection[str] = (),
        inner: Collection[str] | None = None,
    ) -> None:
        super().__init__(reader)
        self._reads, self._closers, self._inner = read, closers, inner

    def take(self, text: str) -> int:
        self._keep(text)
        return len(text)

    def mark(self, spelling: str) -> bool:
        if spelling not in self._closers:
            if self._inner is None or spelling in self._inner:
                self._keep(spelling)
                return True
            self._broken(truncated=False)
        else:
            self._read(self._reads)
        self.done = True
        return spelling in self._closers

    def end(self, *, truncated: bool) -> None:
        if truncated:
            self._broken(truncated=True)
        else:
            self._read(self._reads)
        self.done = True


class XmlBody(_Collected):
    """`<function=f><parameter=a>…</parameter></function>`; in a parameter, other markers are text."""

    def __init__(self, reader: CallReader) -> None:
        super().__init__(reader)
        self._inside = False

    def take(self, text: str) -> int:
        self._keep(text)
        return len(text)

    def mark(self, spelling: str) -> bool:
        if spelling in ("<parameter=", "</parameter>"):
            self._inside = spelling == "<parameter="
        elif not self._inside:
            if spelling == "</function>":
                self._keep(spelling)
            self._read(self._reader.xml)
            self.done = True
            return spelling in ("</function>", "</tool_call>")
        self._keep(spelling)
        return True

    def end(self, *, truncated: bool) -> None:
        if truncated or self._inside:
            self._broken(truncated=truncated)
        else:
            self._read(self._reader.xml)
        self.done = True


class FenceBody(_Collected):
    """Calls in Python, up to three backticks at the start of a line."""

    def __init__(self, reader: CallReader) -> None:
        super().__init__(reader)
        self._ticks = 0  # of the closing fence so far; -1 where a line has begun with something else

    def take(self, text: str) -> int:
        for at, character in enumerate(text):
            if character == "`" and self._ticks >= 0:
                self._ticks += 1
                if self._ticks == 3:
                    self._keep(text[: at + 1])
                    self._read(lambda fenced: self._reader.python(fenced.removesuffix("```")))
                    self.done = True
                    return at + 1
            else:
                self._ticks = 0 if character == "\n" else -1
        self._keep(text)
        return len(text)

    def mark(self, spelling: str) -> bool:
        self.take(spelling)
        return True

    def end(self, *, truncated: bool) -> None:
        if truncated:
            self._broken(truncated=True)
        else:
            self._read(self._reader.python)
        self.done = True
