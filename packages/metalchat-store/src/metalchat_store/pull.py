"""A pull: list, compare, fetch, detect, record, publish, in this order, so that a kill at any point loses nothing."""

import shutil
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from metalchat_store import _partials
from metalchat_store._backoff import Backoff
from metalchat_store._files import disk_errors, no_space
from metalchat_store._gather import Gatherer
from metalchat_store._known import Known
from metalchat_store._layout import Layout
from metalchat_store._locks import entry_lock
from metalchat_store._notices import update_notices
from metalchat_store._publish import publish
from metalchat_store._release import release
from metalchat_store.blobs import Blobs
from metalchat_store.checks import examine, record
from metalchat_store.detect import config_architecture, gguf_architecture, indexed_shards, partitioning, read_json
from metalchat_store.entries import Entries
from metalchat_store.errors import NotAModel, UntrustedData
from metalchat_store.remote import Adopts, Listing, Remote, RemoteContext, RemoteFile, Unpacks
from metalchat_store.selection import INDEX, Selection, select, short_name
from metalchat_store.snapshots import Snapshot, SnapshotFile, Snapshots
from metalchat_store.sources import Source, ask, normalise
from metalchat_store.transfer import Stored, Waiting, key_of
from metalchat_store.types import Entry, Plan, Progress, Pulled

if TYPE_CHECKING:
    from metalchat_manifest import ModelSpec


