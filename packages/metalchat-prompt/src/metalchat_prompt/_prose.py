"""Where plain text stands: in a fenced block, in quotation marks, at the start of a line."""

import re

_FENCE = re.compile(r"\s{0,3}(`{3,}|~{3,})(.*)", re.DOTALL)
_DOUBLE = re.compile('"')
_QUOTES = "\"'`“‘«„"
_HEAD = 200


class Prose:
    """Follows the text of an answer. Only the beginning of a line is kept of it."""

    def __init__(self) -> None:
        self._fence = ""
        self._new_line()

    @property
    def line_start(self) -> bool:
        """Whether nothing but space is on the line yet."""
        return not self._head.strip()

    @property
    def quoted(self) -> bool:
        """Whether what comes next is shown rather than said."""
        head = self._head.lstrip()
        return bool(
            self._fence
            or head.startswith(("```", "~~~", ">"))
            or self._opened
            or self._ticks % 2
            or (self._last and self._last in _QUOTES)
        )

    @property
    def fenced(self) -> bool:
        return bool(self._fence)

    def feed(self, text: str) -> None:
        for place, line in enumerate(text.split("\n")):
            if place:
                self._end_line()
            if line:
                self._head += line[: max(0, _HEAD - len(self._head))]
                self._quote(line)
                self._ticks += line.count("`")
                self._last = line[-1]

    def _quote(self, line: str) -> None:
        """A quotation mark after a letter, as in 5", closes a quotation and opens none."""
        for found in _DOUBLE.finditer(line):
            before = line[found.start() - 1] if found.start() else self._last
            self._opened = not self._opened and not before.isalnum()

    def _end_line(self) -> None:
        found = _FENCE.fullmatch(self._head)
        if found is not None:
            marks, rest = found[1], found[2]
            if not self._fence:
                # The info string of a fence of backticks has none in it: that would be code in a line.
                if marks[0] == "~" or "`" not in rest:
                    self._fence = marks
            elif marks.startswith(self._fence) and not rest.strip():
                self._fence = ""
        self._new_line()

    def _new_line(self) -> None:
        self._head = ""
        self._opened = False
        self._ticks = 0
        self._last = ""
