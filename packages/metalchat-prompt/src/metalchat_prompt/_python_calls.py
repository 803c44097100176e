"""Calls as Python would write them, `f(a=1, b="x")`, read without running anything."""

import re
from dataclasses import dataclass, field
from typing import Any

_DEPTH = 64
_NAME = re.compile(r"[A-Za-z_][\w.-]*")
_NUMBER = re.compile(r"-?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}
_PLAIN = {quote: re.compile(rf"[^\\{quote}]+") for quote in "\"'"}


class Unreadable(ValueError):
    """The text is no call, or holds more than literals."""


@dataclass(slots=True)
class PythonCall:
    """One call with its literal arguments."""

    name: str
    positional: list[Any] = field(default_factory=list)
    named: dict[str, Any] = field(default_factory=dict)


def python_calls(text: str) -> list[PythonCall]:
    """The calls of `[f(a=1), g()]`, of one call, or of one a line. A `print` around a call is left out.

    Raises Unreadable.
    """
    reader = _Reader(text)
    calls: list[PythonCall] = []
    listed = reader.took("[")
    while True:
        reader.space()
        if listed and reader.took("]"):
            break
        if reader.ended:
            break
        calls.append(reader.call())
        reader.space()
        if not reader.took(",") and not reader.took(";") and listed:
            reader.expect("]")
            break
    reader.space()
    if not reader.ended or not calls:
        raise Unreadable("this is not a list of calls")
    return calls


class _Reader:
    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self.space()

    @property
    def ended(self) -> bool:
        return self._at >= len(self._text)

    def space(self) -> None:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1

    def took(self, mark: str) -> bool:
        if not self._text.startswith(mark, self._at):
            return False
        self._at += len(mark)
        return True

    def expect(self, mark: str) -> None:
        self.space()
        if not self.took(mark):
            raise Unreadable(f"{mark!r} is missing")

    def call(self) -> PythonCall:
        name = self._matched(_NAME)
        if name == "print":
            self.expect("(")
            self.space()
            inner = self.call()
            self.expect(")")
            return inner
        self.expect("(")
        made = PythonCall(name=name.removeprefix("default_api.").removesuffix(".call"))
        while True:
            self.space()
            if self.took(")"):
                return made
            key = self._key()
            if key is None:
                made.positional.append(self.value(0))
            elif key in made.named:
                raise Unreadable(f"{key!r} is given twice")
            else:
                made.named[key] = self.value(0)
            self.space()
            if not self.took(","):
                self.expect(")")
                return made

    def value(self, depth: int) -> Any:
        self.space()
        if depth > _DEPTH:
            raise Unreadable("it is nested too deeply")
        for open_, close in (("[", "]"), ("(", ")")):
            if self.took(open_):
                return self._items(close, depth)
        if self.took("{"):
            return self._entries(depth)
        if self._text[self._at : self._at + 1] in ("'", '"'):
            return self._string()
        word = _NAME.match(self._text, self._at)
        if word and word[0] in _WORDS:
            self._at = word.end()
            return _WORDS[word[0]]
        return self._number()

    def _key(self) -> str | None:
        found = _NAME.match(self._text, self._at)
        if found is None:
            return None
        after = found.end()
        while after < len(self._text) and self._text[after] in " \t\n":
            after += 1
        if not self._text.startswith("=", after):
            return None
        self._at = after + 1
        return found[0]

    def _items(self, close: str, depth: int) -> list[Any]:
        items: list[Any] = []
        while True:
            self.space()
            if self.took(close):
                return items
            items.append(self.value(depth + 1))
            self.space()
            if not self.took(","):
                self.expect(close)
                return items

    def _entries(self, depth: int) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        while True:
            self.space()
            if self.took("}"):
                return entries
            key = self.value(depth + 1)
            if not isinstance(key, str):
                raise Unreadable("a key is not a string")
            self.expect(":")
            entries[key] = self.value(depth + 1)
            self.space()
            if not self.took(","):
                self.expect("}")
                return entries

    def _number(self) -> int | float:
        digits = self._matched(_NUMBER)
        try:
            return int(digits)
        except ValueError:
            pass
        try:
            number = float(digits)
        except ValueError as error:
            raise Unreadable(f"{digits[:40]!r} is no number") from error
        if number in (float("inf"), float("-inf")):
            raise Unreadable("a number is too large")
        return number

    def _string(self) -> str:
        quote = self._text[self._at]
        end = quote * 3 if self._text.startswith(quote * 3, self._at) else quote
        self._at += len(end)
        plain = _PLAIN[quote]
        parts: list[str] = []
        while not self.took(end):
            found = plain.match(self._text, self._at)
            if found is not None:
                parts.append(found[0])
                self._at = found.end()
            elif self.ended:
                raise Unreadable("a string has no end")
            elif self.took("\\"):
                parts.append(self._escape())
            else:
                parts.append(quote)  # one quote inside a string of three
                self._at += 1
        return "".join(parts)

    def _escape(self) -> str:
        letter = self._text[self._at : self._at + 1]
        self._at += 1
        size = {"x": 2, "u": 4, "U": 8}.get(letter)
        if size is None:
            return "" if letter == "\n" else _ESCAPES.get(letter, letter if letter in "\\'\"" else "\\" + letter)
        digits = self._text[self._at : self._at + size]
        self._at += size
        if re.fullmatch(rf"[0-9A-Fa-f]{{{size}}}", digits) is None or int(digits, 16) > 0x10FFFF:
            raise Unreadable("an escape names no character")
        return chr(int(digits, 16))

    def _matched(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise Unreadable(f"there is something else than a literal at character {self._at}")
        self._at = found.end()
        return found[0]
