"""One file from a remote into the store: resumed at the byte, hashed while written, never longer than promised."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from metalchat_store import _hints, _partials
from metalchat_store._backoff import Backoff
from metalchat_store._download import Damaged, Download
from metalchat_store._known import Known
from metalchat_store._layout import Layout
from metalchat_store._locks import SUFFIX, exclusive
from metalchat_store._partials import Partial
from metalchat_store.blobs import Blobs, Stamp
from metalchat_store.digest import Digest
from metalchat_store.errors import IntegrityError, NetworkError
from metalchat_store.remote import Listing, Remote, RemoteContext, RemoteFile
from metalchat_store.selection import limit_of


class Stopped(Exception):
    """Another file of the same pull failed; never leaves the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A file that is in the store: its digest and stamp, and how it came there."""

    digest: Digest
    stamp: Stamp
    fetched: int = 0
    adopted: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How time passes; tests replace it. `stop` is set when the pull is over for another reason."""

    clock: Callable[[], float]
    sleep: Callable[[float], None] | None = None
    stop: threading.Event

    def pause(self, seconds: float) -> None:
        """Sleep; raises `Stopped` when the pull is over."""
        if self.sleep is None:
            self.stop.wait(seconds)
        else:
            self.sleep(seconds)
        self.check()

    def check(self) -> None:
        """Raise `Stopped` when the pull is over."""
        if self.stop.is_set():
            raise Stopped


def key_of(listing: Listing, file: RemoteFile) -> str:
    """What a file is called on its way: the digest that it must have, else a digest of where it comes from."""
    if file.sha256 is not None:
        return Digest(file.sha256).hex
    if file.git_sha1 is not None and file.size is not None:
        return f"g-{file.git_sha1}"
    place = "\0".join((listing.repository, listing.commit, file.path))
    return f"n-{hashlib.sha256(place.encode()).hexdigest()}"


class Transfer:
    """Fetches files of one listing. Safe to use from several threads, one file each."""

    def __init__(
        self,
        *,
        layout: Layout,
        remote: Remote,
        listing: Listing,
        context: RemoteContext,
        waiting: Waiting,
        known: Known,
        seen: Callable[[str, int, int | None], None],
    ) -> None:
        self._layout = layout
        self._blobs = Blobs.of(layout)
        self._remote = remote
        self._listing = listing
        self._context = context
        self._waiting = waiting
        self._seen = seen
        self._guard = threading.Lock()
        self._known = known

    def blob(self, file: RemoteFile, known: frozenset[Stamp] = frozenset(), *, settled: bool = True) -> Stored:
        """Fetch a file and give it its place among the blobs. `known` are the recorded stamps of its digest.

        What is not `settled` needs `Blobs.settle`.
        """
        key = key_of(self._listing, file)
        with self._claimed(file) as alone:
            if file.sha256 is not None:
                stamp = self._blobs.trusted(Digest(file.sha256), file.size, known)
                if stamp is not None:
                    return Stored(digest=Digest(file.sha256), stamp=stamp)
            elif (found := _hints.follow(self._layout, key, file) or self._since(file)) is not None:
                return Stored(digest=found[0], stamp=found[1])
            partial, digest, fetched = self._complete(file, alone=alone)
            try:
                stamp = self._publish(file, partial, digest, settled=settled)
            finally:
                partial.close()
            partial.discard()
            if file.sha256 is None and key.startswith("g-"):
                _hints.leave(self._layout, key, digest)
            return Stored(digest=digest, stamp=stamp, fetched=fetched)

    @contextmanager
    def archive(self, file: RemoteFile) -> "Iterator[Callable[[], tuple[Path, int]]]":
        """Claim a file that stays among the partial ones: until the context is left no other pull takes it over.

        The function that is given fetches and verifies it; its path, and how many bytes were fetched.
        """
        with self._claimed(file) as alone:

            def fetch() -> tuple[Path, int]:
                partial, _, fetched = self._complete(file, alone=alone)
                partial.close()
                return partial.path, fetched

            yield fetch

    def _since(self, file: RemoteFile) -> tuple[Digest, Stamp] | None:
        """A file that a snapshot names which another pull has recorded meanwhile."""
        with self._guard:
            if not self._known.is_current(self._layout):
                self._known = Known.of(self._layout, self._remote, self._listing)
            return self._known.stored(file, self._blobs)

    def _publish(self, file: RemoteFile, partial: Partial, digest: Digest, *, settled: bool) -> Stamp:
        if file.sha256 is None:  # only now it is known what it is
            stamp = self._blobs.trusted(digest, None, self._known.stamps(digest))
            if stamp is not None:
                return stamp
        try:
            return self._blobs.publish(partial.path, partial.descriptor, digest, settled=settled)
        except FileNotFoundError:
            stamp = self._blobs.stamp(digest)
            if stamp is None:
                raise NetworkError(f"'{file.path}' was deleted while it was fetched; pull again") from None
            return stamp

    @contextmanager
    def _claimed(self, file: RemoteFile) -> Iterator[bool]:
        key = key_of(self._listing, file)

        def waiting() -> None:
            pid = _partials.activity(self._layout, key)[1]
            owner = f" (process {pid})" if pid is not None else ""
            self._context.notice(f"waiting for another pull of '{file.path}'{owner}")

        with exclusive(
            self._layout.partial / f"{key}.{SUFFIX}",
            waiting=waiting,
            activity=lambda: _partials.activity(self._layout, key),
            clock=self._waiting.clock,
            sleep=self._waiting.pause,
        ) as alone:
            yield alone

    def _complete(self, file: RemoteFile, *, alone: bool) -> tuple[Partial, Digest, int]:
        """A partial that holds the whole verified file, its sha256, and how many bytes were fetched."""
        first = self._download(file, _partials.resume(self._layout, key_of(self._listing, file), alone=alone))
        try:
            digest = self._verified(first)
            return first.partial, digest, first.fetched
        except Damaged:
            self._context.notice(f"'{file.path}' arrived damaged; starting over once")
        second = self._download(file, None)
        try:
            digest = self._verified(second)
            return second.partial, digest, first.fetched + second.fetched
        except Damaged as damage:
            raise IntegrityError(f"'{file.path}' is damaged: {damage}. Nothing was kept") from None

    def _verified(self, download: Download) -> Digest:
        try:
            download.run(Backoff(sleep=self._waiting.pause, message=self._context.notice))
            return download.check()
        except (Damaged, IntegrityError):
            download.partial.discard()
            raise
        except BaseException:
            download.partial.leave()
            raise

    def _download(self, file: RemoteFile, partial: Partial | None) -> Download:
        def seen(path: str, done: int, total: int | None) -> None:
            self._waiting.check()
            self._seen(path, done, total)

        return Download(
            file,
            remote=self._remote,
            listing=self._listing,
            context=self._context,
            begin=lambda: _partials.begin(self._layout, key_of(self._listing, file)),
            partial=partial,
            limit=limit_of(file.path),
            seen=seen,
        )
