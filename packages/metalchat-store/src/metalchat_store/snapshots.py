"""What a pull brought: every file of a repository at one commit with its size, digest and stamp."""

import errno
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from metalchat_store._files import read_file, write_file
from metalchat_store._layout import Layout
from metalchat_store.blobs import Blobs, Stamp
from metalchat_store.digest import Digest, check_sha1
from metalchat_store.errors import UntrustedData
from metalchat_store.names import check_names, local_path

_LIMIT = 16 << 20
_IDENTITY = re.compile(rb'"([0-9a-f]{40}|[0-9a-f]{64})"')
_NEVER = Stamp(-1, -1, -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFile:
    """One file. `stamp` is that of the hashed file, None where it has to be hashed again."""

    path: str
    size: int
    digest: Digest
    git_sha1: str | None = None
    stamp: Stamp | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The content of one model entry. `id` is the identifier of the entry.

    `revision` is what the pull was asked for, None for the default; `previous` the commit that it replaced.
    """

    id: str
    repository: str
    commit: str
    files: tuple[SnapshotFile, ...]
    license: str | None = None
    revision: str | None = None
    previous: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def with_stamps(self, stamps: Mapping[str, Stamp | None]) -> "Snapshot":
        """The same with other stamps for some paths."""
        return replace(
            self,
            files=tuple(replace(file, stamp=stamps[file.path]) if file.path in stamps else file for file in self.files),
        )


class Snapshots:
    """The folder `snapshots`, one `<id>@<commit>.json` each."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def write(self, snapshot: Snapshot) -> None:
        """Record a snapshot, all or nothing."""
        record = {
            "version": 1,
            "repository": snapshot.repository,
            "commit": snapshot.commit,
            "license": snapshot.license,
            "revision": snapshot.revision,
            "previous": snapshot.previous,
            "files": [_record(file) for file in snapshot.files],
        }
        data = json.dumps(record, indent=1).encode()
        write_file(self._path(snapshot.id, snapshot.commit), data, temporary=self._layout.temporary("snapshot", "tmp"))

    def read(self, id: str, commit: str | None) -> Snapshot | None:
        """The snapshot of an entry; None if there is none that can be read.

        Without a commit, the one that most files of the entry belong to.
        """
        if commit is not None:
            with suppress(UntrustedData, OSError):
                return _parse(id, self._path(id, commit))
            return None
        folder = self._layout.models / id
        return max(self.of(id), key=lambda snapshot: _resemblance(folder, snapshot), default=None)

    def of(self, id: str) -> list[Snapshot]:
        """Every whole snapshot of an entry: what it holds now, and what it held since the last `gc`."""
        found = (_parse(id, path) for owner, path in self._paths() if owner == id)
        return [snapshot for snapshot in found if snapshot is not None]

    def paths(self) -> list[tuple[str, str, Path]]:
        """Id, commit and file of every snapshot."""
        return [(id, path.name.partition("@")[2].removesuffix(".json"), path) for id, path in self._paths()]

    def parse(self, id: str, path: Path) -> Snapshot | None:
        """The snapshot in a file that `paths` named; None if it is missing or damaged."""
        return _parse(id, path)

    def all(self) -> Iterator[Snapshot]:
        """Every snapshot that is whole. An `OSError` is raised: what is not known to be free must not be deleted."""
        for id, path in self._paths():
            snapshot = _parse(id, path)
            if snapshot is not None:
                yield snapshot

    def naming(self, identities: Set[str]) -> Iterator[Snapshot]:
        """Every whole snapshot in which one of these SHA-256 or git ids is; the others are not even parsed."""
        for id, path in self._paths():
            data = _data(path)
            if data is not None and not identities.isdisjoint(map(bytes.decode, _IDENTITY.findall(data))):
                snapshot = _parsed(id, data)
                if snapshot is not None:
                    yield snapshot

    def at(self, commit: str) -> frozenset[str]:
        """The ids of the entries that have a snapshot of a commit."""
        return frozenset(id for id, path in self._paths() if path.name == f"{id}@{commit}.json")

    def others(self, id: str, *, keep: str | None = None) -> frozenset[Path]:
        """The files of the snapshots of an entry, but for that of the commit `keep`."""
        kept = None if keep is None else self._path(id, keep)
        return frozenset(path for owner, path in self._paths() if owner == id and path != kept)

    def orphans(self, ids: frozenset[str], *, before: float) -> frozenset[Path]:
        """The files of snapshots last written `before` that time whose entries are not among `ids`."""
        return frozenset(path for id, path in self._paths() if id not in ids and _written(path) < before)

    def forget(self, paths: frozenset[Path], blobs: Blobs) -> None:
        """Delete snapshots, and first the blobs that only they name, so that a kill leaves nothing nameless."""
        if paths:
            found = {path: _parse(id, path) for id, path in self._paths()}
            named = {path: {file.digest for file in snapshot.files} for path, snapshot in found.items() if snapshot}
            doomed = set().union(*(named.get(path, ()) for path in paths))
            for digest in doomed.difference(*(digests for path, digests in named.items() if path not in paths)):
                blobs.delete(digest)
            for path in paths:
                with suppress(FileNotFoundError):
                    path.unlink()

    def _path(self, id: str, commit: str) -> Path:
        return local_path(self._layout.snapshots, f"{id}@{commit}.json")

    def _paths(self) -> list[tuple[str, Path]]:
        try:
            names = os.listdir(self._layout.snapshots)  # noqa: PTH208 - names alone, and a thousand of them
        except (FileNotFoundError, NotADirectoryError):
            return []
        split = ((name.partition("@")[0], name) for name in names if name.endswith(".json") and "@" in name)
        return [(id, self._layout.snapshots / name) for id, name in sorted(split)]


def _resemblance(folder: Path, snapshot: Snapshot) -> int:
    """How many files of a folder are the very files that the snapshot describes."""
    count = 0
    for file in snapshot.files:
        with suppress(OSError):
            count += Stamp.of(local_path(folder, file.path).lstat()) == file.stamp
    return count


def _written(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return math.inf


def _record(file: SnapshotFile) -> dict[str, object]:
    stamp = file.stamp or _NEVER
    return {
        "path": file.path,
        "size": file.size,
        "sha256": file.digest.hex,
        "git_sha1": file.git_sha1,
        "mtime_ns": stamp.mtime_ns,
        "inode": stamp.inode,
    }


def _data(path: Path) -> bytes | None:
    """None for a file that is missing or too large; `OSError` for one that cannot be read now."""
    try:
        return read_file(path, _LIMIT)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL):
            return None
        raise


def _parse(id: str, path: Path) -> Snapshot | None:
    """None for a file that is missing or damaged; `OSError` for one that cannot be read now."""
    data = _data(path)
    return None if data is None else _parsed(id, data)


def _parsed(id: str, data: bytes) -> Snapshot | None:
    try:
        record = json.loads(data)
        files = tuple(_file(item) for item in record["files"])
        check_names(file.path for file in files)
        repository, commit, license = record["repository"], record["commit"], record.get("license")
        revision, previous = record.get("revision"), record.get("previous")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, UntrustedData):
        return None
    if record.get("version") != 1 or not isinstance(repository, str) or not isinstance(commit, str):
        return None
    return Snapshot(
        id=id,
        repository=repository,
        commit=commit,
        files=files,
        license=license if isinstance(license, str) else None,
        revision=revision if isinstance(revision, str) else None,
        previous=previous if isinstance(previous, str) else None,
    )


def _file(item: Mapping[str, object]) -> SnapshotFile:
    path, size, sha256, git_sha1 = item["path"], item["size"], item["sha256"], item.get("git_sha1")
    mtime_ns, inode = item["mtime_ns"], item["inode"]
    if not (isinstance(path, str) and isinstance(sha256, str) and isinstance(git_sha1, str | None)):
        raise TypeError
    if type(size) is not int or type(mtime_ns) is not int or type(inode) is not int:
        raise TypeError
    return SnapshotFile(
        path=path,
        size=size,
        digest=Digest(sha256),
        git_sha1=None if git_sha1 is None else check_sha1(git_sha1),
        stamp=None if mtime_ns == -1 else Stamp(size, mtime_ns, inode),
    )
