"""The parser of GGUF headers, versions 2 and 3, that believes nothing a file says about itself."""

import os
import stat
import struct
from array import array
from io import FileIO
from pathlib import Path
from typing import Final

from metalchat_engine import InvalidModel, UnsupportedModel

from metalchat_engine_mlx.gguf._types import ARRAY, BOOL, GGML_TYPES, NUMBER_CODES, STRING
from metalchat_engine_mlx.gguf.header import GgufHeader, GgufNumbers, GgufStrings, GgufTensor, Value, shown

_MAGIC: Final = b"GGUF"
_FIRST_READ: Final = 2**21
_MAX_HEADER: Final = 32 * 2**20
_MAX_KEYS: Final = 10_000
_MAX_STRINGS: Final = 1_000_000
_MAX_TENSORS: Final = 100_000
_MAX_NAME: Final = 1024
_MAX_DIMENSIONS: Final = 4
_DEFAULT_ALIGNMENT: Final = 32
_ALIGNMENTS: Final = frozenset(2**bits for bits in range(3, 21))

_NUMBERS: Final = {kind: struct.Struct("<" + code) for kind, code in NUMBER_CODES.items()}
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_COUNTS: Final = struct.Struct("<QQ")


def read_header(path: str | os.PathLike[str]) -> GgufHeader:
    """Read and check the header of a GGUF file; the tensors' bytes are not touched.

    Raises InvalidModel for what is not a sound GGUF file, UnsupportedModel for a version or byte order that is not
    read.
    Limits: a header of 32 MiB, 10,000 keys, 1,000,000 strings an array, 100,000 tensors of up to 4 dimensions, names of
    1,024 printable characters, no arrays in arrays (which ggml does not read either).
    """
    path = Path(path)
    name = shown(path.name)
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:  # a pipe must not block
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InvalidModel(f"'{name}' is not a valid GGUF file: it is not a regular file")
            if status.st_size == 0:
                raise InvalidModel(f"'{name}' is not a valid GGUF file: it is empty")
            return _Parser(path, file, status.st_size).header()
    except OSError as error:
        raise InvalidModel(f"'{name}' cannot be read: {error.strerror}") from error


