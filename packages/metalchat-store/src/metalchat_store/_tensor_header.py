"""The header of a safetensors file, every entry compared with the size of the file."""

from dataclasses import dataclass

from metalchat_store._answers import AnswerError, parse_json
from metalchat_store.errors import IntegrityError

LIMIT = 25_000_000
_MAX_TENSORS = 100_000
_MAX_NAME = 1024
WIDTHS = {
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "F16": 16,
    "BF16": 16,
    "I16": 16,
    "U16": 16,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F4": 4,
}
"""Bits of a value."""


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """A tensor of the file: `count` values of `dtype` in `length` bytes; `columns` is the last number of its shape."""

    name: str
    dtype: str
    count: int
    columns: int
    length: int


def header_length(first: bytes, size: int, name: str) -> int:
    """The bytes of the header, told by the first eight of a file of `size` bytes. Raises `IntegrityError`."""
    length = int.from_bytes(first[:8], "little")
    if len(first) < 8 or not 2 <= length <= min(LIMIT, size - 8):
        raise invalid(name, "its header has no possible length")
    return length


def read_header(data: bytes, size: int, name: str) -> list[TensorFacts]:
    """The tensors that a header of a file of `size` bytes lists. Raises `IntegrityError`."""
    try:
        value = parse_json(data)
    except AnswerError as error:
        raise invalid(name, f"its header is no JSON ({error})") from error
    if not isinstance(value, dict) or len(value) > _MAX_TENSORS:
        raise invalid(name, "its header is no table of tensors")
    room = size - 8 - len(data)
    found: list[TensorFacts] = []
    spans: list[tuple[int, int]] = []
    for key, entry in value.items():
        if key == "__metadata__":
            continue
        if len(key) > _MAX_NAME or not key.isprintable() or not isinstance(entry, dict):
            raise invalid(name, "a tensor has a name that is not allowed")
        dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        if not isinstance(dtype, str) or dtype not in WIDTHS:
            raise invalid(name, "a tensor has a type that is not known")
        sizes, offsets = _numbers(shape), _numbers(span)
        if sizes is None or offsets is None or len(offsets) != 2:
            raise invalid(name, "a tensor has a shape or a place that is not valid")
        count = 1
        for number in sizes:
            count *= number
        begin, end = offsets
        if not begin <= end <= room or (end - begin) * 8 != count * WIDTHS[dtype]:
            raise invalid(name, "a tensor does not fit its place")
        spans.append((begin, end))
        found.append(TensorFacts(key, dtype, count, sizes[-1] if sizes else 1, end - begin))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise invalid(name, "its tensors overlap, or leave gaps")
        at = end
    if at != room:
        raise invalid(name, "its tensors are not as long as the file")
    return found


def invalid(name: str, reason: str) -> IntegrityError:
    """The error for a file that is not what its name says."""
    return IntegrityError(f"'{name}' is not a valid safetensors file: {reason}")


def _numbers(value: object) -> list[int] | None:
    if not isinstance(value, list) or len(value) > 16:
        return None
    found = [item for item in value if isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1 << 48]
    return found if len(found) == len(value) else None
