"""What the header of a GGUF file says; its long arrays stay packed until somebody wants them."""

import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from metalchat_engine import InvalidModel

# JSON never escapes this character, and no tokenizer has been seen to hold it; see `GgufStrings.joined`.
SEPARATOR = "\x7f"


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufNumbers:
    """A metadata array of numbers: `code` is their struct code, `raw` their little-endian bytes."""

    code: str
    raw: bytes = field(repr=False)

    def __len__(self) -> int:
        return len(self.raw) // struct.calcsize(self.code)

    def values(self) -> tuple[int | float, ...]:
        """All numbers."""
        return struct.unpack(f"<{len(self)}{self.code}", self.raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufStrings:
    """A metadata array of strings: `raw` as in the file, each after its 8-byte length; `ends` where each one ends."""

    key: str
    file: str
    raw: bytes = field(repr=False)
    ends: "array[int]" = field(repr=False)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return self._decoded(self.raw[start + 8 : self.ends[index]])

    def joined(self) -> str | None:
        """All strings with SEPARATOR between them, or None where one of them holds it.

        Raises InvalidModel unless all are UTF-8.
        """
        text = self._decoded(SEPARATOR.encode().join(self._pieces()))
        return text if text.count(SEPARATOR) == max(len(self) - 1, 0) else None

    def values(self) -> list[str]:
        """All strings. Raises InvalidModel unless all are UTF-8."""
        text = self.joined()
        if text is None:
            return [self._decoded(piece) for piece in self._pieces()]
        return text.split(SEPARATOR) if self.ends else []

    def _pieces(self) -> list[bytes]:
        raw, ends = self.raw, self.ends
        return [raw[start + 8 : end] for start, end in zip([0, *ends[:-1]], ends, strict=True)] if ends else []

    def _decoded(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise InvalidModel(
                f"'{self.file}' is not a valid GGUF file: '{self.key}' holds a string that is not UTF-8"
            ) from error


Value = bool | int | float | str | GgufNumbers | GgufStrings


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """One tensor. `shape` has rows first, the reverse of the file's order; `offset` counts from its start."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """A checked header: every tensor lies inside the file and overlaps no other."""

    path: Path
    version: int
    size: int
    metadata: Mapping[str, Value]
    tensors: Mapping[str, GgufTensor]

    @property
    def file(self) -> str:
        """The file's name as messages show it."""
        return shown(self.path.name)


def shown(text: str, limit: int = 80) -> str:
    """`text` for a message: unprintable characters escaped, the end cut off where it is long."""
    visible = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text[: limit + 1])
    return visible if len(visible) <= limit else visible[: limit - 1] + "…"
