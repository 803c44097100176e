"""Dotted keys of TOML: their parts, and the parts' spelling."""

import re
import tomllib
from collections.abc import Iterable
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""Where a value stands in a document; an integer counts the items of an array, from 0."""

MAX_PARTS = 16  # of one key
MAX_DEPTH = 64  # of arrays and tables within each other

BARE = re.compile(r"[A-Za-z0-9_-]+")
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"\\\n]*+(?:\\.[^"\\\n]*+)*"|'[^'\n]*'""")
_SPACE = re.compile(r"[ \t]*")
_ESCAPES = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
_NEEDS_ESCAPE = re.compile(r'[\x00-\x1f\x7f"\\]')


class KeySyntaxError(Exception):
    """What stands at `position` is not a key, or has too many parts."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position


def read_key(text: str, position: int) -> tuple[tuple[str, ...], int]:
    """The parts of the dotted key at `position`, and the position after it. Raises KeySyntaxError."""
    parts: list[str] = []
    while True:
        match = _PART.match(text, position)
        if match is None:
            raise KeySyntaxError(position, "not a key")
        if len(parts) == MAX_PARTS:
            raise KeySyntaxError(position, f"a key has at most {MAX_PARTS} parts")
        parts.append(_unquoted(match.group(), position))
        end = match.end()
        dot = skip_space(text, end)
        if not text.startswith(".", dot):
            return tuple(parts), end
        position = skip_space(text, dot + 1)


def skip_space(text: str, position: int) -> int:
    """The first position at or after `position` that holds neither a space nor a tab."""
    match = _SPACE.match(text, position)
    return match.end() if match else position


def split_key(key: str) -> tuple[str, ...]:
    """The parts of a dotted key that stands alone. Raises KeySyntaxError."""
    parts, end = read_key(key, 0)
    if end != len(key):
        raise KeySyntaxError(end, "not a key")
    return parts


def join_key(parts: Iterable[str]) -> str:
    """The dotted key of `parts`, each bare where it can be."""
    return ".".join(part if BARE.fullmatch(part) else quote(part) for part in parts)


def quote(text: str) -> str:
    """`text` as a basic string of TOML, on one line."""
    return '"' + _NEEDS_ESCAPE.sub(lambda match: _ESCAPES.get(match[0], f"\\u{ord(match[0]):04x}"), text) + '"'


def _unquoted(part: str, position: int) -> str:
    if part[0] == "'" or (part[0] == '"' and "\\" not in part):
        return part[1:-1]
    if part[0] != '"':
        return part
    try:
        return next(iter(tomllib.loads(f"{part} = 0")))
    except tomllib.TOMLDecodeError as error:
        raise KeySyntaxError(position, "not a key") from error
