"""JSON of untrusted files: bounded, and without what Python's reader lets through."""

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from metalchat_engine import InvalidModel

CONFIG_LIMIT = 2**20
INDEX_LIMIT = 25 * 10**6
MAX_DEPTH = 64

_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_object(path: Path, *, limit: int = CONFIG_LIMIT) -> dict[str, Any]:
    """The JSON object in a file of at most `limit` bytes.

    Raises:
        InvalidModel: for a file that cannot be read, and for everything that `parse_object` refuses.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InvalidModel(f"'{path.name}' could not be read: {error.strerror}") from error
    return parse_object(data, path.name, limit=limit)


def parse_object(data: bytes, what: str, *, limit: int = CONFIG_LIMIT) -> dict[str, Any]:
    """The JSON object that `data` holds; `what` names it in messages.

    Raises:
        InvalidModel: for more than `limit` bytes, bad UTF-8 or JSON, nesting deeper than 64, duplicate keys,
            NaN and Infinity, integers of more than 40 digits, lone surrogates, and anything but an object.
    """
    if len(data) > limit:
        raise InvalidModel(f"'{what}' is larger than {limit} bytes")

    def refuse(reason: str) -> NoReturn:
        raise InvalidModel(f"'{what}' is not valid JSON: {reason}")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            names = [name for name, _ in items]
            name = next(name for name in names if names.count(name) > 1)
            refuse(f"the key {name[:80]!a} is there twice")
        return found

    def integer(digits: str) -> int:
        return refuse("a number has more than 40 digits") if len(digits) > 40 else int(digits)

    def number(digits: str) -> float:
        value = float(digits)
        return refuse(f"the number {digits[:40]} is too large") if value in (float("inf"), float("-inf")) else value

    if _deeper_than(data, MAX_DEPTH):
        refuse(f"it is nested deeper than {MAX_DEPTH}")
    try:
        text = data.decode()
        found = json.loads(
            text,
            object_pairs_hook=pairs,
            parse_int=integer,
            parse_float=number,
            parse_constant=lambda name: refuse(f"{name} is not a number"),
        )
    except UnicodeDecodeError as error:
        raise InvalidModel(f"'{what}' is not valid JSON: it is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise InvalidModel(f"'{what}' is not valid JSON: {error.msg}, line {error.lineno}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise InvalidModel(f"'{what}' is not valid JSON: {type(error).__name__}") from error
    if not isinstance(found, dict):
        refuse("it is not an object")
    if _ESCAPED_SURROGATE.search(text) and _has_surrogate(found):
        refuse("a text holds half a character (a lone surrogate)")
    return found


def _deeper_than(data: bytes, limit: int) -> bool:
    # Counts every bracket outside of strings, so it never asks Python's reader to recurse.
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    depth = 0
    for match in re.finditer(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', data, re.DOTALL):
        token = match.group()
        if token in (b"[", b"{"):
            depth += 1
            if depth > limit:
                return True
        elif token in (b"]", b"}"):
            depth -= 1
    return False


def _has_surrogate(value: object) -> bool:
    if isinstance(value, str):
        return _SURROGATE.search(value) is not None
    if isinstance(value, dict):
        return any(_has_surrogate(key) or _has_surrogate(item) for key, item in value.items())
    return isinstance(value, list) and any(_has_surrogate(item) for item in value)
