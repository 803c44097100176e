"""The store: models below one folder, pulled whole, verified, found by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metalchat_store._files import disk_errors
from metalchat_store._made_here import made_here
from metalchat_store.adopting import Adopting
from metalchat_store.deriving import Deriving
from metalchat_store.entries import MANIFEST
from metalchat_store.errors import ModelNotFound
from metalchat_store.locking import Locking
from metalchat_store.types import Entry, Plan, Progress, Pulled, Verification
from metalchat_store.upkeep import Upkeep

if TYPE_CHECKING:
    from metalchat_store.describe import Description
    from metalchat_store.remote import Authorizer
    from metalchat_store.search import Hit
    from metalchat_store.snapshots import Snapshot

_RECENT = 3600.0  # seconds for which a snapshot without an entry may belong to a pull in flight


class Store(Adopting, Deriving, Locking, Upkeep):
    """The models below `home` ($METALCHAT_HOME).

    `environ` stands for the environment variables (default: those of the process). `remotes` maps URL schemes to
    factories that take the place of installed remotes. `sleep`, `clock`, `now` and `client` are for tests.

    Every method raises errors of `metalchat_store.errors` and no others.
    """

    def pull(
        self,
        repository: str,
        *,
        revision: str | None = None,
        authorize: "Authorizer | None" = None,
        progress: Progress | None = None,
        consent: bool = False,
    ) -> Pulled:
        """Bring a model into the store, or up to date. One that is there already, whole, is a success.

        One that is pinned, or locked by a known `metalchat.lock`, moves to another commit only with `consent`.
        Interrupted anywhere, the next pull in any process goes on where this one stopped. Raises
        `InvalidRepository`, `RemoteNotFound`, `RepositoryNotFound`, `AccessDenied`, `NetworkError`, `NotAModel`,
        `IntegrityError`, `DiskError`, `Refused`.
        """
        from metalchat_store._terms import Terms
        from metalchat_store.pull import Pull

        terms = Terms() if consent else Terms(held=self._held)
        with self._fetching(repository, revision=revision, authorize=authorize, progress=progress) as fetching:
            return Pull(fetching, terms).run()

    def plan(self, repository: str, *, revision: str | None = None, authorize: "Authorizer | None" = None) -> Plan:
        """What a pull would fetch. Raises as `pull` does; writes nothing."""
        from metalchat_store.pull import Pull

        with (
            self._fetching(repository, revision=revision, authorize=authorize) as fetching,
            disk_errors(self.home, reading=True),
        ):
            return Pull(fetching).plan()

    def describe(
        self,
        repository: str,
        *,
        revision: str | None = None,
        authorize: "Authorizer | None" = None,
        context: int | None = None,
    ) -> "Description":
        """What a model elsewhere is, and what memory it needs for `context` tokens, from the headers of its files.

        Fetches some kilobytes. Raises as `pull` does, but a repository whose files may not be read is described as
        far as its listing tells; writes nothing.
        """
        from metalchat_store.pull import Pull

        with (
            self._fetching(repository, revision=revision, authorize=authorize) as fetching,
            disk_errors(self.home, reading=True),
        ):
            return Pull(fetching).describe(context)

    def search(
        self, query: str, *, limit: int = 20, hub: str | None = None, authorize: "Authorizer | None" = None
    ) -> "tuple[Hit, ...]":
        """Models of a hub whose name has `query` in it, the most downloaded first; at most `limit`, up to 100.

        `hub` is the address of another one than `HF_ENDPOINT` or https://huggingface.co. Raises `InvalidRepository`,
        `AccessDenied`, `NetworkError`.
        """
        from metalchat_store.search import search

        return search(query, limit, hub=hub, authorize=authorize, means=self._means())

    def list(self) -> tuple[Entry, ...]:
        """All models, by id. Damaged ones are listed as such; nothing is hashed."""
        with disk_errors(self.home, reading=True):
            return tuple(self._entries.all())

    def find(self, reference: str) -> Entry:
        """The model with that id, unique prefix of at least 4 characters, or unique part of the repository's name.

        Raises `ModelNotFound`, `AmbiguousModel`.
        """
        from metalchat_store.references import find

        with disk_errors(self.home, reading=True):
            return find(self._entries, reference)

    def lookup(self, repository: str) -> Entry | None:
        """The undamaged model that was pulled from that address; None if there is none.

        Raises `InvalidRepository` for an address that can be none of a model's, and what else stands before a pull.
        """
        from metalchat_store.sources import check_address, normalise, parse_source

        source = parse_source(repository)
        for entry in self.list():
            if entry.spec is None or entry.damaged is not None or made_here(entry.commit):
                continue
            if source.means(normalise(entry.spec.repository), entry.commit):
                return entry
        check_address(repository, remotes=self._remotes, environ=self._environ)
        return None

    def remove(self, reference: str) -> Entry:
        """Delete a model, damaged or not, and the content that no other model uses."""
        from metalchat_store import _used
        from metalchat_store._files import remove
        from metalchat_store.blobs import Blobs
        from metalchat_store.roots import Roots
        from metalchat_store.snapshots import Snapshots

        with disk_errors(self.home):
            entry = self.find(reference)
            self._layout.prepare()
            snapshots = Snapshots(self._layout)
            with self._changing(entry.id):
                try:
                    gone = self._entries.take_away(entry.id)
                except FileNotFoundError:  # by another process, since it was found
                    raise ModelNotFound(f"model '{entry.id}' not found") from None
                orphans = snapshots.orphans(frozenset(self._entries.ids()), before=self._now() - _RECENT)
                snapshots.forget(snapshots.others(entry.id) | orphans, Blobs(self._layout.blobs))
            remove(gone)
            Roots(self._layout).unpin(entry.id)
            _used.forget(self._layout, entry.id)
            return entry

    def verify(self, reference: str, progress: Progress | None = None) -> Verification:
        """Hash every file of a model. What is damaged is remembered: `path` refuses it and `pull` repairs it."""
        from metalchat_store.checks import look
        from metalchat_store.types import FileCheck

        with disk_errors(self.home, reading=True):
            seen = _ignore if progress is None else progress.file
            entry, outcome = look(self._layout, lambda: self._recorded(reference), everything=True, seen=seen)
            if outcome is None:
                reason = f"{entry.damaged or 'no record of its files'}; pull it again"
                return Verification(entry=entry, files=(FileCheck(path=MANIFEST, ok=False, reason=reason),))
            checks = outcome.checks
            if entry.spec is None:
                checks += (FileCheck(path=MANIFEST, ok=False, reason=entry.damaged or ""),)
            return Verification(entry=entry, files=checks)

    def path(self, reference: str) -> Path:
        """The folder that an engine opens, checked: what changed size, time or inode is hashed again.

        The use is noted, for `gc`, which can evict what was not used for the longest time.

        Raises `Corrupted` if a file is not what was pulled, `ModelNotFound`, `AmbiguousModel`. What another program
        put into the store has no record and is returned as it is.
        """
        from metalchat_store import _used
        from metalchat_store.checks import corrupted, look

        def find() -> "tuple[Entry, Snapshot | None]":
            entry, snapshot = self._recorded(reference)
            if entry.spec is None or (entry.damaged is not None and entry.size is None):
                raise corrupted(entry)
            return entry, snapshot

        with disk_errors(self.home, reading=True):
            entry, outcome = look(self._layout, find, everything=False)
            if outcome is None and (entry.damaged is not None or entry.commit is not None):
                raise corrupted(entry)
            if outcome is not None and outcome.damaged:
                raise corrupted(entry, outcome.damaged)
            _used.touch(self._layout, entry.id)
            return entry.path

    def _recorded(self, reference: str) -> "tuple[Entry, Snapshot | None]":
        """A model and the record of its files."""
        from metalchat_store.snapshots import Snapshots

        entry = self.find(reference)
        return entry, Snapshots(self._layout).read(entry.id, entry.commit)

    def abbreviate(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Each id with its first 7 characters, or as many more as set it apart from the others."""
        from metalchat_store.references import abbreviate

        return abbreviate(ids)


def _ignore(_path: str, _done: int, _total: int | None) -> None:
    return None
