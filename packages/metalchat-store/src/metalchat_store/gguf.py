"""A reader of a few facts in the header of a GGUF file: architecture, chat template, what the tokenizer is."""

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from metalchat_store._files import open_regular
from metalchat_store.errors import NotAModel

_SCANNED = 16 << 20  # bytes of header after which the search for the architecture ends
_HEADER = 256 << 20  # bytes of metadata, which are mostly the vocabulary
_ENTRIES = 4096
_STRING, _ARRAY = 8, 9
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_KEY = b"general.architecture"
_TEMPLATE = b"tokenizer.chat_template"
_TOKENIZER = b"tokenizer.ggml."


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


def tokenizer_digests(path: Path, name: str) -> tuple[str | None, str | None]:
    """The SHA-256 of the chat template's text, and that of all metadata of the tokenizer as it is in the file.

    Either is None where the file has nothing of the kind. Raises `NotAModel`, naming the file as `name`.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        try:
            return _Scanner(file, _HEADER).digests()
        except _Malformed as error:
            raise NotAModel(f"'{name}' is not a GGUF model: {error}") from error


class _Malformed(Exception):
    pass


class _Scanner:
    def __init__(self, file: IO[bytes], limit: int = _SCANNED) -> None:
        self._file = file
        self._limit = self._left = limit

    def architecture(self) -> bytes:
        for key, kind in self._entries():
            if key == _KEY and kind == _STRING:
                return self._take(min(self._number("<Q", 8), 256))
            self._skip(kind)
        raise _Malformed("its header has no 'general.architecture'")

    def digests(self) -> tuple[str | None, str | None]:
        template, hasher, found = None, hashlib.sha256(), False
        for key, kind in self._entries():
            if key == _TEMPLATE and kind == _STRING:
                text = self._take(self._number("<Q", 8))
                template = hashlib.sha256(text).hexdigest() if text else None
                continue
            start = self._file.tell()
            self._skip(kind)
            if key.startswith(_TOKENIZER):
                end = self._file.tell()
                found = True
                hasher.update(key + b"\0" + struct.pack("<IQ", kind, end - start))
                hasher.update(os.pread(self._file.fileno(), end - start, start))
        return template, hasher.hexdigest() if found else None

    def _entries(self) -> Iterator[tuple[bytes, int]]:
        """Key and type of every entry; whoever gets them reads or skips the value."""
        if self._take(4) != b"GGUF":
            raise _Malformed("it does not begin with 'GGUF'")
        version = self._number("<I", 4)
        if version not in (2, 3):
            raise _Malformed(f"version {version} of the format is not known")
        self._take(8)
        for _ in range(min(self._number("<Q", 8), _ENTRIES)):
            yield self._take(self._number("<Q", 8)), self._number("<I", 4)

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
            raise _Malformed(f"its header is damaged or larger than {self._limit >> 20} MiB")
        self._left -= count
        data = self._file.read(count)
        if len(data) != count:
            raise _Malformed("it ends within its header")
        return data
