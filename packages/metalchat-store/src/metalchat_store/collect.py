"""What nothing refers to any more is found in one walk over the store, and deleted."""

import math
import os
from collections import Counter
from collections.abc import Callable, Set
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from metalchat_store import _partials, _used
from metalchat_store._files import remove
from metalchat_store._heal import heal_files
from metalchat_store._hints import SUFFIX as HINT
from metalchat_store._layout import Layout
from metalchat_store._locks import SUFFIX, discard
from metalchat_store._walk import blobs_below, changed, changes, inodes, size
from metalchat_store.blobs import Blobs
from metalchat_store.digest import Digest
from metalchat_store.entries import Entries
from metalchat_store.roots import Roots
from metalchat_store.snapshots import Snapshot, SnapshotFile, Snapshots
from metalchat_store.types import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What `gc` deleted, or would delete.

    `models` were evicted. `snapshots` counts earlier states, `blobs` contents. `bytes` counts what became free on the
    disk: content that another program has under a name of its own does not. `too_large`: the bytes of content above
    `max_size` that are left, since what uses them is pinned, checked out, locked or was used just now. Contents, states
    and bytes are those of models, datasets and spaces together.
    """

    models: tuple[Entry, ...] = ()
    snapshots: int = 0
    blobs: int = 0
    bytes: int = 0
    too_large: int = 0

    def plus(self, other: "Collected") -> "Collected":
        """Both together."""
        return Collected(
            models=self.models + other.models,
            snapshots=self.snapshots + other.snapshots,
            blobs=self.blobs + other.blobs,
            bytes=self.bytes + other.bytes,
            too_large=self.too_large + other.too_large,
        )


@dataclass(slots=True)
class _Seen:
    """One walk: every entry and snapshot, and what they refer to."""

    entries: dict[str, Entry] = field(default_factory=dict)
    current: dict[str, Snapshot] = field(default_factory=dict)
    kept: dict[Path, Snapshot] = field(default_factory=dict)
    old: dict[Path, tuple[str, str]] = field(default_factory=dict)  # id and commit
    unsure: set[Path] = field(default_factory=set)  # kept, since it cannot be read what is there or what is locked
    inodes: set[int] = field(default_factory=set)  # of entries whose record is lost

    def digests(self) -> dict[Digest, int]:
        """Every content that is kept, with its size."""
        return {file.digest: file.size for snapshot in self.kept.values() for file in snapshot.files}


class Collector:
    """One collection. What is younger than `grace` seconds at the time `now` may belong to a pull in flight.

    `partials`: what interrupted pulls would go on from goes too, however young. `unlinked` counts the names of inodes
    that a real run would have removed already, for all that a dry run goes over.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        now: float,
        grace: float,
        changing: Callable[[str], AbstractContextManager[None]],
        dry_run: bool,
        partials: bool,
        unlinked: Counter[int],
    ) -> None:
        self._layout = layout
        self._entries = Entries(layout)
        self._snapshots = Snapshots(layout)
        self._blobs = Blobs(layout.blobs)
        self._roots = Roots(layout)
        self._now = now
        self._before = now - grace
        self._changing = changing
        self._dry_run = dry_run
        self._partials = partials
        self._unlinked = unlinked
        self._evicted: dict[int, float] = {}  # inodes, and when they changed before they lost a name here

    def run(self, max_size: int | None) -> Collected:
        """Evict, then forget earlier states, then delete what nothing names. Killed anywhere, the next run goes on."""
        roots = self._roots.all()
        locked = {(root.id, root.commit) for root in roots if root.kind == "lock"}
        seen = self._look(locked)
        evicted, left = ((), 0) if max_size is None else self._evict(seen, max_size, {root.id for root in roots})
        former = self._former(seen) if self._pending() else None
        gone = sum(self._forget(path, id, commit) for path, (id, commit) in seen.old.items())
        blobs, freed = self._sweep(seen, former)
        freed += self._tidy(seen)
        return Collected(models=tuple(evicted), snapshots=gone, blobs=blobs, bytes=freed, too_large=left)

    def _look(self, locked: Set[tuple[str, str | None]]) -> _Seen:
        seen = _Seen()
        seen.entries = {entry.id: entry for entry in self._entries.all()}
        for id, commit, path in self._snapshots.paths():
            entry = seen.entries.get(id)
            now = entry is not None and (entry.commit is None or entry.commit == commit)
            unknown = (id, None) in locked
            if now or unknown or (id, commit) in locked or self._is_recent(path):
                snapshot = self._snapshots.parse(id, path)
                if snapshot is not None:
                    seen.kept[path] = snapshot
                    if entry is not None and entry.commit is None:
                        seen.unsure.add(path)
                    elif now:
                        seen.current[id] = snapshot
                    elif unknown:
                        seen.unsure.add(path)
            else:
                seen.old[path] = (id, commit)
        for id, entry in seen.entries.items():
            if id not in seen.current:  # unknown, or without a record
                seen.inodes |= set(inodes(entry.path))
        return seen

    def _is_recent(self, path: Path) -> bool:
        try:
            facts = path.lstat()
        except FileNotFoundError:
            return True
        return changed(facts) >= self._before

    def _evict(self, seen: _Seen, max_size: int, held: Set[str]) -> tuple[list[Entry], int]:
        """Remove the models that were not used for the longest time until the kept content fits."""
        users: dict[Digest, int] = {}
        sizes = seen.digests()
        for path, snapshot in seen.kept.items():
            for digest in {file.digest for file in snapshot.files} if path not in seen.unsure else ():
                users[digest] = users.get(digest, 0) + 1
        total = sum(sizes[digest] for digest in users)
        evicted: list[Entry] = []
        for last, id in sorted((_used.last(self._layout, id), id) for id in seen.current):
            if total <= max_size:
                break
            if id in held or last + _used.EVERY >= self._before or not self._remove(id, last):
                continue
            mine = [path for path, snapshot in seen.kept.items() if snapshot.id == id]
            for digest in [digest for path in mine for digest in {file.digest for file in seen.kept[path].files}]:
                users[digest] -= 1
                total -= 0 if users[digest] else sizes[digest]
            for path in mine:
                seen.old[path] = (id, seen.kept.pop(path).commit)
            evicted.append(seen.entries[id])
        return evicted, max(0, total - max_size)

    def _remove(self, id: str, last: float) -> bool:
        """Take a model away, unless it was selected, pinned or used since the walk."""
        if self._dry_run:
            self._unlinked.update(inodes(self._layout.models / id))
            return True
        with self._changing(id):
            if self._roots.of(id) or _used.last(self._layout, id) != last:
                return False
            for inode, when in changes(self._layout.models / id):
                self._evicted.setdefault(inode, when)
            with suppress(FileNotFoundError):
                remove(self._entries.take_away(id))
            _used.forget(self._layout, id)
        return True

    def _forget(self, path: Path, id: str, commit: str) -> bool:
        """Delete an earlier state, unless an update or a rollback has just made it the present one."""
        if self._dry_run:
            return True
        with self._changing(id):
            with suppress(FileNotFoundError):
                if self._entries.read(id).commit in (None, commit):
                    return False
            with suppress(FileNotFoundError):
                path.unlink()
        return True

    def _useless(self) -> set[Path]:
        return set(_partials.useless(self._layout, frozenset(), now=math.inf if self._partials else self._now))

    def _pending(self) -> bool:
        """Whether a pull is on its way, or was interrupted and may go on."""
        useless = self._useless()
        with suppress(FileNotFoundError), os.scandir(self._layout.partial) as found:
            return any(item.name.endswith(".part") and Path(item.path) not in useless for item in found)
        return False

    def _former(self, seen: _Seen) -> frozenset[Digest]:
        """What the states name that are about to be forgotten."""
        snapshots = [self._snapshots.parse(id, path) for path, (id, _) in seen.old.items()]
        return frozenset(file.digest for snapshot in snapshots if snapshot is not None for file in snapshot.files)

    def _sweep(self, seen: _Seen, former: Set[Digest] | None) -> tuple[int, int]:
        """Delete the blobs that no kept snapshot names; give those that lost their name a new one.

        Of these only the `former` ones, unless None: the others may be the first files of a pull that is not over.
        """
        named = seen.digests()
        there: set[Digest] = set()
        doomed: list[tuple[Digest, os.stat_result]] = []
        for digest, path in blobs_below(self._layout.blobs):
            there.add(digest)
            if digest not in named and (former is None or digest in former):
                with suppress(FileNotFoundError):
                    facts = os.lstat(path)
                    recent = self._evicted.get(facts.st_ino, changed(facts)) >= self._before
                    if not recent and facts.st_ino not in seen.inodes:
                        doomed.append((digest, facts))
        if not self._dry_run:
            named_since = self._named_since(seen) if doomed else frozenset()
            doomed = [(digest, facts) for digest, facts in doomed if digest not in named_since]
            for digest, _ in doomed:
                self._blobs.delete(digest)
            for id, snapshot in seen.current.items():
                lost = [file for file in snapshot.files if file.digest not in there]
                if lost:
                    self._heal(seen.entries[id], lost)
        freed = sum(facts.st_size for _, facts in doomed if facts.st_nlink - self._unlinked[facts.st_ino] <= 1)
        if self._dry_run:
            self._unlinked.update(facts.st_ino for _, facts in doomed)
        return len(doomed), freed

    def _named_since(self, seen: _Seen) -> frozenset[Digest]:
        """What snapshots name that were written, or became the present ones, since the walk."""
        found: set[Digest] = set()
        for id, _, path in self._snapshots.paths():
            snapshot = None if path in seen.kept else self._snapshots.parse(id, path)
            found |= {file.digest for file in snapshot.files} if snapshot is not None else set()
        return frozenset(found)

    def _heal(self, entry: Entry, lost: list[SnapshotFile]) -> None:
        with suppress(FileNotFoundError):
            heal_files(self._layout, entry.path, lost)

    def _tidy(self, seen: _Seen) -> int:
        """Delete what pulls that ended left behind, damaged content, and notes about models that are not there."""
        useless = self._useless()
        with suppress(FileNotFoundError), os.scandir(self._layout.partial) as found:
            useless |= {
                Path(item.path)
                for item in found
                if item.name.endswith((f".{SUFFIX}", f".{HINT}")) and self._is_old(item)
            }
        with suppress(FileNotFoundError), os.scandir(self._layout.quarantine) as found:
            useless |= {Path(item.path) for item in found if self._is_old(item)}
        freed = sum(size(path) for path in useless)
        if not self._dry_run:
            for path in useless:
                (discard if path.suffix == f".{SUFFIX}" else remove)(path)
            with suppress(FileNotFoundError):
                for name in os.listdir(self._layout.used):  # noqa: PTH208 - names alone
                    if name not in seen.entries:
                        _used.forget(self._layout, name)
            self._roots.forget_gone(self._now)
        return freed

    def _is_old(self, item: os.DirEntry[str]) -> bool:
        try:
            return item.stat(follow_symlinks=False).st_ctime < self._before
        except FileNotFoundError:
            return False
