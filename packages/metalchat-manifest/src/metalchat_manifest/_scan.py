"""Where every table, key and value of a TOML document stands: what the standard parser does not tell."""

import re
from bisect import bisect_right
from dataclasses import dataclass, field

from metalchat_manifest._keys import MAX_DEPTH, KeySyntaxError, Path, read_key, skip_space

_BLANK = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*")
_STRINGS = (
    re.compile(r'"""(?:[^"\\]++|\\.|"(?!""))*"""(?:"{0,2})', re.DOTALL),
    re.compile(r"'''(?:[^']++|'(?!''))*'''(?:'{0,2})"),
    re.compile(r'"(?:[^"\\\n]++|\\[^\n])*"'),
    re.compile(r"'[^'\n]*+'"),
)
_SCALAR = re.compile(r"\d{4}-\d\d-\d\d \d\d:[^\s,#\]}]*|[^\s,#\[\]{}\"']+")


class ScanError(Exception):
    """The document is not TOML at `position`, or goes deeper than MAX_DEPTH."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """`key = value`: offsets of the key's start and the value's two ends; `table` is what the key is relative to."""

    path: Path
    table: Path
    start: int
    value_start: int
    value_end: int
    inline: bool


@dataclass(slots=True, kw_only=True)
class Section:
    """What stands below one `[header]`; the first one is the root, without a header and with `end` 0."""

    path: Path
    start: int
    end: int
    is_item: bool
    entries: list[Entry] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Inline:
    """A `{ table }` on one line: offsets of its braces and what is between them."""

    start: int
    end: int = 0
    entries: list[Entry] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Document:
    """The places of a TOML text. Offsets count characters."""

    text: str
    sections: list[Section]
    inlines: dict[Path, Inline] = field(default_factory=dict)
    entries: dict[Path, Entry] = field(default_factory=dict)
    starts: dict[Path, int] = field(default_factory=dict)  # of every key and table, implied ones included
    line_starts: list[int]

    def note(self, path: Path, start: int) -> None:
        """Something that begins at `start` belongs to `path`, and so to all that contain it."""
        for length in range(len(path), 0, -1):
            if self.starts.setdefault(path[:length], start) != start:
                return

    def line_at(self, offset: int) -> int:
        """The line, from 1, of an offset."""
        return bisect_right(self.line_starts, offset)

    def line_of(self, path: Path) -> int | None:
        """The line where the key or table at `path` is first written, or begins to be implied; None when absent."""
        start = self.starts.get(path)
        if start is not None:
            return self.line_at(start)
        return self.line_of(path[:-1]) if path and isinstance(path[-1], int) else None


def scan(text: str) -> Document:
    """The places of `text`, which may have either line ending. Raises ScanError; takes linear time on any text."""
    try:
        return _Scanner(text).run()
    except KeySyntaxError as error:
        raise ScanError(error.position, str(error)) from error


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.items: dict[Path, int] = {}  # arrays of tables: the index of the last [[header]]
        root = Section(path=(), start=0, end=0, is_item=False)
        starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.document = Document(text=text, sections=[root], line_starts=starts)

    def run(self) -> Document:
        text, position = self.text, self._skip(0)
        while position < len(text):
            if text[position] == "[":
                position = self._header(position)
            else:
                section = self.document.sections[-1]
                position = self._entry(position, section.path, section.entries, depth=0, inline=False)
            position = self._skip(position)
        return self.document

    def _skip(self, position: int) -> int:
        match = _BLANK.match(self.text, position)
        return match.end() if match else position

    def _header(self, start: int) -> int:
        bracket = "]]" if self.text.startswith("[[", start) else "]"
        is_item = bracket == "]]"
        parts, end = read_key(self.text, skip_space(self.text, start + len(bracket)))
        end = skip_space(self.text, end)
        if not self.text.startswith(bracket, end):
            raise ScanError(end, "not a table header")
        path: Path = ()
        for index, part in enumerate(parts):
            path += (part,)
            if is_item and index == len(parts) - 1:
                self.items[path] = self.items.get(path, -1) + 1
            if path in self.items:
                path += (self.items[path],)
        end += len(bracket)
        self.document.note(path, start)
        self.document.sections.append(Section(path=path, start=start, end=end, is_item=is_item))
        return end

    def _entry(self, start: int, table: Path, entries: list[Entry], *, depth: int, inline: bool) -> int:
        parts, equals = read_key(self.text, start)
        equals = skip_space(self.text, equals)
        if not self.text.startswith("=", equals):
            raise ScanError(equals, "not a key and a value")
        value_start = skip_space(self.text, equals + 1)
        path = table + parts
        self.document.note(path, start)
        value_end = self._value(value_start, path, depth)
        entry = Entry(path=path, table=table, start=start, value_start=value_start, value_end=value_end, inline=inline)
        entries.append(entry)
        self.document.entries[path] = entry
        return value_end

    def _value(self, position: int, path: Path, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise ScanError(position, f"values are nested more than {MAX_DEPTH} deep")
        first = self.text[position : position + 1]
        if first == "[":
            return self._array(position, path, depth)
        if first == "{":
            return self._inline(position, path, depth)
        patterns = _STRINGS if first and first in "\"'" else (_SCALAR,)
        for pattern in patterns:
            match = pattern.match(self.text, position)
            if match is not None:
                return match.end()
        raise ScanError(position, "not a value")

    def _array(self, position: int, path: Path, depth: int) -> int:
        position = self._skip(position + 1)
        index = 0
        while not self.text.startswith("]", position):
            position = self._skip(self._value(position, (*path, index), depth + 1))
            position = self._separator(position, "]")
            index += 1
        return position + 1

    def _inline(self, position: int, path: Path, depth: int) -> int:
        inline = Inline(start=position)
        self.document.inlines[path] = inline
        position = self._skip(position + 1)
        while not self.text.startswith("}", position):
            position = self._skip(self._entry(position, path, inline.entries, depth=depth + 1, inline=True))
            position = self._separator(position, "}")
        inline.end = position + 1
        return inline.end

    def _separator(self, position: int, closing: str) -> int:
        if self.text.startswith(",", position):
            return self._skip(position + 1)
        if not self.text.startswith(closing, position):
            raise ScanError(position, "not an array or a table on one line")
        return position
