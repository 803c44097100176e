"""Models of other tools taken in without a second copy of their bytes, and without a change to their files."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from metalchat_store._adopt import clone, link
from metalchat_store._files import create, remove, write_at
from metalchat_store._layout import Layout
from metalchat_store.caches import Found
from metalchat_store.errors import StoreError
from metalchat_store.remote import Body, Listing, RemoteContext, RemoteFile
from metalchat_store.types import Entry

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """What became, or would become, of a model of another tool.

    `how` is `clone`, `hard link` or `copy`; None where nothing is taken. `saved` bytes need no second copy.
    `already`: the store has a model of that repository. `error` says why the model was not taken.
    """

    found: Found
    how: str | None = None
    saved: int = 0
    already: bool = False
    entry: Entry | None = None
    error: StoreError | None = None


class FoundRemote:
    """Serves one found model as the repository that it stands for."""

    def __init__(self, found: Found) -> None:
        self._found = found

    def list(self, repository: str, *, revision: str | None, context: RemoteContext) -> Listing:
        """The files that were found."""
        return Listing(repository=repository, commit=self._found.commit or "", files=self._found.files)

    def local(self, listing: Listing, file: RemoteFile) -> Path:
        """The file itself."""
        return Path(file.location)

    @contextmanager
    def read(
        self, listing: Listing, file: RemoteFile, *, offset: int, context: RemoteContext, validator: str | None = None
    ) -> Iterator[Body]:
        """The bytes of the file from `offset`."""
        with Path(file.location).open("rb") as source:
            source.seek(offset)
            yield Body(offset=offset, chunks=iter(lambda: source.read(_BLOCK), b""))


class Sharing:
    """How files of other places can be shared with the store, tried out on files of the store's own."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._known: str | None = None

    def how(self, files: Sequence[RemoteFile]) -> str:
        """`clone` or `hard link` for files on the same disk as the store, else `copy`."""
        place = self._layout.home
        while not place.exists() and place != place.parent:
            place = place.parent
        try:
            device = place.stat().st_dev
            same = all(os.stat(file.location).st_dev == device for file in files)  # noqa: PTH116 - text
        except OSError:
            return "copy"
        if not same:
            return "copy"
        if self._known is None:
            self._known = self._probe() if self._layout.partial.is_dir() else "hard link"
        return self._known

    def _probe(self) -> str:
        first, second = self._layout.temporary("probe", "tmp"), self._layout.temporary("probe", "tmp")
        try:
            descriptor = create(first)
            try:
                write_at(descriptor, b"\0" * 4096, 0)
            finally:
                os.close(descriptor)
            if clone(first, second):
                return "clone"
            return "hard link" if link(first, second) else "copy"
        finally:
            with suppress(OSError):
                remove(first)
                remove(second)
