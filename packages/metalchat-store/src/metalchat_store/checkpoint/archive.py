"""The zip that `torch.save` writes: where each entry's bytes lie, known from a directory of bounded size.

Entries must be stored as they are, one after the other, each name once. A compressed, encrypted or overlapping entry
is refused, so no entry can be larger than what the file holds.
"""

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_MAX_DIRECTORY = 16 << 20
_MAX_ENTRIES = 50_000
_MAX_NAME = 512
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL = 0xFFFFFFFF


class Malformed(Exception):
    """Why a file cannot be used, without its name; never leaves the package."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file: from `start`, `length` of them."""

    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


def read_at(descriptor: int, start: int, length: int) -> bytes:
    """Exactly `length` bytes; `Malformed` if the file ends before."""
    parts: list[bytes] = []
    while length > 0:
        part = os.pread(descriptor, length, start)
        if not part:
            raise Malformed("it ends too early")
        parts.append(part)
        start, length = start + len(part), length - len(part)
    return b"".join(parts)


def entries(descriptor: int) -> Mapping[str, Span]:
    """Where the content of each entry of a zip lies. Raises `Malformed`."""
    size = os.fstat(descriptor).st_size
    count, directory = _directory(descriptor, size)
    found: dict[str, Span] = {}
    for name, span in _listed(read_at(descriptor, directory.start, directory.length), count):
        if name in found:
            raise Malformed("a name is in its list twice")
        found[name] = _content(descriptor, name, span, directory.start)
    ends = 0
    for span in sorted(found.values(), key=lambda span: (span.start, span.end)):
        if span.start < ends:
            raise Malformed("its entries overlap")
        ends = span.end
    return found


def _directory(descriptor: int, size: int) -> tuple[int, Span]:
    """The number of entries, and where their list is."""
    if size < _END.size:
        raise Malformed("it is not a zip file")
    start = size - _END.size  # no comment: torch writes none
    mark, disk, first, here, count, length, offset, comment = _END.unpack(read_at(descriptor, start, _END.size))
    if mark != b"PK\5\6" or disk or first or comment or here != count:
        raise Malformed("it is not a zip file as torch writes it")
    if start >= _LOCATOR.size:
        mark, disk, end, disks = _LOCATOR.unpack(read_at(descriptor, start - _LOCATOR.size, _LOCATOR.size))
        if mark == b"PK\6\7":
            if disk or disks != 1 or end > start - _LOCATOR.size - _END64.size:
                raise Malformed("its list of entries is damaged")
            start = end
            fields = _END64.unpack(read_at(descriptor, start, _END64.size))
            mark, disk, first, here, count, length, offset = (fields[0], *fields[4:])
            if mark != b"PK\6\6" or disk or first or here != count:
                raise Malformed("its list of entries is damaged")
    if count > _MAX_ENTRIES or length > _MAX_DIRECTORY:
        raise Malformed(f"it has more than {_MAX_ENTRIES:,} entries")
    if offset + length > start:
        raise Malformed("its list of entries is damaged")
    return count, Span(offset, length)


def _listed(data: bytes, count: int) -> Iterator[tuple[str, Span]]:
    """Name, and size with the place of the entry's own header, for each entry of the list."""
    at = 0
    for _ in range(count):
        if at + _CENTRAL.size > len(data):
            raise Malformed("its list of entries is damaged")
        fields = _CENTRAL.unpack_from(data, at)
        flags, method = fields[3], fields[4]
        packed, length, named, extra, comment, offset = *fields[8:13], fields[16]
        at += _CENTRAL.size
        if fields[0] != b"PK\1\2" or at + named + extra + comment > len(data):
            raise Malformed("its list of entries is damaged")
        if method != 0 or flags & 0x2041:
            raise Malformed("an entry is compressed or encrypted, which torch does not do")
        name = _name(data[at : at + named])
        packed, length, offset = _wide(data[at + named : at + named + extra], packed, length, offset)
        if packed != length:
            raise Malformed("an entry has two sizes")
        at += named + extra + comment
        yield name, Span(offset, length)
    if at != len(data):
        raise Malformed("its list of entries is damaged")


def _name(data: bytes) -> str:
    try:
        name = data.decode("ascii")
    except UnicodeDecodeError:
        raise Malformed("an entry has a name that is not plain") from None
    if not name or len(name) > _MAX_NAME or not name.isprintable():
        raise Malformed("an entry has a name that is not plain")
    return name


def _wide(extra: bytes, packed: int, length: int, offset: int) -> tuple[int, int, int]:
    """The sizes and the place, from the 64-bit fields where the short ones are full."""
    at = 0
    while at + 4 <= len(extra):
        kind, width = struct.unpack_from("<2H", extra, at)
        body = extra[at + 4 : at + 4 + width]
        if len(body) != width:
            break
        if kind == 1:
            values = iter(struct.unpack(f"<{width // 8}Q", body[: width // 8 * 8]))
            length = next(values, _FULL) if length == _FULL else length
            packed = next(values, _FULL) if packed == _FULL else packed
            offset = next(values, _FULL) if offset == _FULL else offset
        at += 4 + width
    return packed, length, offset


def _content(descriptor: int, name: str, span: Span, limit: int) -> Span:
    """Where the bytes of an entry are; `span` has the place of its header, all must end before `limit`."""
    if span.start + _LOCAL.size > limit:
        raise Malformed("an entry lies outside of the file")
    fields = _LOCAL.unpack(read_at(descriptor, span.start, _LOCAL.size))
    named, extra = fields[9], fields[10]
    start = span.start + _LOCAL.size + named + extra
    if fields[0] != b"PK\3\4" or fields[3] != 0 or start + span.length > limit:
        raise Malformed("an entry lies outside of the file")
    if named > _MAX_NAME or read_at(descriptor, span.start + _LOCAL.size, named) != name.encode():
        raise Malformed("an entry has two names")
    return Span(start, span.length)
