"""The header of a safetensors file, read with every bound checked.

The format: 8 bytes with the header's length N, N bytes of JSON, then the buffer that the tensors' offsets refer to
(https://github.com/huggingface/safetensors). No byte of the buffer is read.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from metalchat_engine import InvalidModel

from metalchat_engine_mlx.strict_json import parse_object

MAX_HEADER = 25 * 10**6
MAX_TENSORS = 100_000
MAX_NAME = 1024
MAX_RANK = 8

BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor: `dtype` as safetensors spells it, and its place in `file`, in bytes from the start."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
        InvalidModel: unless the tensors, each as long as dtype and shape say, cover the buffer from its first byte to
            the last of the file without gap or overlap; or past a limit (25 MB of header, 100,000 tensors, names of 1
            to 1,024 printable characters).
    """
    reader = _Reader(path.name)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            if len(start) < 8:
                reader.refuse("it is shorter than the 8 bytes of a header length")
            (length,) = struct.unpack("<Q", start)
            if length > MAX_HEADER:
                reader.refuse(f"its header claims {length} bytes, more than {MAX_HEADER}")
            if length > size - 8:
                reader.refuse(f"its header claims {length} bytes, the file has {size}")
            data = file.read(length)
    except OSError as error:
        raise InvalidModel(f"'{path.name}' could not be read: {error.strerror}") from error
    if len(data) < length:
        reader.refuse("it ends inside the header")
    return reader.tensors(data, base=8 + length, size=size)


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file

    def refuse(self, reason: str) -> NoReturn:
        raise InvalidModel(f"'{self.file}' is not a valid safetensors file: {reason}")

    def tensors(self, data: bytes, *, base: int, size: int) -> dict[str, Tensor]:
        if not data.startswith(b"{"):
            self.refuse("its header does not start with '{'")
        try:
            document = parse_object(data, self.file, limit=MAX_HEADER)
        except InvalidModel as error:
            reason = str(error).removeprefix(f"'{self.file}' is ")
            raise InvalidModel(f"'{self.file}' is not a valid safetensors file: its header is {reason}") from error
        self._check_metadata(document.pop("__metadata__", None))
        if len(document) > MAX_TENSORS:
            self.refuse(f"it has {len(document)} tensors, more than {MAX_TENSORS}")
        found = {name: self._tensor(name, value, base) for name, value in document.items()}
        end = base
        for tensor in sorted(found.values(), key=lambda tensor: (tensor.start, tensor.nbytes)):
            if tensor.start != end:
                self.refuse("its tensors overlap" if tensor.start < end else "there is a gap between its tensors")
            end += tensor.nbytes
        if end != size:
            self.refuse(f"its tensors end at byte {end}, the file at {size}")
        return found

    def _tensor(self, name: str, value: Any, base: int) -> Tensor:
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            self.refuse(f"the name {name[:40]!a} is not 1 to {MAX_NAME} printable characters")
        label = f"tensor '{name[:80]}'"
        if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
            self.refuse(f"{label} does not have exactly dtype, shape and data_offsets")
        dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
        if not isinstance(dtype, str) or dtype not in BITS:
            self.refuse(f"{label} has the unknown dtype {str(dtype)[:20]!a}")
        if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(map(_is_size, shape)):
            self.refuse(f"{label} has a shape that is not a list of sizes")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
            self.refuse(f"{label} has data_offsets that are not two positions")
        bits = BITS[dtype]
        for length in shape:
            bits *= length
        start, end = offsets
        if bits % 8 or end - start != bits // 8:
            self.refuse(f"{label} has {end - start} bytes, its dtype and shape need {bits // 8}")
        return Tensor(file=self.file, dtype=dtype, shape=tuple(shape), start=base + start, nbytes=end - start)

    def _check_metadata(self, metadata: object) -> None:
        if metadata is None:
            return
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            self.refuse("its __metadata__ is not a map of texts")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
