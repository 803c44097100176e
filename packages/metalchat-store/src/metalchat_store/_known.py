"""What the snapshots of a store tell about its blobs."""

import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress

from metalchat_store._layout import Layout
from metalchat_store.blobs import Blobs, Stamp
from metalchat_store.digest import Digest
from metalchat_store.remote import Adopts, Listing, Remote, RemoteFile, Unpacks
from metalchat_store.snapshots import Snapshot, Snapshots

_TICK = 1_000_000_000  # nanoseconds within which two changes of a folder may have one time


class Known:
    """An index over snapshots of all kinds: stamps by digest, digests by git id and by stamp."""

    def __init__(self, snapshots: Iterable[Snapshot], as_of: tuple[int, ...] = ()) -> None:
        self._as_of = as_of
        self._stamps: dict[Digest, set[Stamp]] = defaultdict(set)
        self._by_git: dict[str, Digest] = {}
        self._by_stamp: dict[Stamp, Digest] = {}
        for snapshot in snapshots:
            for file in snapshot.files:
                if file.git_sha1 is not None:
                    self._by_git[file.git_sha1] = file.digest
                if file.stamp is not None:
                    self._stamps[file.digest].add(file.stamp)
                    self._by_stamp[file.stamp] = file.digest

    @classmethod
    def of(cls, layout: Layout, remote: Remote, listing: Listing) -> "Known":
        """What the snapshots tell that name a listed file, or all of them where the listing does not tell enough."""
        as_of = _changed(layout)
        if any(abs(time.time_ns() - moment) < _TICK for moment in as_of):
            as_of = ()
        kinds = [Snapshots(kind) for kind in (layout, *layout.others)]
        if isinstance(remote, Adopts | Unpacks):
            return cls((snapshot for snapshots in kinds for snapshot in snapshots.all()), as_of)
        listed = {identity for file in listing.files for identity in (file.sha256, file.git_sha1) if identity}
        return cls((snapshot for snapshots in kinds for snapshot in snapshots.naming(listed)), as_of)

    def is_current(self, layout: Layout) -> bool:
        """Whether certainly no snapshot was written since."""
        return bool(self._as_of) and self._as_of == _changed(layout)

    def stamps(self, digest: Digest) -> frozenset[Stamp]:
        """Every recorded stamp of a blob."""
        return frozenset(self._stamps.get(digest, ()))

    def digest(self, file: RemoteFile) -> Digest | None:
        """The sha256 of a listed file, if the listing or an earlier pull tells it."""
        if file.sha256 is not None:
            return Digest(file.sha256)
        return self._by_git.get(file.git_sha1) if file.git_sha1 is not None else None

    def stored(self, file: RemoteFile, blobs: Blobs) -> tuple[Digest, Stamp] | None:
        """A listed file that the store has already, certainly whole."""
        digest = self.digest(file)
        stamp = blobs.trusted(digest, file.size, self.stamps(digest)) if digest is not None else None
        return (digest, stamp) if digest is not None and stamp is not None else None

    def shared(self, stamp: Stamp) -> Digest | None:
        """The blob that has exactly this stamp: the same file, if it lies on the same file system."""
        return self._by_stamp.get(stamp)


def _changed(layout: Layout) -> tuple[int, ...]:
    """When a snapshot of each kind was last written or deleted, in nanoseconds; nothing before the first one."""
    found: list[int] = []
    for kind in (layout, *layout.others):
        with suppress(FileNotFoundError):
            found.append(kind.snapshots.stat().st_mtime_ns)
    return tuple(found)
