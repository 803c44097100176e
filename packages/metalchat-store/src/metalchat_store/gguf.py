"""A reader of one fact in the header of a GGUF file: `general.architecture`."""

import os
import struct
from pathlib import Path
from typing import IO

from metalchat_store._files import open_regular
from metalchat_store.errors import NotAModel

_SCANNED = 16 << 20  # bytes of header after which the search ends
_ENTRIES = 4096
_STRING, _ARRAY = 8, 9
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_KEY = b"general.architecture"


def read_architecture(path: Path, name: str) -> str:
    """The value of `general.architecture`, version 2 or 3 of the format.

    Reads at most 16 MiB. Raises `NotAModel`, naming the file as `name`.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        try:
            return _Scanner(file).architecture().decode("utf-8")
        except (_Malformed, UnicodeDecodeError) as error:
            reason = str(error) if isinstance(error, _Malformed) else "its architecture is not text"
            raise NotAModel(f"'{name}' is not a GGUF model: {reason}") from error


class _Malformed(Exception):
    pass


class _Scanner:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = _SCANNED

    def architecture(self) -> bytes:
        if self._take(4) != b"GGUF":
            raise _Malformed("it does not begin with 'GGUF'")
        version = self._number("<I", 4)
        if version not in (2, 3):
            raise _Malformed(f"version {version} of the format is not known")
        self._take(8)
        for _ in range(min(self._number("<Q", 8), _ENTRIES)):
            key = self._take(self._number("<Q", 8))
            kind = self._number("<I", 4)
            if key == _KEY and kind == _STRING:
                return self._take(min(self._number("<Q", 8), 256))
            self._skip(kind)
        raise _Malformed("its header has no 'general.architecture'")

    def _skip(self, kind: int) -> None:
        if kind == _STRING:
            self._take(self._number("<Q", 8))
        elif kind == _ARRAY:
            inner, count = self._number("<I", 4), self._number("<Q", 8)
            if inner in _WIDTHS:
                self._take(_WIDTHS[inner] * count)
            elif inner == _STRING:
                for _ in range(count):
                    self._take(self._number("<Q", 8))
            else:
                raise _Malformed("its header is damaged")
        elif kind in _WIDTHS:
            self._take(_WIDTHS[kind])
        else:
            raise _Malformed("its header is damaged")

    def _number(self, layout: str, width: int) -> int:
        return int(struct.unpack(layout, self._take(width))[0])

    def _take(self, count: int) -> bytes:
        if count > self._left:
            raise _Malformed("its header is damaged or larger than 16 MiB")
        self._left -= count
        data = self._file.read(count)
        if len(data) != count:
            raise _Malformed("it ends within its header")
        return data
