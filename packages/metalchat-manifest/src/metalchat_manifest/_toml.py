"""From the bytes of a metalchat.toml to its text and tables, within limits."""

import re
import tomllib
from pathlib import Path
from typing import Any

from metalchat_manifest._files import TooLarge, read_bounded
from metalchat_manifest._keys import MAX_PARTS, join_key
from metalchat_manifest.errors import InvalidManifest, InvalidValue, ManifestNotFound

FILE_NAME = "metalchat.toml"
MAX_BYTES = 2**20
BOM = "\ufeff"

_PLACE = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)\s*\Z")
_LONG_NUMBER = re.compile(r"[0-9_]{1000,}")


def read_manifest(path: Path) -> bytes:
    """The bytes of the manifest at `path`. Raises ManifestNotFound, ManifestUnreadable, InvalidManifest."""
    try:
        return read_bounded(path, MAX_BYTES)
    except FileNotFoundError as error:
        raise ManifestNotFound("there is no such file", path=path) from error
    except TooLarge as error:
        raise InvalidManifest(f"it is larger than {MAX_BYTES // 2**20} MiB", path=path) from error


def parse_toml(data: bytes, path: Path) -> tuple[str, dict[str, Any]]:
    """The text without its byte order mark, and the TOML document in it. Raises InvalidManifest."""
    if len(data) > MAX_BYTES:
        raise InvalidManifest(f"it is larger than {MAX_BYTES // 2**20} MiB", path=path)
    try:
        text = data.decode().removeprefix(BOM)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[data.rfind(b"\n", 0, error.start) + 1 : error.start].decode(errors="replace")) + 1
        raise InvalidManifest("it is not UTF-8 text", path=path, line=line, column=column) from error
    if text.count(".") > MAX_PARTS:
        _refuse_long_keys(text, path)
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, line, column = _place_of(str(error), text)
        raise InvalidManifest(message, path=path, line=line, column=column) from error
    except RecursionError as error:
        raise InvalidManifest("tables or arrays are nested too deeply", path=path) from error
    except ValueError as error:
        raise _number_too_long(text, path) from error


def _refuse_long_keys(text: str, path: Path) -> None:
    """The standard parser takes cubic time in the number of a key's parts."""
    if not any(line.count(".") >= MAX_PARTS for line in text.split("\n")):
        return
    from metalchat_manifest._scan import ScanError, scan

    try:
        scan(text)
    except ScanError as error:
        start = text.rfind("\n", 0, error.position) + 1
        line, column = text.count("\n", 0, start) + 1, error.position - start + 1
        raise InvalidManifest(str(error), path=path, line=line, column=column) from error


def _place_of(message: str, text: str) -> tuple[str, int, int]:
    place = _PLACE.search(message)
    line, column = text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1
    if place is None:
        return message, line, column
    if place[1]:
        line, column = int(place[1]), int(place[2])
    return message[: place.start()], line, column


def _number_too_long(text: str, path: Path) -> InvalidManifest:
    """For the ValueError with which Python refuses to convert thousands of digits."""
    from metalchat_manifest._scan import ScanError, scan

    digits = _LONG_NUMBER.search(text)
    try:
        document = scan(text)
    except ScanError:
        return InvalidManifest("a number is too large", path=path)
    for entry in document.entries.values():
        if digits and entry.value_start <= digits.start() < entry.value_end:
            key = join_key(str(part) for part in entry.path)
            return InvalidValue(f"'{key}' is too large", path=path, line=document.line_at(entry.start), key=key)
    return InvalidManifest("a number is too large", path=path)
