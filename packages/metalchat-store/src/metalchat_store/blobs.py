"""Content by its SHA-256: written once, complete or absent."""

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from metalchat_store._files import hash_file, is_link, make_folder, open_regular, sync_file, sync_folder
from metalchat_store._layout import Layout
from metalchat_store.digest import Digest

_TOGETHER = 8  # files that are synchronised at once


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file does: a record of it is what saves hashing again."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, facts: os.stat_result) -> "Stamp":
        return cls(facts.st_size, facts.st_mtime_ns, facts.st_ino)


class Blobs:
    """The folder `blobs/sha256`. Content of another kind `beside` gets a second name here instead of being copied."""

    def __init__(self, root: Path, beside: Layout | None = None) -> None:
        self.root = root
        self._beside = beside

    @classmethod
    def of(cls, layout: Layout) -> "Blobs":
        """Those of one kind of repository, beside those of the other kinds."""
        return cls(layout.blobs, layout)

    def path(self, digest: Digest) -> Path:
        """Where the content is, or would be."""
        return digest.below(self.root)

    def stamp(self, digest: Digest) -> Stamp | None:
        """Size, time and inode of a blob; None if there is none. `DiskError` for a link."""
        path = self.path(digest)
        try:
            facts = path.lstat()
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(facts.st_mode):
            raise is_link(path)
        return Stamp.of(facts) if stat.S_ISREG(facts.st_mode) else None

    def trusted(self, digest: Digest, size: int | None, known: frozenset[Stamp]) -> Stamp | None:
        """The stamp of a blob that has its content for certain; None if there is none.

        `known` holds the stamps recorded for this digest. A blob with another one, such as one adopted by hard link
        whose source was edited, is hashed again, and deleted if it is damaged.
        """
        stamp = self.stamp(digest)
        if stamp is not None:
            with suppress(FileNotFoundError):  # another process has just deleted it
                if self._is_whole(digest, stamp, size, known):
                    return stamp
                self.delete(digest)
        for other in self._others():
            with suppress(FileNotFoundError):
                stamp = other.stamp(digest)
                if stamp is not None and other._is_whole(digest, stamp, size, known) and self._share(digest, other):
                    return stamp
        return None

    def seems_there(self, digest: Digest, size: int | None) -> bool:
        """Whether there is content of that name and size, which nobody looks into."""
        stamps = (blobs.stamp(digest) for blobs in (self, *self._others()))
        return any(stamp is not None and size in (None, stamp.size) for stamp in stamps)

    def hash(self, digest: Digest, seen: Callable[[int], None] = lambda _: None) -> Digest:
        """What the blob's content really hashes to."""
        return hash_path(self.path(digest), seen)

    def publish(
        self, temporary: Path, descriptor: int, digest: Digest, *, freeze: bool = True, settled: bool = True
    ) -> Stamp:
        """Give verified content its name. `freeze` makes it read-only, which must not be done to a shared inode.

        What is not `settled` may be anything after a power failure, so `settle` comes before a snapshot names it: no
        blob is trusted without one. Such content never takes the place of a blob that is there.
        """
        target = self.path(digest)
        make_folder(target.parent, sync=settled)
        if freeze:
            os.fchmod(descriptor, 0o444)
        if settled or not _linked(temporary, target):
            sync_file(descriptor)
            os.replace(temporary, target)  # noqa: PTH105 - the fault tests count calls of os
            sync_folder(target.parent)
        return Stamp.of(os.fstat(descriptor))

    def settle(self, digests: Iterable[Digest]) -> None:
        """Wait until these blobs and their names are on the medium; at once, so that one flush serves many.

        Raises `FileNotFoundError` for one that was deleted meanwhile.
        """
        paths = [self.path(digest) for digest in digests]
        folders = {path.parent for path in paths}
        if not paths:
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(_TOGETHER, len(paths)), thread_name_prefix="metalchat-sync") as pool:
            list(pool.map(_sync, paths))
            list(pool.map(sync_folder, folders))
        sync_folder(self.root)

    def _is_whole(self, digest: Digest, stamp: Stamp, size: int | None, known: frozenset[Stamp]) -> bool:
        return size in (None, stamp.size) and (stamp in known or self.hash(digest) == digest)

    def _others(self) -> "list[Blobs]":
        return [] if self._beside is None else [Blobs(layout.blobs) for layout in self._beside.others]

    def _share(self, digest: Digest, other: "Blobs") -> bool:
        """Give content of `other` a name here, where the file system can."""
        path = self.path(digest)
        make_folder(path.parent)
        linked = _linked(other.path(digest), path)
        if linked:
            sync_folder(path.parent)
        return linked

    def delete(self, digest: Digest) -> None:
        """Remove a blob, if it is there."""
        with suppress(FileNotFoundError):
            self.path(digest).unlink()


def _linked(temporary: Path, target: Path) -> bool:
    """Give a file a second name, unless that exists or cannot be given."""
    try:
        os.link(temporary, target, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


def _sync(path: Path) -> None:
    descriptor = open_regular(path)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def hash_path(path: Path, seen: Callable[[int], None] = lambda _: None) -> Digest:
    """The digest of a regular file; no link is followed."""
    import hashlib

    hasher = hashlib.sha256()
    descriptor = open_regular(path)
    try:
        hash_file(descriptor, os.fstat(descriptor).st_size, (hasher,), seen)
    finally:
        os.close(descriptor)
    return Digest(hasher.hexdigest())
