"""The states of a model: repaired, updated, rolled back."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metalchat_store._base import Base
from metalchat_store._files import disk_errors
from metalchat_store._made_here import made_here
from metalchat_store.errors import Corrupted, Refused, StoreError
from metalchat_store.references import find
from metalchat_store.types import Entry, Progress, Pulled, Verification

if TYPE_CHECKING:
    from metalchat_store.remote import Authorizer
    from metalchat_store.repair import Repaired
    from metalchat_store.snapshots import Snapshot
    from metalchat_store.updates import Availability, UpdatePlan


class Versions(Base):
    """The part of the store that brings models from one state to another."""

    def repair(
        self, reference: str, *, authorize: "Authorizer | None" = None, progress: Progress | None = None
    ) -> "Repaired":
        """Make a model what was pulled again. Only damaged content is fetched, of the same commit, and verified.

        What is damaged moves to `quarantine`. Content that another file or model has whole is taken from there,
        without network. Raises what `pull` raises, and `IntegrityError` if the source has other content now.
        """
        from metalchat_store._publish import publish
        from metalchat_store.checks import examine, record
        from metalchat_store.history import whole
        from metalchat_store.repair import Repaired, bring, set_aside, spec_of
        from metalchat_store.snapshots import Snapshots

        with disk_errors(self.home):
            entry = find(self._entries, reference)
            self._layout.prepare()
            snapshots = Snapshots(self._layout)
            snapshot = snapshots.read(entry.id, entry.commit)
            if snapshot is None:
                pulled = self._again(entry, authorize, progress)
                verification = self._verified(pulled.entry, snapshots.read(entry.id, pulled.entry.commit))
                return Repaired(entry=pulled.entry, verification=verification, fetched_bytes=pulled.fetched_bytes)
            seen = None if progress is None else progress.file
            outcome = examine(entry.path, snapshot, everything=True, **({} if seen is None else {"seen": seen}))
            record(self._layout, snapshot, outcome)
            snapshot = snapshot.with_stamps(outcome.stamps)
            if not outcome.damaged and entry.spec is not None and entry.damaged is None:
                verification = Verification(entry=entry, files=outcome.checks)
                return Repaired(entry=entry, verification=verification)
            missing, moved = set_aside(self._layout, snapshot, entry.path)
            fetched = 0
            if missing:
                check_source(entry.id, snapshot.commit)
                commit = None if snapshot.repository.startswith("file:") else snapshot.commit
                with self._fetching(
                    snapshot.repository, revision=commit, authorize=authorize, progress=progress
                ) as fetching:
                    fetched = bring(fetching, snapshot, missing)
            spec = entry.spec or spec_of(self._layout, snapshot)
            with self._changing(entry.id):
                stamped = snapshot.with_stamps(whole(self._layout, snapshot))
                snapshots.write(stamped)
                publish(self._layout, spec, stamped, before=stamped)
            after = self._entries.read(entry.id)
            return Repaired(
                entry=after,
                verification=self._verified(after, stamped),
                files=outcome.damaged,
                fetched_bytes=fetched,
                quarantined=moved,
            )

    def outdated(
        self, references: Sequence[str] = (), *, authorize: "Authorizer | None" = None
    ) -> "tuple[Availability, ...]":
        """What the sources of the models (default: of all) have now. A source that fails is an answer like others."""
        from metalchat_store.updates import Availability

        with disk_errors(self.home, reading=True):
            entries = [find(self._entries, reference) for reference in references] or list(self._entries.all())
            found = []
            for entry in entries:
                if entry.spec is None or entry.commit is None or made_here(entry.commit):
                    continue
                try:
                    with self._fetching(
                        entry.spec.repository, revision=self._revision(entry), authorize=authorize
                    ) as fetching:
                        found.append(Availability(entry=entry, commit=fetching.listing().commit))
                except StoreError as error:
                    found.append(Availability(entry=entry, error=error))
            return tuple(found)

    def plan_update(self, reference: str, *, authorize: "Authorizer | None" = None) -> "UpdatePlan":
        """What `update` would change. Raises as `pull` does; writes nothing."""
        from metalchat_store.snapshots import Snapshots
        from metalchat_store.updates import plan_update

        with disk_errors(self.home, reading=True):
            entry = self._pulled(reference)
            check_source(entry.id, entry.commit)
            snapshot = Snapshots(self._layout).read(entry.id, entry.commit)
            with self._fetching(_repository(entry), revision=self._revision(entry), authorize=authorize) as fetching:
                return plan_update(fetching, entry, snapshot, self._held(entry))

    def update(
        self,
        reference: str,
        *,
        authorize: "Authorizer | None" = None,
        progress: Progress | None = None,
        consent: bool = False,
    ) -> Pulled:
        """Bring a model to what its source has now, at the revision that it was pulled with.

        The state that it leaves stays until `gc`, for `rollback`. A model that is pinned, or locked by a known
        `metalchat.lock`, is `Refused` without `consent`, before its weights come.
        """
        from metalchat_store._terms import Terms
        from metalchat_store.pull import Pull

        with disk_errors(self.home):
            entry = self._pulled(reference)
            check_source(entry.id, entry.commit)
            revision = self._revision(entry)
        terms = Terms() if consent else Terms(held=self._held)
        with self._fetching(_repository(entry), revision=revision, authorize=authorize, progress=progress) as fetching:
            return Pull(fetching, terms).run()

    def rollback(self, reference: str, commit: str | None = None) -> Entry:
        """Go back to the state before the last update, or to that of a commit; takes no network and no copy.

        Raises `NotFound` if the store does not have that state, `Corrupted` if it is not whole any more.
        """
        from metalchat_store.history import earlier, switch
        from metalchat_store.snapshots import Snapshots

        with disk_errors(self.home):
            entry = self._pulled(reference)
            self._layout.prepare()
            snapshots = Snapshots(self._layout)
            with self._changing(entry.id):
                entry = self._entries.read(entry.id)
                current = snapshots.read(entry.id, entry.commit)
                if current is None or entry.spec is None:
                    raise Corrupted(f"model '{entry.id}' is corrupted. 'metalchat model verify --repair' mends it")
                switch(self._layout, entry.spec, earlier(snapshots, current, commit), current)
            return self._entries.read(entry.id)

    def history(self, reference: str) -> tuple[str, ...]:
        """The commits that `rollback` can go to, the one before the last update first."""
        from metalchat_store.snapshots import Snapshots

        with disk_errors(self.home, reading=True):
            entry = find(self._entries, reference)
            found = {snapshot.commit: snapshot for snapshot in Snapshots(self._layout).of(entry.id)}
            previous = found[entry.commit].previous if entry.commit in found else None
            others = sorted(commit for commit in found if commit != entry.commit)
            return tuple(sorted(others, key=lambda commit: commit != previous))

    def _pulled(self, reference: str) -> Entry:
        """An entry that came from a known source at a known commit; `Corrupted` for others."""
        entry = find(self._entries, reference)
        if entry.spec is None:
            raise Corrupted(f"model '{entry.id}' is corrupted: {entry.damaged}")
        if entry.commit is None:
            raise Corrupted(
                f"model '{entry.id}' has no record of what was pulled. Pull '{entry.spec.repository}' again"
            )
        return entry

    def _revision(self, entry: Entry) -> str | None:
        from metalchat_store.snapshots import Snapshots

        snapshot = Snapshots(self._layout).read(entry.id, entry.commit)
        return None if snapshot is None else snapshot.revision

    def _current(self, id: str) -> "Snapshot | None":
        from metalchat_store.snapshots import Snapshots

        try:
            return Snapshots(self._layout).read(id, self._entries.read(id).commit)
        except FileNotFoundError:
            return None

    def _sound(self, entry: Entry) -> "Snapshot":
        """The snapshot of an undamaged entry; `Corrupted` for others. What moved is hashed."""
        from metalchat_store.checks import corrupted, examine, record
        from metalchat_store.snapshots import Snapshots

        snapshot = Snapshots(self._layout).read(entry.id, entry.commit)
        if snapshot is None or entry.spec is None:
            raise corrupted(entry)
        outcome = examine(entry.path, snapshot, everything=False)
        record(self._layout, snapshot, outcome)
        if outcome.damaged:
            raise corrupted(entry, outcome.damaged)
        return snapshot

    def _again(self, entry: Entry, authorize: "Authorizer | None", progress: Progress | None) -> Pulled:
        """Pull the commit of an entry whose record is lost."""
        from metalchat_store._terms import Terms
        from metalchat_store.pull import Pull

        if entry.spec is None:
            raise Corrupted(
                f"model '{entry.id}' has neither a readable metalchat.toml nor a record of its files. "
                "Remove it and pull it again"
            )
        check_source(entry.id, entry.commit)
        repository = entry.spec.repository
        revision = None if repository.startswith("file:") else entry.commit
        with self._fetching(repository, revision=revision, authorize=authorize, progress=progress) as fetching:
            return Pull(fetching, Terms(same_revision=True)).run()

    def _verified(self, entry: Entry, snapshot: "Snapshot | None") -> Verification:
        from metalchat_store.checks import examine, record

        if snapshot is None:
            return Verification(entry=entry, files=())
        outcome = examine(entry.path, snapshot, everything=True)
        record(self._layout, snapshot, outcome)
        return Verification(entry=entry, files=outcome.checks)


def check_source(id: str, commit: str | None) -> None:
    """`Refused` for a model that no source has."""
    if made_here(commit):
        raise Refused(
            f"model '{id}' was made here out of another one, and no source has it: make it again with"
            " 'metalchat model quantize'"
        )


def _repository(entry: Entry) -> str:
    return "" if entry.spec is None else entry.spec.repository
