"""Datasets and spaces that the store keeps: pulled, listed, verified, opened by path and removed like models."""

import os
import re
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from metalchat_store._bring import brought
from metalchat_store._fetching import Fetching, Means, fetching
from metalchat_store._files import create, disk_errors, make_folder, read_file, remove, sync_file, sync_folder, write_at
from metalchat_store._layout import Layout
from metalchat_store._locks import entry_lock
from metalchat_store._publish import fill, show
from metalchat_store.blobs import Blobs
from metalchat_store.checks import examine, look, record
from metalchat_store.entries import MANIFEST, Entries, difference, quote
from metalchat_store.errors import AmbiguousModel, Corrupted, InvalidRepository, ModelNotFound
from metalchat_store.filters import Filter
from metalchat_store.history import whole
from metalchat_store.kept import Kept, KeptNow, KeptRepaired, KeptVerification
from metalchat_store.remote import Authorizer, Listing, RemoteFile, Unpacks
from metalchat_store.repair import bring, set_aside
from metalchat_store.selection import short_name
from metalchat_store.snapshots import Snapshot, SnapshotFile, Snapshots
from metalchat_store.sources import Remotes
from metalchat_store.transfer import Stored
from metalchat_store.types import FileCheck, Progress

KINDS = ("dataset", "space")
_PREFIX = re.compile(r"[0-9a-f]{4,40}")
_LIMIT = 1 << 20
_RECENT = 3600.0  # seconds for which a snapshot without an entry may belong to a pull in flight