class _Parser:
    """A position in the first bytes of a file of `size` bytes, of which `end` have been read so far.

    A map would spare the reading, but end the process where another one cuts the file.
    """

    def __init__(self, path: Path, file: FileIO, size: int) -> None:
        self.path = path
        self.file = shown(path.name)
        self.source = file
        self.data = b""
        self.size = size
        self.end = 0
        self.position = 0

    def header(self) -> GgufHeader:
        version = self._version()
        tensor_count, key_count = self._unpack(_COUNTS, "the counts")
        if tensor_count > _MAX_TENSORS:
            raise self._invalid(f"it claims {tensor_count} tensors, more than {_MAX_TENSORS}")
        if key_count > _MAX_KEYS:
            raise self._invalid(f"it claims {key_count} metadata keys, more than {_MAX_KEYS}")
        metadata: dict[str, Value] = {}
        for _ in range(key_count):
            key = self._name("a metadata key")
            if key in metadata:
                raise self._invalid(f"the metadata key '{shown(key)}' is there twice")
            metadata[key] = self._value(key)
        return GgufHeader(
            path=self.path,
            version=version,
            size=self.size,
            metadata=metadata,
            tensors=self._tensors(tensor_count, self._alignment(metadata)),
        )

    def _version(self) -> int:
        if self._take(min(4, self.size), "its first bytes") != _MAGIC:
            raise self._invalid("it does not begin with 'GGUF'")
        (version,) = self._unpack(_U32, "the version")
        if version in (2 << 24, 3 << 24):
            raise UnsupportedModel(f"'{self.file}' is a big-endian GGUF file; only little-endian files are read")
        if version not in (2, 3):
            raise UnsupportedModel(f"'{self.file}' is a GGUF file of version {version}; versions 2 and 3 are read")
        return version

    def _alignment(self, metadata: dict[str, Value]) -> int:
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment not in _ALIGNMENTS:
            raise self._invalid("'general.alignment' is not a power of two from 8 to 1048576")
        return alignment

    def _value(self, key: str) -> Value:
        (kind,) = self._unpack(_U32, f"'{shown(key)}'")
        if kind == STRING:
            return self._string(f"'{shown(key)}'")
        if kind == ARRAY:
            return self._array(key)
        number = _NUMBERS.get(kind)
        if number is None:
            raise self._invalid(f"'{shown(key)}' has the unknown value type {kind}")
        value: bool | int | float = self._unpack(number, f"'{shown(key)}'")[0]
        if kind == BOOL and self.data[self.position - 1] > 1:
            raise self._invalid(f"'{shown(key)}' is a truth value that is neither 0 nor 1")
        return value

    def _array(self, key: str) -> GgufNumbers | GgufStrings:
        (kind,) = self._unpack(_U32, f"'{shown(key)}'")
        (count,) = self._unpack(_U64, f"'{shown(key)}'")
        if kind == STRING:
            return self._strings(key, count)
        number = _NUMBERS.get(kind)
        if number is None:
            what = "an array of arrays" if kind == ARRAY else f"an array of the unknown value type {kind}"
            raise self._invalid(f"'{shown(key)}' is {what}")
        return GgufNumbers(code=NUMBER_CODES[kind], raw=self._take(count * number.size, f"'{shown(key)}'"))

    def _strings(self, key: str, count: int) -> GgufStrings:
        if count > _MAX_STRINGS:
            raise self._invalid(f"'{shown(key)}' claims {count} strings, more than {_MAX_STRINGS}")
        start, length = self.position, _U64.unpack_from
        self._require(start + 8 * count, f"'{shown(key)}'")
        while True:
            data, position, ends = self.data, start, array("I")
            try:
                for _ in range(count):
                    position += 8 + length(data, position)[0]
                    ends.append(position - start)
            except (struct.error, OverflowError):
                position = self.end + 1
            if position <= self.end:
                self.position = position
                return GgufStrings(key=shown(key), file=self.file, raw=data[start:position], ends=ends)
            self._require(self.end + 1, f"'{shown(key)}'")

    def _tensors(self, count: int, alignment: int) -> dict[str, GgufTensor]:
        entries: list[tuple[int, str, str, tuple[int, ...], int]] = []
        names: set[str] = set()
        for _ in range(count):
            name = self._name("a tensor name")
            if name in names:
                raise self._invalid(f"the tensor '{shown(name)}' is there twice")
            names.add(name)
            shape, type_name, nbytes = self._shape(name)
            (offset,) = self._unpack(_U64, f"the tensor '{shown(name)}'")
            if offset % alignment:
                raise self._invalid(f"the offset of tensor '{shown(name)}' is not a multiple of {alignment}")
            entries.append((offset, name, type_name, shape, nbytes))
        base = -(-self.position // alignment) * alignment
        return self._placed(entries, base)

    def _shape(self, name: str) -> tuple[tuple[int, ...], str, int]:
        """Shape (rows first), type and length in bytes of the tensor whose name was just read."""
        (dimensions,) = self._unpack(_U32, f"the tensor '{shown(name)}'")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise self._invalid(
                f"the tensor '{shown(name)}' has {dimensions} dimensions, expected 1 to {_MAX_DIMENSIONS}"
            )
        shape = tuple(self._unpack(_U64, f"the tensor '{shown(name)}'")[0] for _ in range(dimensions))
        (kind,) = self._unpack(_U32, f"the tensor '{shown(name)}'")
        ggml = GGML_TYPES.get(kind)
        if ggml is None:
            raise self._invalid(f"the tensor '{shown(name)}' has the unknown type {kind}")
        elements = 1
        for length in shape:
            if length == 0:
                raise self._invalid(f"the tensor '{shown(name)}' has a dimension of length 0")
            elements *= length
        if shape[0] % ggml.values:
            raise self._invalid(
                f"the tensor '{shown(name)}' of type {ggml.name} has {shape[0]} columns, "
                f"not a multiple of {ggml.values}"
            )
        nbytes = elements // ggml.values * ggml.nbytes
        if nbytes > self.size:
            raise self._invalid(f"the tensor '{shown(name)}' is larger than the file")
        return shape[::-1], ggml.name, nbytes

    def _placed(self, entries: list[tuple[int, str, str, tuple[int, ...], int]], base: int) -> dict[str, GgufTensor]:
        end, previous = 0, ""
        for offset, name, _, _, nbytes in sorted(entries):
            if offset < end:
                raise self._invalid(f"the tensors '{shown(previous)}' and '{shown(name)}' overlap")
            end, previous = offset + nbytes, name
            if base + end > self.size:
                raise self._invalid(f"the tensor '{shown(name)}' reaches beyond the end of the file")
        return {
            name: GgufTensor(name=name, type=kind, shape=shape, offset=base + offset, nbytes=nbytes)
            for offset, name, kind, shape, nbytes in entries
        }

    def _name(self, what: str) -> str:
        name = self._string(what)
        if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
            raise self._invalid(f"{what} is not 1 to {_MAX_NAME} printable characters: '{shown(name)}'")
        return name

    def _string(self, what: str) -> str:
        (length,) = self._unpack(_U64, what)
        try:
            return self._take(length, what).decode()
        except UnicodeDecodeError as error:
            raise self._invalid(f"{what} is not UTF-8") from error

    def _unpack(self, form: struct.Struct, what: str) -> tuple[int, ...]:
        start = self.position
        self._require(start + form.size, what)
        self.position += form.size
        return form.unpack_from(self.data, start)

    def _take(self, length: int, what: str) -> bytes:
        start = self.position
        self._require(start + length, what)
        self.position += length
        return self.data[start : self.position]

    def _require(self, end: int, what: str) -> None:
        """Read on, at least as much again, until the first `end` bytes are there."""
        while end > self.end:
            limit = min(self.size, _MAX_HEADER)
            if end > limit and self.size <= _MAX_HEADER:
                raise self._invalid(f"it ends inside {what}")
            if end > limit:
                raise self._invalid(f"its header is larger than {_MAX_HEADER // 2**20} MiB")
            more = self.source.read(min(max(end - self.end, self.end, _FIRST_READ), limit - self.end))
            if not more:
                raise self._invalid(f"it ends inside {what}")
            self.data += more
            self.end = len(self.data)

    def _invalid(self, reason: str) -> InvalidModel:
        return InvalidModel(f"'{self.file}' is not a valid GGUF file: {reason}")
