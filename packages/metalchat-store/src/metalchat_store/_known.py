"""What the snapshots of a store tell about its blobs."""

from collections import defaultdict
from collections.abc import Iterable

from metalchat_store.blobs import Blobs, Stamp
from metalchat_store.digest import Digest
from metalchat_store.remote import RemoteFile
from metalchat_store.snapshots import Snapshot


class Known:
    """An index over all snapshots: stamps by digest, digests by git id and by stamp."""

    def __init__(self, snapshots: Iterable[Snapshot]) -> None:
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
