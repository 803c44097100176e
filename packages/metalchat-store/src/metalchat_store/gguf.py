"""A reader of a few facts in the header of a GGUF file: architecture, chat template, what the tokenizer is."""

import hashlib
import io
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from metalchat_store._files import open_regular
from metalchat_store.errors import NotAModel

_SCANNED = 16 << 20  # bytes of header after which the search for the architecture ends
_HEADER = 256 << 20  # bytes of metadata, which are mostly the vocabulary
_ENTRIES = 4096
_TENSORS = 1 << 20
_DIMENSIONS = 4
_VALUES = 1 << 50
_STRING, _ARRAY = 8, 9
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_INTEGERS, _SIGNED = frozenset({0, 1, 2, 3, 4, 5, 10, 11}), frozenset({1, 3, 5, 11})
_SHOWN = 256  # bytes of a text that is collected
_KEY = b"general.architecture"
_TEMPLATE = b"tokenizer.chat_template"
_TOKENIZER = b"tokenizer.ggml."

FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
}
"""What `general.file_type` says most tensors are."""


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


@dataclass(slots=True, kw_only=True)
class Header:
    """What the first bytes of a file tell.

    `facts`: numbers and short texts of the metadata. `template`: the SHA-256 of the chat template's text. `parameters`:
    the values of all tensors. `complete`: the header ends before the bytes do; otherwise what is missing may come.
    """

    facts: dict[str, int | str] = field(default_factory=dict)
    template: str | None = None
    parameters: int | None = None
    complete: bool = False


def read_header(data: bytes, name: str) -> Header:
    """What is in the first bytes of a file. Raises `NotAModel`, naming the file as `name`."""
    header = Header()
    try:
        _Scanner(io.BytesIO(data), _HEADER).collect(header)
    except _Short:
        pass
    except _Malformed as error:
        raise NotAModel(f"'{name}' is not a GGUF model: {error}") from error
    return header


class _Malformed(Exception):
    pass


class _Short(_Malformed):
    """The bytes end within the header."""


class _Scanner:
    def __init__(self, file: IO[bytes], limit: int = _SCANNED) -> None:
        self._file = file
        self._limit = self._left = limit
        self._tensors = 0

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

    def collect(self, header: Header) -> None:
        for key, kind in self._entries():
            if kind in _INTEGERS or kind == _STRING:
                length = self._number("<Q", 8) if kind == _STRING else _WIDTHS[kind]
                value = self._take(length)
                text = key.decode("utf-8", errors="replace")
                if kind != _STRING:
                    header.facts[text] = int.from_bytes(value, "little", signed=kind in _SIGNED)
                elif key == _TEMPLATE:
                    header.template = hashlib.sha256(value).hexdigest() if value else None
                elif length <= _SHOWN:
                    header.facts[text] = value.decode("utf-8", errors="replace")
            else:
                self._skip(kind)
        header.parameters = self._values()
        header.complete = True

    def _values(self) -> int:
        """How many values all tensors have, told by the list that follows the metadata."""
        total = 0
        for _ in range(self._tensors):
            self._take(self._number("<Q", 8))
            dimensions = self._number("<I", 4)
            if dimensions > _DIMENSIONS:
                raise _Malformed("its header is damaged")
            total += math.prod(self._number("<Q", 8) for _ in range(dimensions))
            self._take(12)  # type and offset
        if total > _VALUES:
            raise _Malformed("its tensors have more values than any model")
        return total

    def _entries(self) -> Iterator[tuple[bytes, int]]:
        """Key and type of every entry; whoever gets them reads or skips the value."""
        if self._take(4) != b"GGUF":
            raise _Malformed("it does not begin with 'GGUF'")
        version = self._number("<I", 4)
        if version not in (2, 3):
            raise _Malformed(f"version {version} of the format is not known")
        self._tensors, entries = self._number("<Q", 8), self._number("<Q", 8)
        if self._tensors > _TENSORS or entries > _ENTRIES:
            raise _Malformed("its header is damaged")
        for _ in range(entries):
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
            raise _Short("it ends within its header")
        return data
