"""A pull: list, compare, fetch, detect, record, publish, in this order, so that a kill at any point loses nothing."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from metalchat_store import _partials
from metalchat_store._fetching import Fetching
from metalchat_store._files import disk_errors, no_space
from metalchat_store._gather import Gatherer
from metalchat_store._known import Known
from metalchat_store._locks import entry_lock
from metalchat_store._made_here import made_here
from metalchat_store._notices import update_notices
from metalchat_store._publish import publish
from metalchat_store._release import release
from metalchat_store._terms import ANYTHING, Terms, held_error
from metalchat_store.blobs import Blobs
from metalchat_store.checks import examine, record
from metalchat_store.describe import Description, describe
from metalchat_store.detect import config_architecture, gguf_architecture, indexed_shards, partitioning, read_json
from metalchat_store.entries import Entries
from metalchat_store.errors import NotAModel, Refused, UntrustedData
from metalchat_store.remote import Adopts, Listing, RemoteFile, Unpacks
from metalchat_store.roots import Roots
from metalchat_store.selection import INDEX, WEIGHTS, Selection, select, short_name
from metalchat_store.snapshots import Snapshot, SnapshotFile, Snapshots
from metalchat_store.sources import normalise
from metalchat_store.transfer import Stored, key_of
from metalchat_store.types import Entry, Plan, Pulled

if TYPE_CHECKING:
    from metalchat_manifest import ModelSpec

_ATTEMPTS = 5


class Pull:
    """One pull from one remote. `suffix` is added to the name of the variant that is found."""

    def __init__(self, fetching: Fetching, terms: Terms = ANYTHING, *, suffix: str = "") -> None:
        layout = fetching.layout
        self._fetching = fetching
        self._terms = terms
        self._suffix = suffix
        self._layout = layout
        self._source = fetching.source
        self._remote = fetching.remote
        self._context = fetching.context
        self._waiting = fetching.waiting
        self._progress = fetching.progress
        self._blobs = Blobs.of(layout)
        self._snapshots = Snapshots(layout)
        self._entries = Entries(layout)
        self._missing: int | None = None
        self._id: str | None = None
        self._held: list[tuple[Entry, str]] = []

    def plan(self) -> Plan:
        """What `run` would fetch. Nothing is written and nothing is hashed."""
        return self._planned(self._listing())

    def describe(self, context: int | None) -> Description:
        """What the model is and needs, from its headers. Nothing is written."""
        listing = self._listing()
        return describe(self._fetching, listing, self._planned(listing), context)

    def _planned(self, listing: Listing) -> Plan:
        known = Known.of(self._layout, self._remote, listing)
        wanted = self._wanted(listing)

        def has(file: RemoteFile) -> bool:
            digest = known.digest(file)
            return digest is not None and self._blobs.seems_there(digest, file.size)

        whole = isinstance(self._remote, Unpacks) and self._seems_whole(listing)
        return self._plan(listing, wanted, [] if whole else [file for file in wanted if not has(file)])

    def run(self) -> Pulled:
        """Bring the model into the store and return its entry."""
        with disk_errors(self._layout.home, lambda: self._missing):
            self._layout.prepare()
            listing = self._listing()
            entry = self._whole_entry(listing)
            if entry is not None:
                self._tidy(listing, entry.id)
                return Pulled(entry=entry, already=True, fetched_bytes=0)
            known = Known.of(self._layout, self._remote, listing)
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
                    seen=self._fetching.seen,
                    copies=self._terms.copies,
                ) as gatherer:
                    pulled = self._meanwhile(listing, gatherer) or self._guarded(listing, gatherer)
            except UntrustedData:
                if isinstance(self._remote, Unpacks):  # an archive that is of no use is not kept for the next pull
                    self._tidy(listing)
                raise
            self._tidy(listing, pulled.entry.id)
            return pulled

    def _listing(self) -> Listing:
        listing = self._fetching.listing()
        self._terms.check_commit(self._source.repository, listing.commit)
        return listing

    def _whole_entry(self, listing: Listing) -> Entry | None:
        """The entry that holds exactly this listing, undamaged; damage is recorded, so that the pull repairs it."""
        for entry in self._candidates(listing):
            if entry.spec is None or entry.commit is None:
                continue
            if normalise(entry.spec.repository) != self._source.repository:
                continue
            if made_here(entry.commit) and entry.commit != listing.commit:
                continue
            if entry.commit != listing.commit:
                why = self._terms.held(entry)
                self._held += [] if why is None else [(entry, why)]
                continue
            snapshot = self._snapshots.read(entry.id, entry.commit)
            if snapshot is None:
                continue
            if not self._matches(listing, snapshot):
                continue
            outcome = examine(entry.path, snapshot, everything=False, seen=self._fetching.seen)
            record(self._layout, snapshot, outcome)
            if not outcome.damaged:
                return entry
        return None

    def _candidates(self, listing: Listing) -> Iterator[Entry]:
        """The entries that may hold this listing, or must stay as they are: not all of a large store are read."""
        ids = frozenset(self._entries.ids())
        with suppress(OSError):  # what may be held cannot be read: all of them are looked at
            ids &= self._snapshots.at(listing.commit) | {root.id for root in Roots(self._layout).all()}
        for id in sorted(ids):
            with suppress(FileNotFoundError):  # removed since it was named
                yield self._entries.read(id)

    def _matches(self, listing: Listing, snapshot: Snapshot) -> bool:
        """Whether a snapshot has the listed identities and none of the small files is left out.

        What was adopted from another program may have other content, or less, under the same commit.
        """
        have = {file.path: file for file in snapshot.files}
        self._terms.check_files({path: file.digest for path, file in have.items()})
        if not self._terms.admits(have.keys()):
            return False
        if isinstance(self._remote, Unpacks):
            return True
        listed = {file.path: file for file in listing.files}
        for path, file in have.items():
            there = listed.get(path)
            if there is None or there.sha256 not in (None, file.digest.hex):
                return False
            if there.sha256 is None and there.git_sha1 is not None and there.git_sha1 != file.git_sha1:
                return False
        return all(file.path in have for file in self._wanted(listing) if not file.path.endswith(WEIGHTS))

    def _wanted(self, listing: Listing) -> tuple[RemoteFile, ...]:
        if isinstance(self._remote, Unpacks):
            return listing.files
        names = self._terms.narrowed(select(self._source.repository, listing.files, self._source.gguf)).names
        by_name = {file.path: file for file in listing.files}
        return tuple(by_name[name] for name in names)

    def _seems_whole(self, listing: Listing) -> bool:
        """Whether there is an entry of this commit that is not visibly damaged."""
        return any(
            entry.spec is not None
            and entry.damaged is None
            and entry.commit == listing.commit
            and normalise(entry.spec.repository) == self._source.repository
            for entry in self._candidates(listing)
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
        except (UntrustedData, Refused):
            release(self._layout, (stored.digest for stored in gatherer.stored.values()))
            raise

    def _complete(self, listing: Listing, gatherer: Gatherer) -> Pulled:
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._attempt(listing, gatherer)
            except FileNotFoundError:  # another process removed a model that shares content with this one
                gatherer.forget_lost()
        if self._id is None:
            return self._attempt(listing, gatherer)
        with self._locked(self._id):  # or this very model, again and again
            return self._attempt(listing, gatherer, locked=True)

    def _attempt(self, listing: Listing, gatherer: Gatherer, *, locked: bool = False) -> Pulled:
        found, selection, architecture = self._bring(listing, gatherer)
        spec = self._spec(selection, architecture)
        self._id = spec.id
        with nullcontext() if locked else self._locked(spec.id):
            before = self._before(spec.id)
            snapshot = Snapshot(
                id=spec.id,
                repository=self._source.repository,
                commit=listing.commit,
                license=listing.license,
                files=tuple(_record(found[name], gatherer.stored[name]) for name in selection.names),
                revision=self._recorded_revision(before),
                previous=_previous(before, listing.commit),
            )
            notices = update_notices(self._blobs, before, snapshot)
            self._show(spec, snapshot, before)
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

        selection = self._terms.narrowed(select(self._source.repository, found.values(), self._source.gguf))
        if isinstance(self._remote, Unpacks):  # before, only the size of the archive was known
            self._make_room(sum(found[name].size or 0 for name in selection.names if name not in gatherer.stored))
        bring(selection.others)
        self._check(listing, gatherer)
        if selection.variant == "gguf":
            bring(selection.weights)
            self._check(listing, gatherer)
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
        self._check(listing, gatherer)
        return found, selection, architecture

    def _check(self, listing: Listing, gatherer: Gatherer) -> None:
        """`Refused` if what has come so far is not what the terms of this pull allow."""
        self._terms.check_files({path: stored.digest for path, stored in gatherer.stored.items()})
        for entry, why in self._held:
            snapshot = self._snapshots.read(entry.id, entry.commit)
            now = {path: gatherer.path(path) for path in gatherer.stored}
            raise held_error(self._blobs, entry, why, snapshot, listing.commit, now)

    def _spec(self, selection: Selection, architecture: str) -> "ModelSpec":
        from metalchat_manifest import ManifestError, ModelSpec

        try:
            return ModelSpec(
                repository=self._source.repository,
                architecture=architecture,
                partitioning=partitioning(selection),
                variant=selection.variant + self._suffix,
            )
        except ManifestError as error:
            raise NotAModel(f"'{short_name(self._source.repository)}' is not a model: {error}") from error

    def _before(self, id: str) -> Snapshot | None:
        try:
            entry = self._entries.read(id)
        except FileNotFoundError:
            return None
        return self._snapshots.read(id, entry.commit)

    def _recorded_revision(self, before: Snapshot | None) -> str | None:
        """What a later update asks for."""
        if self._terms.same_revision:
            return None if before is None else before.revision
        return self._fetching.revision

    def _show(self, spec: "ModelSpec", snapshot: Snapshot, before: Snapshot | None) -> None:
        """Record, then publish, unless another process has just published the same."""
        same = before is not None and before.commit == snapshot.commit
        if same and before is not None and _content(before) == _content(snapshot):
            entry = self._entries.read(snapshot.id)
            if entry.damaged is None and not examine(entry.path, snapshot, everything=False).damaged:
                self._snapshots.write(snapshot)
                return
        self._snapshots.write(snapshot)
        publish(self._layout, spec, snapshot, before=before)

    def _tidy(self, listing: Listing, *ids: str) -> None:
        """Delete what is of no more use among the unfinished files."""
        _partials.tidy(self._layout, frozenset([*ids, *(key_of(listing, file) for file in listing.files)]))

    def _locked(self, id: str) -> AbstractContextManager[None]:
        return entry_lock(self._layout, id, self._context.notice, self._waiting.clock, self._waiting.pause)


def _record(file: RemoteFile, stored: Stored) -> SnapshotFile:
    return SnapshotFile(
        path=file.path, size=stored.stamp.size, digest=stored.digest, git_sha1=file.git_sha1, stamp=stored.stamp
    )


def _previous(before: Snapshot | None, commit: str) -> str | None:
    """The commit that a rollback goes to; a repair does not change it."""
    if before is None:
        return None
    return before.previous if before.commit == commit else before.commit


def _content(snapshot: Snapshot) -> frozenset[tuple[str, str]]:
    return frozenset((file.path, file.digest.hex) for file in snapshot.files)
