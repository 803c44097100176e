"""Strict, bounded reading of a model's JSON files, which are untrusted."""

import json
import math
import re
from pathlib import Path
from typing import Any

from metalchat_manifest._files import TooLarge, read_bounded
from metalchat_manifest.errors import InvalidModelFile

MAX_BYTES = 16 * 2**20

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_PIECE = re.compile(r'"(?:[^"\\]++|\\.)*"|[{}\[\]:]|\n', re.DOTALL)


def load_object(path: Path) -> tuple[str, dict[str, Any]] | None:
    """The text and the object in it, or None where there is no such file.

    Raises InvalidModelFile for anything but one JSON object in UTF-8 without NaN, infinities, repeated keys
    or lone surrogates, of at most MAX_BYTES.
    """
    try:
        data = read_bounded(path, MAX_BYTES)
    except FileNotFoundError:
        return None
    except TooLarge as error:
        raise InvalidModelFile(f"it is larger than {MAX_BYTES // 2**20} MiB", path=path) from error
    try:
        text = data.decode()
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
        if _SURROGATE.search(text):
            _refuse_surrogates(content)
    except json.JSONDecodeError as error:
        raise InvalidModelFile(error.msg, path=path, line=error.lineno, column=error.colno) from error
    except UnicodeDecodeError as error:
        raise InvalidModelFile("it is not UTF-8 text", path=path) from error
    except RecursionError as error:
        raise InvalidModelFile("it is nested too deeply", path=path) from error
    except MemoryError as error:
        raise InvalidModelFile("it does not fit in memory", path=path) from error
    except _Refused as error:
        raise InvalidModelFile(str(error), path=path) from error
    except ValueError as error:
        raise InvalidModelFile("a number is too large", path=path) from error
    if not isinstance(content, dict):
        raise InvalidModelFile("it is not a JSON object", path=path)
    return text, content


def line_of(text: str, name: str) -> int | None:
    """The line, from 1, of a key of the outermost object of a valid JSON text."""
    depth, line = 0, 1
    last, last_line = "", 1
    for match in _PIECE.finditer(text):
        piece = match.group()
        if piece == "\n":
            line += 1
        elif piece in "{[":
            depth += 1
        elif piece in "}]":
            depth -= 1
        elif piece == ":":
            if depth == 1 and json.loads(last) == name:
                return last_line
        else:
            last, last_line = piece, line
    return None


class _Refused(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise _Refused("a key is written twice")
    return content


def _refuse_constant(_: str) -> Any:
    raise _Refused("a number is not finite")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _Refused("a number is not finite")
    return number


def _refuse_surrogates(content: Any) -> None:
    pending = [content]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            pending += each.keys()
            pending += each.values()
        elif isinstance(each, list):
            pending += each
        elif isinstance(each, str) and any("\ud800" <= character <= "\udfff" for character in each):
            raise _Refused("a text has half of a surrogate pair")
