"""The tensors of one `.pth` file: where their bytes lie, every size compared with what is there."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from metalchat_store._files import open_regular
from metalchat_store.checkpoint import unpickler
from metalchat_store.checkpoint.archive import Malformed, Span, entries, read_at
from metalchat_store.errors import NotAModel

_PLAIN = frozenset({"data.pkl", "byteorder", "version", ".data/serialization_id", ".format_version"})
_OTHERS = _PLAIN | {".storage_alignment"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """`shape` values of `dtype`, `width` bytes each, contiguous and little-endian from `start` of the file on."""

    dtype: str
    width: int
    shape: tuple[int, ...]
    start: int

    @property
    def length(self) -> int:
        """Bytes."""
        count = self.width
        for size in self.shape:
            count *= size
        return count


@contextmanager
def named_errors(name: str) -> Iterator[None]:
    """What is wrong with a file becomes an error that names it."""
    try:
        yield
    except Malformed as error:
        raise NotAModel(f"'{name}' is not a checkpoint that can be read: {error}") from error


def read_tensors(path: Path, name: str) -> Mapping[str, Tensor]:
    """The tensors of a `.pth` file, which messages call `name`, by their names there.

    Reads the index and nothing of the tensors. Raises `NotAModel` for anything but a state dictionary of tensors, such
    as a pickle that calls a function.
    """
    descriptor = open_regular(path)
    try:
        with named_errors(name):
            return _read(descriptor)
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> Mapping[str, Tensor]:
    found = entries(descriptor)
    roots = {entry.partition("/")[0] for entry in found}
    if len(roots) != 1:
        raise Malformed("it has no folder for everything")
    root = f"{roots.pop()}/"
    inner = {entry.removeprefix(root): span for entry, span in found.items()}
    index = inner.get("data.pkl")
    if index is None:
        raise Malformed("it has no index 'data.pkl'")
    storages = {entry.removeprefix("data/"): span for entry, span in inner.items() if entry.startswith("data/")}
    unknown = sorted(inner.keys() - _OTHERS - {f"data/{key}" for key in storages})
    if unknown:
        raise Malformed(f"it holds {unknown[0][:60]!a}, which is no part of a checkpoint")
    order = inner.get("byteorder")
    if order is not None and (order.length > 16 or read_at(descriptor, order.start, order.length) != b"little"):
        raise Malformed("its numbers are not little-endian")
    if index.length > unpickler.MAX_PICKLE:
        raise Malformed(f"its index is larger than {unpickler.MAX_PICKLE >> 20} MiB")
    pickled = unpickler.tensors(read_at(descriptor, index.start, index.length))
    return {name: _placed(tensor, storages) for name, tensor in pickled.items()}


def _placed(tensor: unpickler.Pickled, storages: Mapping[str, Span]) -> Tensor:
    storage = tensor.storage
    span = storages.get(storage.key)
    if span is None or span.length != storage.count * storage.width:
        raise Malformed("a storage is missing or has another size than its index says")
    start = span.start + tensor.offset * storage.width
    return Tensor(dtype=storage.dtype, width=storage.width, shape=tensor.shape, start=start)