class Repositories:
    """The datasets, or the spaces, below `home` ($METALCHAT_HOME). The arguments are those of `Store`.

    Every method raises errors of `metalchat_store.errors` and no others.
    """

    def __init__(
        self,
        home: Path,
        kind: str,
        *,
        environ: Mapping[str, str] | None = None,
        remotes: Remotes | None = None,
        sleep: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        client: object | None = None,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind is {' or '.join(KINDS)}")
        self.kind = kind
        self._means = Means(
            environ=os.environ if environ is None else environ,
            remotes={} if remotes is None else remotes,
            sleep=sleep,
            clock=clock,
            client=client,
        )
        self._layout = Layout.of(home, kind)
        self._snapshots = Snapshots(self._layout)
        self._blobs = Blobs(self._layout.blobs)

    def pull(
        self,
        repository: str,
        *,
        files: Sequence[str] = (),
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        revision: str | None = None,
        authorize: Authorizer | None = None,
        progress: Progress | None = None,
    ) -> KeptNow:
        """Bring a repository into the store, or up to date: all of it, or the files that are named.

        What an earlier pull brought stays, in the version of this one. Raises as `Store.pull` does.
        """
        wanted = Filter(files=files, include=include, exclude=exclude)
        with (
            fetching(
                self._layout,
                self._means,
                repository,
                revision=revision,
                authorize=authorize,
                progress=progress,
                kind=self.kind,
            ) as opened,
            disk_errors(self._layout.home),
        ):
            if isinstance(opened.remote, Unpacks):
                raise InvalidRepository(f"'{opened.source.scheme}:' addresses carry models, no {self.kind}s")
            self._layout.prepare()
            return self._pull(opened, wanted)

    def list(self) -> tuple[Kept, ...]:
        """All of them, by id; nothing is hashed."""
        with disk_errors(self._layout.home, reading=True):
            return tuple(self._all())

    def find(self, reference: str) -> Kept:
        """The one with that id, unique prefix of it of at least 4 characters, or unique part of its name.

        Raises `ModelNotFound`, `AmbiguousModel`.
        """
        known, word = self.list(), reference.strip().lower()
        names = [(kept, short_name(kept.repository or "").lower()) for kept in known]
        for found in (
            [kept for kept in known if _PREFIX.fullmatch(word) and kept.id.startswith(word)],
            [kept for kept in known if word and word == (kept.repository or "").lower()],
            [kept for kept, name in names if word and word in (name, name.partition("/")[2], name.rpartition("/")[2])],
            [kept for kept, name in names if word and word in name],
        ):
            if len(found) > 1:
                listed = ", ".join(f"{kept.id[:7]} {short_name(kept.repository or '')}" for kept in found[:8])
                raise AmbiguousModel(
                    f"'{reference}' names {len(found)} {self.kind}s: {listed}", candidates=[kept.id for kept in found]
                )
            if found:
                return found[0]
        raise ModelNotFound(f"{self.kind} '{reference}' not found")

    def remove(self, reference: str) -> Kept:
        """Delete one, damaged or not, and the content that nothing else of its kind uses."""
        with disk_errors(self._layout.home):
            kept = self.find(reference)
            self._layout.prepare()
            with self._locked(kept.id):
                gone = Entries(self._layout).take_away(kept.id)
                lost = self._snapshots.orphans(frozenset(Entries(self._layout).ids()), before=time.time() - _RECENT)
                self._snapshots.forget(self._snapshots.others(kept.id) | lost, self._blobs)
            remove(gone)
            return kept

    def verify(self, reference: str, progress: Progress | None = None) -> KeptVerification:
        """Hash every file. What is damaged is remembered, and the next pull repairs it."""
        with disk_errors(self._layout.home, reading=True):
            seen = _ignore if progress is None else progress.file
            kept, outcome = look(self._layout, lambda: self._recorded(reference), everything=True, seen=seen)
            if outcome is None:
                reason = f"{kept.damaged or 'no record of its files'}; pull it again"
                return KeptVerification(kept=kept, files=(FileCheck(path=MANIFEST, ok=False, reason=reason),))
            return KeptVerification(kept=kept, files=outcome.checks)

    def repair(
        self, reference: str, *, authorize: Authorizer | None = None, progress: Progress | None = None
    ) -> KeptRepaired:
        """Make one what was pulled again, as `Store.repair` does. `Corrupted` where the record of it is lost."""
        checked = self.verify(reference, progress)
        kept, damaged = checked.kept, tuple(check.path for check in checked.files if not check.ok)
        if checked.ok:
            return KeptRepaired(verification=checked)
        with disk_errors(self._layout.home):
            snapshot = self._snapshots.read(kept.id, kept.commit) if kept.commit is not None else None
            if snapshot is None:
                raise Corrupted(f"{self.kind} '{kept.id}' has no record of what was pulled. Pull it again")
            self._layout.prepare()
            missing, moved = set_aside(self._layout, snapshot, kept.path)
            fetched = 0
            if missing:
                commit = None if snapshot.repository.startswith("file:") else snapshot.commit
                with fetching(
                    self._layout,
                    self._means,
                    snapshot.repository,
                    revision=commit,
                    authorize=authorize,
                    progress=progress,
                    kind=self.kind,
                ) as opened:
                    fetched = bring(opened, snapshot, missing)
            with self._locked(kept.id):
                stamped = snapshot.with_stamps(whole(self._layout, snapshot))
                self._snapshots.write(stamped)
                self._publish(stamped)
        after = self.verify(kept.id)
        return KeptRepaired(verification=after, files=damaged, fetched_bytes=fetched, quarantined=moved)

    def path(self, reference: str) -> Path:
        """The folder, checked: what changed size, time or inode is hashed again. Raises `Corrupted`."""
        with disk_errors(self._layout.home, reading=True):
            kept, outcome = look(self._layout, lambda: self._recorded(reference), everything=False)
            damaged = (MANIFEST,) if outcome is None else outcome.damaged
            if damaged:
                raise Corrupted(f"{self.kind} '{kept.id}' is corrupted", files=damaged)
            return kept.path

    def _recorded(self, reference: str) -> tuple[Kept, Snapshot | None]:
        """One and the record of its files."""
        kept = self.find(reference)
        return kept, self._snapshots.read(kept.id, kept.commit) if kept.commit is not None else None

    def _pull(self, fetching: Fetching, wanted: Filter) -> KeptNow:
        from metalchat_manifest import legacy_identifier

        listing = fetching.listing()
        id = legacy_identifier(fetching.source.repository)
        before = self._before(id)
        paths = [file.path for file in listing.files]
        names = set(wanted.choose(paths, where=short_name(fetching.source.repository)))
        if before is not None:
            names |= {file.path for file in before.files}
        chosen = [file for file in listing.files if file.path in names]
        if before is not None and before.commit == listing.commit and len(before.files) == len(chosen):
            kept = self._read(id)
            outcome = examine(kept.path, before, everything=False)
            record(self._layout, before, outcome)
            if not outcome.damaged:
                return KeptNow(kept=kept, already=True, fetched_bytes=0)
        with brought(self._layout, fetching, listing, chosen, chosen) as gatherer:
            snapshot = self._snapshot(id, fetching, listing, chosen, gatherer.stored)
            with self._locked(id):
                self._snapshots.write(snapshot)
                try:
                    self._publish(snapshot)
                except FileNotFoundError:  # another process removed content that both had
                    gatherer.forget_lost()
                    gatherer.gather(chosen)
                    snapshot = self._snapshot(id, fetching, listing, chosen, gatherer.stored)
                    self._snapshots.write(snapshot)
                    self._publish(snapshot)
                self._snapshots.forget(self._snapshots.others(id, keep=snapshot.commit), self._blobs)
        return KeptNow(kept=self._read(id), already=False, fetched_bytes=gatherer.fetched)

    def _snapshot(
        self, id: str, fetching: Fetching, listing: Listing, chosen: Sequence[RemoteFile], stored: Mapping[str, Stored]
    ) -> Snapshot:
        return Snapshot(
            id=id,
            repository=fetching.source.repository,
            commit=listing.commit,
            license=listing.license,
            files=tuple(
                SnapshotFile(
                    path=file.path,
                    size=stored[file.path].stamp.size,
                    digest=stored[file.path].digest,
                    git_sha1=file.git_sha1,
                    stamp=stored[file.path].stamp,
                )
                for file in chosen
            ),
        )

    def _publish(self, snapshot: Snapshot) -> None:
        """Build the folder in private and show it in one rename."""
        building = self._layout.temporary(snapshot.id, "entry")
        try:
            make_folder(building)
            fill(building, self._blobs, snapshot.files)
            descriptor = create(building / MANIFEST)
            try:
                write_at(descriptor, _manifest(self.kind, snapshot).encode(), 0)
                sync_file(descriptor)
            finally:
                os.close(descriptor)
            sync_folder(building)
            show(self._layout, building, self._layout.models / snapshot.id)
        finally:
            remove(building)

    def _all(self) -> Iterator[Kept]:
        for id in Entries(self._layout).ids():
            with suppress(FileNotFoundError):  # removed since it was named
                yield self._read(id)

    def _before(self, id: str) -> Snapshot | None:
        try:
            kept = self._read(id)
        except FileNotFoundError:
            return None
        return None if kept.commit is None else self._snapshots.read(id, kept.commit)

    def _read(self, id: str) -> Kept:
        """One as it looks from outside. Raises `FileNotFoundError`."""
        path = self._layout.models / id
        path.lstat()
        try:
            source = tomllib.loads(read_file(path / MANIFEST, _LIMIT).decode())["source"]
            repository, commit = source["repository"], source["commit"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return Kept(id=id, kind=self.kind, path=path, damaged=f"its {MANIFEST} cannot be read")
        snapshot = self._snapshots.read(id, commit) if isinstance(commit, str) else None
        if snapshot is None or snapshot.repository != repository:
            return Kept(id=id, kind=self.kind, path=path, damaged="the record of its files is missing")
        return Kept(
            id=id,
            kind=self.kind,
            path=path,
            repository=snapshot.repository,
            commit=snapshot.commit,
            files=len(snapshot.files),
            size=snapshot.size,
            damaged=difference(path, snapshot),
        )

    def _locked(self, id: str) -> AbstractContextManager[None]:
        return entry_lock(self._layout, id, _silent, self._means.clock, self._means.sleep or time.sleep)


def _manifest(kind: str, snapshot: Snapshot) -> str:
    return (
        f"[source]\nkind = {quote(kind)}\nrepository = {quote(snapshot.repository)}\n"
        f"commit = {quote(snapshot.commit)}\nfiles = {len(snapshot.files)}\nbytes = {snapshot.size}\n"
    )


def _silent(_text: str) -> None:
    return None


def _ignore(_path: str, _done: int, _total: int | None) -> None:
    return None
