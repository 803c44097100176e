"""All files of a model into the blobs, the small ones first and together."""

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

from metalchat_store._adopt import KINDS
from metalchat_store._download import remote_errors
from metalchat_store._files import disk_errors
from metalchat_store._known import Known
from metalchat_store._layout import Layout
from metalchat_store._local import compare, take
from metalchat_store._parts import PIECE
from metalchat_store._unpack import unpack
from metalchat_store.blobs import Blobs, Stamp
from metalchat_store.errors import IntegrityError
from metalchat_store.names import check_names
from metalchat_store.remote import Adopts, Listing, Member, Remote, RemoteContext, RemoteFile, Unpacks
from metalchat_store.transfer import Stored, Transfer, Waiting, key_of

SMALL = 16 << 20  # bytes of a file up to which the disk is waited for once for all of them
_TOGETHER = 12

Seen = Callable[[str, int, int | None], None]


class Gatherer:
    """Brings files of one listing into the store, whichever way the remote offers them.

    A context: fetched archives belong to it until it is left.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        remote: Remote,
        listing: Listing,
        context: RemoteContext,
        waiting: Waiting,
        known: Known,
        present: Mapping[str, Stored],
        seen: Seen,
        copies: bool = True,
    ) -> None:
        self.stored = dict(present)
        self.fetched = 0
        self._held = ExitStack()
        self._archives: dict[str, Callable[[], tuple[Path, int]]] = {}
        self._sources: dict[Path, Stamp] = {}
        self._members: Mapping[str, Member] | None = None
        self._layout = layout
        self._remote = remote
        self._listing = listing
        self._waiting = waiting
        self._known = known
        self._seen = seen
        self._copies = copies
        self._guard = threading.Lock()
        self._transfer = Transfer(
            layout=layout,
            remote=remote,
            listing=listing,
            context=context,
            waiting=waiting,
            known=known,
            seen=self._tell,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def path(self, name: str) -> Path:
        """Where the content of a gathered file lies."""
        return Blobs(self._layout.blobs).path(self.stored[name].digest)

    def adopted(self) -> str | None:
        """How files of this computer were taken: the weakest way that was needed. None if there were none."""
        used = {stored.adopted for stored in self.stored.values()}
        return next((kind for kind in reversed(KINDS) if kind in used), None)

    def forget_lost(self) -> None:
        """Drop what is no longer among the blobs, so that it is brought again."""
        blobs = Blobs(self._layout.blobs)
        self.stored = {path: stored for path, stored in self.stored.items() if blobs.stamp(stored.digest) is not None}

    def gather(self, files: Iterable[RemoteFile]) -> None:
        """Bring listed files into the store. The first failure ends all others."""
        missing = [file for file in files if file.path not in self.stored]
        if isinstance(self._remote, Adopts):
            for file in missing:
                self.stored[file.path] = self._adopt(self._remote, file)
            return
        same: dict[str, list[RemoteFile]] = {}
        for file in missing:
            same.setdefault(key_of(self._listing, file), []).append(file)
        one = [files for files in same.values() if files[0].size is not None and files[0].size < 2 * PIECE]
        self._together(one)
        for files in same.values():
            if files[0].path not in self.stored:
                self._fetch(files)
        unsettled = {self.stored[files[0].path].digest for files in one if _is_small(files[0])}
        Blobs(self._layout.blobs).settle(unsettled)

    def claim(self) -> None:
        """Wait until no other pull has the archives. Those of this computer are left to everybody."""
        for file in self._listing.files:
            if isinstance(self._remote, Adopts):
                self._archives[file.path] = partial(self._here, self._remote, file)
                continue
            self._archives[file.path] = self._held.enter_context(self._transfer.archive(file))

    def members(self, remote: Unpacks) -> Mapping[str, Member]:
        """Fetch the archives, which are claimed already; what is in them."""
        if self._members is not None:
            return self._members
        archives: dict[str, Path] = {}
        for path, fetch in self._archives.items():
            archives[path], count = fetch()
            self.fetched += count
        with remote_errors(self._listing.repository):
            found = list(remote.members(self._listing, archives))
        check_names(member.path for member in found)
        self._members = {member.path: member for member in found}
        return self._members

    def unpack(self, members: Iterable[Member]) -> None:
        """Bring members of archives into the store."""
        for member in members:
            if member.path not in self.stored:
                self.stored[member.path] = unpack(
                    self._layout, member, self._known, lambda done, member=member: self._show(member, done)
                )
        for source, stamp in self._sources.items():
            if Stamp.of(source.stat()) != stamp:
                raise IntegrityError(f"'{source.name}' changed while it was read. Pull again")

    def _together(self, groups: list[list[RemoteFile]]) -> None:
        from concurrent.futures import ThreadPoolExecutor, as_completed

        with ThreadPoolExecutor(_TOGETHER, thread_name_prefix="metalchat-pull") as pool:
            futures = [pool.submit(self._fetch, files) for files in groups]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self._waiting.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                self._waiting.stop.clear()  # what was deleted meanwhile may be brought again
                raise

    def _fetch(self, files: list[RemoteFile]) -> None:
        """Fetch files that have one content."""
        digest = self._known.digest(files[0])
        known = frozenset() if digest is None else self._known.stamps(digest)
        stored = self._transfer.blob(files[0], known, settled=not _is_small(files[0]))
        with self._guard:
            self.stored.update((file.path, stored) for file in files)
            self.fetched += stored.fetched

    def _adopt(self, remote: Adopts, file: RemoteFile) -> Stored:
        with remote_errors(self._listing.repository):
            source = remote.local(self._listing, file)
        seen = partial(self._tell, file.path, total=file.size)
        return take(self._layout, source, file, self._known, seen, copies=self._copies)

    def _here(self, remote: Adopts, file: RemoteFile) -> tuple[Path, int]:
        """An archive of this computer, verified, and that nothing was fetched for it."""
        with remote_errors(self._listing.repository):
            source = remote.local(self._listing, file)
        with disk_errors(source, reading=True):
            self._sources[source] = compare(source, file, partial(self._tell, file.path, total=file.size))
        return source, 0

    def _show(self, member: Member, done: int) -> None:
        self._tell(member.path, done, member.size)

    def _tell(self, path: str, done: int, total: int | None) -> None:
        self._seen(path, done, total)


def _is_small(file: RemoteFile) -> bool:
    return file.size is not None and file.size <= SMALL
