"""A remote of files of which only the beginning is known."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from metalchat_store.remote import Body, Listing, RemoteContext, RemoteFile


class Beginnings:
    """`known` maps each path to the bytes it begins with, and to its whole size."""

    def __init__(self, known: Mapping[str, tuple[bytes, int]]) -> None:
        self._known = known
        self.files = tuple(RemoteFile(path=path, size=size) for path, (_, size) in known.items())

    def list(self, repository: str, *, revision: str | None, context: RemoteContext) -> Listing:
        """The files."""
        return Listing(repository=repository, commit=revision or "", files=self.files)

    @contextmanager
    def read(
        self, listing: Listing, file: RemoteFile, *, offset: int, context: RemoteContext, validator: str | None = None
    ) -> Iterator[Body]:
        """What is known of a file from `offset` on."""
        yield Body(offset=offset, chunks=(self._known[file.path][0][offset:],))
