"""Whether a model of the store is still what was pulled."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from metalchat_store._files import hash_file, open_regular
from metalchat_store._layout import Layout
from metalchat_store.blobs import Stamp
from metalchat_store.digest import Digest
from metalchat_store.errors import Corrupted
from metalchat_store.names import local_path
from metalchat_store.snapshots import Snapshot, SnapshotFile, Snapshots
from metalchat_store.types import Entry, FileCheck

_LOOKS = 5  # at what is replaced again and again


class _Entry(Protocol):
    @property
    def path(self) -> Path: ...


Looked = TypeVar("Looked", bound=_Entry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The checks of all files, and the stamps that are to be recorded for some of them."""

    checks: tuple[FileCheck, ...]
    stamps: dict[str, Stamp | None]

    @property
    def damaged(self) -> tuple[str, ...]:
        """Names of the files that are not what was pulled."""
        return tuple(check.path for check in self.checks if not check.ok)


def examine(
    folder: Path,
    snapshot: Snapshot,
    *,
    everything: bool,
    seen: Callable[[str, int, int | None], None] = lambda _path, _done, _total: None,
) -> Outcome:
    """Compare the files in the folder of an entry with their record.

    A file whose size, time and inode are the recorded ones is hashed only if `everything` is.
    """
    checks: list[FileCheck] = []
    stamps: dict[str, Stamp | None] = {}
    for file in snapshot.files:
        reason, stamp = _examine(folder, file, everything=everything, seen=seen)
        checks.append(FileCheck(path=file.path, ok=not reason, reason=reason))
        if stamp != file.stamp:
            stamps[file.path] = stamp
    return Outcome(checks=tuple(checks), stamps=stamps)


def look(
    layout: Layout,
    find: Callable[[], tuple[Looked, Snapshot | None]],
    *,
    everything: bool,
    seen: Callable[[str, int, int | None], None] = lambda _path, _done, _total: None,
) -> tuple[Looked, Outcome | None]:
    """Examine what `find` finds, and record the outcome; None where there is no record of its files.

    Damage counts if nobody replaced or removed the entry meanwhile, which looks the same: `find` says what is there.
    """
    for last in (False,) * _LOOKS + (True,):
        entry, snapshot = found = find()
        before = _state(entry.path)
        outcome = None
        if snapshot is not None:
            outcome = examine(entry.path, snapshot, everything=everything, seen=seen)
        whole = outcome is not None and not outcome.damaged
        if whole or last or (_state(entry.path) == before and find() == found):
            break
    if snapshot is not None and outcome is not None:
        record(layout, snapshot, outcome)
    return entry, outcome


def _state(folder: Path) -> tuple[int, int] | None:
    """What changes when another folder takes this name."""
    try:
        facts = folder.lstat()
    except FileNotFoundError:
        return None
    return facts.st_ino, facts.st_ctime_ns


def record(layout: Layout, snapshot: Snapshot, outcome: Outcome) -> None:
    """Remember the stamps, so that the next look is quick and damage is not forgotten. A full disk does not matter."""
    if outcome.stamps:
        with suppress(OSError):
            Snapshots(layout).write(snapshot.with_stamps(outcome.stamps))
            damaged = set(outcome.damaged)
            _doubt(layout, {file.digest: file.stamp for file in snapshot.files if file.path in damaged and file.stamp})


def _doubt(layout: Layout, damaged: dict[Digest, Stamp]) -> None:
    """Let nobody trust the stamps of damaged files, which others may have too, and which may have kept their times."""
    for kind in (layout, *layout.others) if damaged else ():
        snapshots = Snapshots(kind)
        for snapshot in list(snapshots.naming({digest.hex for digest in damaged})):
            stamps = {
                file.path: None for file in snapshot.files if file.stamp and damaged.get(file.digest) == file.stamp
            }
            if stamps:
                snapshots.write(snapshot.with_stamps(stamps))


def corrupted(entry: Entry, files: tuple[str, ...] = ()) -> Corrupted:
    """The error for an entry that must not be used."""
    return Corrupted(f"model '{entry.id}' is corrupted", files=files)


def _examine(
    folder: Path, file: SnapshotFile, *, everything: bool, seen: Callable[[str, int, int | None], None]
) -> tuple[str, Stamp | None]:
    path = local_path(folder, file.path)
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        return "it is missing", None
    except OSError as error:
        return f"it cannot be read: {(error.strerror or 'unknown reason').lower()}", None
    try:
        stamp = Stamp.of(os.fstat(descriptor))
        if stamp.size != file.size:
            return f"it has {stamp.size:,} bytes instead of {file.size:,}", None
        if not everything and stamp == file.stamp:
            return "", stamp
        digest = _hash(descriptor, file, seen)
    except OSError as error:
        return f"it cannot be read: {(error.strerror or 'unknown reason').lower()}", None
    finally:
        os.close(descriptor)
    if digest != file.digest:
        return f"expected sha256 {file.digest.hex[:6]}…, found {digest.hex[:6]}…", None
    return "", stamp


def _hash(descriptor: int, file: SnapshotFile, seen: Callable[[str, int, int | None], None]) -> Digest:
    import hashlib

    hasher = hashlib.sha256()
    hash_file(descriptor, file.size, (hasher,), lambda done: seen(file.path, done, file.size))
    return Digest(hasher.hexdigest())
