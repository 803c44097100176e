"""The store: models below one folder, pulled whole, verified, found by name."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from metalchat_store._files import disk_errors
from metalchat_store._layout import Layout
from metalchat_store.entries import MANIFEST, Entries
from metalchat_store.types import Entry, Plan, Progress, Pulled, Verification

if TYPE_CHECKING:
    from metalchat_store.pull import Pull
    from metalchat_store.remote import Authorizer, Remote

_RECENT = 3600.0  # seconds for which a snapshot without an entry may belong to a pull in flight


class Store:
    """The models below `home` ($METALCHAT_HOME).

    `environ` stands for the environment variables (default: those of the process). `remotes` maps URL schemes to
    factories that take the place of installed remotes. `sleep`, `clock` and `client` are for tests.

    Every method raises errors of `metalchat_store.errors` and no others.
    """

    def __init__(
        self,
        home: Path,
        *,
        environ: Mapping[str, str] | None = None,
        remotes: "Mapping[str, Callable[[], Remote]] | None" = None,
        sleep: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        client: object | None = None,
    ) -> None:
        self.home = Path(home)
        self._environ = os.environ if environ is None else environ
        self._remotes = {} if remotes is None else remotes
        self._sleep = sleep
        self._clock = clock
        self._client = client
        self._layout = Layout(self.home)
        self._entries = Entries(self._layout)

    def pull(
        self,
        repository: str,
        *,
        revision: str | None = None,
        authorize: "Authorizer | None" = None,
        progress: Progress | None = None,
    ) -> Pulled:
        """Bring a model into the store, or up to date. One that is there already, whole, is a success.

        Interrupted anywhere, the next pull in any process goes on where this one stopped. Raises
        `InvalidRepository`, `RemoteNotFound`, `RepositoryNotFound`, `AccessDenied`, `NetworkError`, `NotAModel`,
        `IntegrityError`, `DiskError`, `Refused`.
        """
        with self._pull(repository, revision, authorize, progress) as pull:
            return pull.run()

    def plan(self, repository: str, *, revision: str | None = None, authorize: "Authorizer | None" = None) -> Plan:
        """What a pull would fetch. Raises as `pull` does; writes nothing."""
        with self._pull(repository, revision, authorize, None) as pull, disk_errors(self.home):
            return pull.plan()

    def list(self) -> tuple[Entry, ...]:
        """All models, by id. Damaged ones are listed as such; nothing is hashed."""
        with disk_errors(self.home):
            return tuple(self._entries.all())

    def find(self, reference: str) -> Entry:
        """The model with that id, unique prefix of at least 4 characters, or unique part of the repository's name.

        Raises `ModelNotFound`, `AmbiguousModel`.
        """
        from metalchat_store.references import find

        with disk_errors(self.home):
            return find(self._entries, reference)

    def lookup(self, repository: str) -> Entry | None:
        """The undamaged model that was pulled from that address; None if there is none."""
        from metalchat_store.sources import normalise, parse_source

        source = parse_source(repository)
        for entry in self.list():
            if entry.spec is None or entry.damaged is not None:
                continue
            if source.means(normalise(entry.spec.repository), entry.commit):
                return entry
        return None

    def remove(self, reference: str) -> Entry:
        """Delete a model, damaged or not, and the content that no other model uses."""
        from metalchat_store._files import remove
        from metalchat_store._locks import entry_lock
        from metalchat_store.blobs import Blobs
        from metalchat_store.snapshots import Snapshots

        with disk_errors(self.home):
            entry = self.find(reference)
            self._layout.prepare()
            snapshots = Snapshots(self._layout)
            with entry_lock(self._layout, entry.id, _silent, self._clock, self._sleep or time.sleep):
                gone = self._entries.take_away(entry.id)
                orphans = snapshots.orphans(frozenset(self._entries.ids()), before=time.time() - _RECENT)
                snapshots.forget(snapshots.others(entry.id) | orphans, Blobs(self._layout.blobs))
            remove(gone)
            return entry

    def verify(self, reference: str, progress: Progress | None = None) -> Verification:
        """Hash every file of a model. What is damaged is remembered: `path` refuses it and `pull` repairs it."""
        from metalchat_store.checks import examine, record
        from metalchat_store.snapshots import Snapshots
        from metalchat_store.types import FileCheck

        with disk_errors(self.home):
            entry = self.find(reference)
            snapshot = Snapshots(self._layout).read(entry.id, entry.commit)
            if snapshot is None:
                reason = f"{entry.damaged or 'no record of its files'}; pull it again"
                return Verification(entry=entry, files=(FileCheck(path=MANIFEST, ok=False, reason=reason),))
            outcome = examine(entry, snapshot, everything=True, seen=_ignore if progress is None else progress.file)
            record(self._layout, snapshot, outcome)
            checks = outcome.checks
            if entry.spec is None:
                checks += (FileCheck(path=MANIFEST, ok=False, reason=entry.damaged or ""),)
            return Verification(entry=entry, files=checks)

    def path(self, reference: str) -> Path:
        """The folder that an engine opens, checked: what changed size, time or inode is hashed again.

        Raises `Corrupted` if a file is not what was pulled, `ModelNotFound`, `AmbiguousModel`. What another program
        put into the store has no record and is returned as it is.
        """
        from metalchat_store.checks import corrupted, examine, record
        from metalchat_store.snapshots import Snapshots

        with disk_errors(self.home):
            entry = self.find(reference)
            if entry.spec is None or (entry.damaged is not None and entry.size is None):
                raise corrupted(entry)
            snapshot = Snapshots(self._layout).read(entry.id, entry.commit)
            if snapshot is None:
                if entry.damaged is not None or entry.commit is not None:
                    raise corrupted(entry)
                return entry.path
            outcome = examine(entry, snapshot, everything=False)
            record(self._layout, snapshot, outcome)
            if outcome.damaged:
                raise corrupted(entry, outcome.damaged)
            return entry.path

    def abbreviate(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Each id with its first 7 characters, or as many more as set it apart from the others."""
        from metalchat_store.references import abbreviate

        return abbreviate(ids)

    @contextmanager
    def _pull(
        self, repository: str, revision: str | None, authorize: "Authorizer | None", progress: Progress | None
    ) -> "Iterator[Pull]":
        import threading

        from metalchat_store._progress import OneAtATime
        from metalchat_store.errors import InvalidRepository
        from metalchat_store.pull import Pull
        from metalchat_store.remote import RemoteContext
        from metalchat_store.sources import opened, parse_source
        from metalchat_store.transfer import Waiting

        source = parse_source(repository)
        if source.version is not None and (revision or source.version).partition("-sha256-")[0] != source.version:
            raise InvalidRepository("the address names a version, the option another revision: give one of them")
        told = None if progress is None else OneAtATime(progress)
        context = RemoteContext(
            authorize=_nobody if authorize is None else authorize,
            environ=self._environ,
            client=self._client,
            notice=_silent if told is None else told.message,
            clock=self._clock,
        )
        with opened(source, self._remotes, self._environ) as remote:
            yield Pull(
                layout=self._layout,
                source=source,
                revision=source.version if revision is None else revision,
                remote=remote,
                context=context,
                waiting=Waiting(clock=self._clock, sleep=self._sleep, stop=threading.Event()),
                progress=told,
            )


def _nobody(_url: str) -> str | None:
    return None


def _silent(_text: str) -> None:
    return None


def _ignore(_path: str, _done: int, _total: int | None) -> None:
    return None