class Pull:
    """One pull from one remote."""

    def __init__(
        self,
        *,
        layout: Layout,
        source: Source,
        revision: str | None,
        remote: Remote,
        context: RemoteContext,
        waiting: Waiting,
        progress: Progress | None,
    ) -> None:
        self._layout = layout
        self._source = source
        self._revision = revision
        self._remote = remote
        self._context = context
        self._waiting = waiting
        self._progress = progress
        self._blobs = Blobs(layout.blobs)
        self._snapshots = Snapshots(layout)
        self._entries = Entries(layout)
        self._missing: int | None = None

    def plan(self) -> Plan:
        """What `run` would fetch. Nothing is written and nothing is hashed."""
        listing = self._listing()
        known = Known(self._snapshots.all())
        wanted = self._wanted(listing)

        def has(file: RemoteFile) -> bool:
            digest = known.digest(file)
            stamp = None if digest is None else self._blobs.stamp(digest)
            return stamp is not None and stamp.size == (stamp.size if file.size is None else file.size)

        whole = isinstance(self._remote, Unpacks) and self._seems_whole(listing)
        return self._plan(listing, wanted, [] if whole else [file for file in wanted if not has(file)])

    def run(self) -> Pulled:
        """Bring the model into the store and return its entry."""
        with disk_errors(self._layout.home, lambda: self._missing):
            self._layout.prepare()
            listing = self._listing()
            entry = self._whole_entry(listing)
            if entry is not None:
                if self._snapshots.others(entry.id, keep=listing.commit):
                    with self._locked(entry.id):
                        self._settle(entry.id, listing.commit)
                self._tidy(listing, entry.id)
                return Pulled(entry=entry, already=True, fetched_bytes=0)
            known = Known(self._snapshots.all())
            wanted = self._wanted(listing)
            present = self._present(wanted, known)
            plan = self._plan(listing, wanted, [file for file in wanted if file.path not in present])
            self._make_sure_of_space(listing, plan, present)
            if self._progress is not None:
                self._progress.plan(plan)
            try:
                with Gatherer(
                    layout=self._layout,
                    remote=self._remote,
                    listing=listing,
                    context=self._context,
                    waiting=self._waiting,
                    known=known,
                    present=present,
                    seen=self._seen,
                ) as gatherer:
                    pulled = self._meanwhile(listing, gatherer) or self._guarded(listing, gatherer)
            except UntrustedData:
                if isinstance(self._remote, Unpacks):  # an archive that is of no use is not kept for the next pull
                    self._tidy(listing)
                raise
            self._tidy(listing, pulled.entry.id)
            return pulled

    def _listing(self) -> Listing:
        backoff = Backoff(sleep=self._waiting.pause, message=self._context.notice)
        return ask(self._remote, self._source, self._revision, self._context, backoff)

    def _whole_entry(self, listing: Listing) -> Entry | None:
        """The entry that holds exactly this listing, undamaged; damage is recorded, so that the pull repairs it."""
        for entry in self._entries.all():
            if entry.spec is None or entry.commit != listing.commit:
                continue
            snapshot = self._snapshots.read(entry.id, entry.commit)
            if snapshot is None or normalise(entry.spec.repository) != self._source.repository:
                continue
            outcome = examine(entry, snapshot, everything=False, seen=self._seen)
            record(self._layout, snapshot, outcome)
            if not outcome.damaged:
                return entry
        return None

    def _wanted(self, listing: Listing) -> tuple[RemoteFile, ...]:
        if isinstance(self._remote, Unpacks):
            return listing.files
        names = select(self._source.repository, listing.files, self._source.gguf).names
        by_name = {file.path: file for file in listing.files}
        return tuple(by_name[name] for name in names)

    def _seems_whole(self, listing: Listing) -> bool:
        """Whether there is an entry of this commit that is not visibly damaged."""
        return any(
            entry.spec is not None
            and entry.damaged is None
            and entry.commit == listing.commit
            and normalise(entry.spec.repository) == self._source.repository
            for entry in self._entries.all()
        )

    def _present(self, wanted: Iterable[RemoteFile], known: Known) -> Mapping[str, Stored]:
        if isinstance(self._remote, Unpacks):
            return {}
        found = ((file.path, known.stored(file, self._blobs)) for file in wanted)
        return {path: Stored(digest=have[0], stamp=have[1]) for path, have in found if have is not None}

    def _plan(self, listing: Listing, wanted: tuple[RemoteFile, ...], missing: Iterable[RemoteFile]) -> Plan:
        total: int | None = 0
        for file in () if isinstance(self._remote, Adopts) else missing:
            total = None if total is None or file.size is None else total + file.size
        return Plan(
            repository=self._source.repository,
            commit=listing.commit,
            files=wanted,
            download_bytes=total,
            license=listing.license,
        )

    def _make_sure_of_space(self, listing: Listing, plan: Plan, present: Mapping[str, Stored]) -> None:
        """`DiskError` before the first byte unless all that is missing fits, with one per cent to spare."""
        needed = plan.download_bytes or 0
        for file in plan.files:
            if file.path not in present:
                needed -= min(_partials.activity(self._layout, key_of(listing, file))[0], file.size or 0)
        if isinstance(self._remote, Unpacks):
            needed += plan.download_bytes or 0
        self._make_room(needed)

    def _make_room(self, needed: int) -> None:
        needed = max(0, needed + needed // 100)
        self._missing = needed
        if needed > shutil.disk_usage(self._layout.home).free:
            raise no_space(self._layout.home, needed)

    def _meanwhile(self, listing: Listing, gatherer: Gatherer) -> Pulled | None:
        """What another process pulled while this one waited for the archive, which is gone then."""
        if not isinstance(self._remote, Unpacks):
            return None
        gatherer.claim()
        entry = self._whole_entry(listing)
        return None if entry is None else Pulled(entry=entry, already=True, fetched_bytes=0)

    def _guarded(self, listing: Listing, gatherer: Gatherer) -> Pulled:
        try:
            return self._complete(listing, gatherer)
        except UntrustedData:
            release(self._layout, (stored.digest for stored in gatherer.stored.values()))
            raise

    def _complete(self, listing: Listing, gatherer: Gatherer) -> Pulled:
        try:
            return self._attempt(listing, gatherer)
        except FileNotFoundError:  # another process removed a model that shares content with this one
            gatherer.forget_lost()
            return self._attempt(listing, gatherer)

    def _attempt(self, listing: Listing, gatherer: Gatherer) -> Pulled:
        found, selection, architecture = self._bring(listing, gatherer)
        spec = self._spec(selection, architecture)
        snapshot = Snapshot(
            id=spec.id,
            repository=self._source.repository,
            commit=listing.commit,
            license=listing.license,
            files=tuple(_record(found[name], gatherer.stored[name]) for name in selection.names),
        )
        with self._locked(spec.id):
            before = self._before(spec.id)
            notices = update_notices(self._blobs, before, snapshot)
            self._show(spec, snapshot, before)
            self._settle(spec.id, listing.commit)
        adopted = gatherer.adopted()
        if adopted == "hard link":
            notices += ("the model shares its files with their source: a change there damages it",)
        path = self._layout.models / spec.id
        return Pulled(
            entry=Entry(id=spec.id, spec=spec, path=path, size=snapshot.size, commit=snapshot.commit),
            already=False,
            fetched_bytes=gatherer.fetched,
            adopted=adopted,
            notices=notices,
        )

    def _bring(self, listing: Listing, gatherer: Gatherer) -> tuple[Mapping[str, RemoteFile], Selection, str]:
        """All files into the blobs, the small ones first: an unknown model is refused before its weights come."""
        if isinstance(self._remote, Unpacks):
            members = gatherer.members(self._remote)
            found = {member.path: RemoteFile(path=member.path, size=member.size) for member in members.values()}

            def bring(names: Iterable[str]) -> None:
                gatherer.unpack(members[name] for name in names)

        else:
            found = {file.path: file for file in listing.files}

            def bring(names: Iterable[str]) -> None:
                gatherer.gather(found[name] for name in names)

        selection = select(self._source.repository, found.values(), self._source.gguf)
        if isinstance(self._remote, Unpacks):  # before, only the size of the archive was known
            self._make_room(sum(found[name].size or 0 for name in selection.names if name not in gatherer.stored))
        bring(selection.others)
        if selection.variant == "gguf":
            bring(selection.weights)
            name = selection.weights[0]
            return found, selection, gguf_architecture(gatherer.path(name), name)
        if selection.variant == "meta":
            read_json(gatherer.path("params.json"), "params.json")
            architecture = "llama3"
        else:
            architecture = config_architecture(gatherer.path("config.json"))
        if INDEX in selection.others:
            selection = replace(selection, weights=indexed_shards(gatherer.path(INDEX), found))
        bring(selection.weights)
        return found, selection, architecture

    def _spec(self, selection: Selection, architecture: str) -> "ModelSpec":
        from metalchat_manifest import ManifestError, ModelSpec

        try:
            return ModelSpec(
                repository=self._source.repository,
                architecture=architecture,
                partitioning=partitioning(selection),
                variant=selection.variant,
            )
        except ManifestError as error:
            raise NotAModel(f"'{short_name(self._source.repository)}' is not a model: {error}") from error

    def _before(self, id: str) -> Snapshot | None:
        try:
            entry = self._entries.read(id)
        except FileNotFoundError:
            return None
        return self._snapshots.read(id, entry.commit)

    def _show(self, spec: "ModelSpec", snapshot: Snapshot, before: Snapshot | None) -> None:
        """Record, then publish, unless another process has just published the same."""
        same = before is not None and before.commit == snapshot.commit
        if same and before is not None and _content(before) == _content(snapshot):
            entry = self._entries.read(snapshot.id)
            if entry.damaged is None and not examine(entry, snapshot, everything=False).damaged:
                self._snapshots.write(snapshot)
                return
        self._snapshots.write(snapshot)
        publish(self._layout, spec, snapshot, before=before)

    def _settle(self, id: str, commit: str) -> None:
        """Forget the commits of an entry that were replaced, with the content that only they had."""
        others = self._snapshots.others(id, keep=commit)
        if others and self._entries.read(id).commit == commit:
            self._snapshots.forget(others, self._blobs)

    def _tidy(self, listing: Listing, *ids: str) -> None:
        """Delete what is of no more use among the unfinished files."""
        _partials.tidy(self._layout, frozenset([*ids, *(key_of(listing, file) for file in listing.files)]))

    def _locked(self, id: str) -> AbstractContextManager[None]:
        return entry_lock(self._layout, id, self._context.notice, self._waiting.clock, self._waiting.pause)

    def _seen(self, path: str, done: int, total: int | None) -> None:
        if self._progress is not None:
            self._progress.file(path, done, total)


def _record(file: RemoteFile, stored: Stored) -> SnapshotFile:
    return SnapshotFile(
        path=file.path, size=stored.stamp.size, digest=stored.digest, git_sha1=file.git_sha1, stamp=stored.stamp
    )


def _content(snapshot: Snapshot) -> frozenset[tuple[str, str]]:
    return frozenset((file.path, file.digest.hex) for file in snapshot.files)
