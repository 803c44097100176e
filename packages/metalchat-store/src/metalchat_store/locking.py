"""The lock of a model: made, checked, brought back."""

from dataclasses import replace
from typing import TYPE_CHECKING

from metalchat_store._files import disk_errors
from metalchat_store.errors import Corrupted, Refused
from metalchat_store.types import Entry, Progress, Pulled
from metalchat_store.versions import Versions, check_source

if TYPE_CHECKING:
    from metalchat_store.lockfile import Lock
    from metalchat_store.remote import Authorizer

_TOLD = ("the chat template", "the tokenizer")


class Locking(Versions):
    """The part of the store that holds models to what a lock says."""

    def lock(self, reference: str) -> "Lock":
        """The lock of what the store has of a model, verified as `path` does."""
        from metalchat_store._template import snapshot_digests
        from metalchat_store.blobs import Blobs
        from metalchat_store.lockfile import Lock, LockedFile

        with disk_errors(self.home, reading=True):
            entry = self._pulled(reference)
            snapshot = self._sound(entry)
            template, tokenizer = snapshot_digests(Blobs(self._layout.blobs), snapshot)
            files = tuple(LockedFile(path=file.path, size=file.size, digest=file.digest) for file in snapshot.files)
            assert entry.spec is not None  # or _pulled had refused it
            return Lock(spec=entry.spec, commit=snapshot.commit, files=files, template=template, tokenizer=tokenizer)

    def check_lock(self, lock: "Lock") -> Entry:
        """The entry that is exactly what a lock says, verified as `path` does; no network.

        Raises `Refused` if the store has something else or nothing, or if the lock contradicts itself, `Corrupted` if
        the model is damaged.
        """
        from metalchat_store._template import snapshot_digests
        from metalchat_store.blobs import Blobs
        from metalchat_store.selection import short_name

        with disk_errors(self.home, reading=True):
            name = short_name(lock.spec.repository)
            try:
                entry = self._entries.read(lock.spec.id)
            except FileNotFoundError:
                entry = None
            if entry is None:
                raise Refused(f"'{name}' is locked, but not in the store: 'metalchat model pull --frozen' fetches it")
            if entry.commit != lock.commit:
                here = (entry.commit or "an unknown commit")[:7]
                raise Refused(
                    f"'{name}' is at {here}, the lock pins {lock.commit[:7]}: 'metalchat model pull --frozen' "
                    "brings that back, 'metalchat lock' locks what is here"
                )
            snapshot = self._sound(entry)
            here = {file.path: file.digest for file in snapshot.files}
            for file in lock.files:
                if here.get(file.path) != file.digest:
                    digest = here.get(file.path)
                    found = "is missing" if digest is None else f"has sha256 {digest.hex[:8]}…"
                    raise Refused(
                        f"'{file.path}' of '{name}' {found}, the lock pins {file.digest.hex[:8]}…: "
                        "'metalchat model pull --frozen' brings that back"
                    )
            for path in sorted(here.keys() - {file.path for file in lock.files}):
                raise Refused(
                    f"'{path}' of '{name}' is not in the lock: 'metalchat model pull --frozen' takes it away, "
                    "'metalchat lock' locks what is here"
                )
            said = (lock.template, lock.tokenizer)
            for what, mine, its in zip(_TOLD, snapshot_digests(Blobs.of(self._layout), snapshot), said, strict=True):
                if mine != its:
                    raise Refused(
                        f"the lock pins {what} of '{name}' with sha256 {_short(its)}, and files in which it is "
                        f"{_short(mine)}: somebody has changed one of them. 'metalchat lock' writes it anew"
                    )
            return entry

    def restore(
        self, lock: "Lock", *, authorize: "Authorizer | None" = None, progress: Progress | None = None
    ) -> Pulled:
        """Bring exactly what a lock says. No network where the store has it, be it as an earlier state.

        Raises what `pull` raises, and `Refused` if the source has other content for the locked commit, or if the lock
        contradicts itself.
        """
        try:
            return Pulled(entry=self.check_lock(lock), already=True, fetched_bytes=0)
        except (Refused, Corrupted):
            pulled = self._restored(lock, authorize, progress)
        self.check_lock(lock)
        return pulled

    def _restored(self, lock: "Lock", authorize: "Authorizer | None", progress: Progress | None) -> Pulled:
        from metalchat_store._terms import Terms
        from metalchat_store.history import switch
        from metalchat_store.pull import Pull
        from metalchat_store.snapshots import Snapshots

        with disk_errors(self.home):
            self._layout.prepare()
            snapshots = Snapshots(self._layout)
            target = snapshots.read(lock.spec.id, lock.commit)
            wanted = {(file.path, file.digest) for file in lock.files}
            if target is not None and wanted == {(file.path, file.digest) for file in target.files}:
                with self._changing(target.id):
                    try:
                        current = self._current(target.id)
                        before = None if current is None else current.commit
                        previous = target.previous if before in (None, target.commit) else before
                        switch(self._layout, lock.spec, replace(target, previous=previous), current)
                        return Pulled(entry=self._entries.read(target.id), already=False, fetched_bytes=0)
                    except (Corrupted, FileNotFoundError):
                        pass  # fetched below
        check_source(lock.spec.id, lock.commit)
        revision = None if lock.spec.repository.startswith("file:") else lock.commit
        with self._fetching(
            lock.spec.repository, revision=revision, authorize=authorize, progress=progress
        ) as fetching:
            pulled = Pull(fetching, Terms(lock=lock, same_revision=True)).run()
        if pulled.entry.id != lock.spec.id:
            raise Refused(
                f"'{lock.spec.repository}' is another kind of model ({pulled.entry.id[:7]}) than the locked one"
            )
        return pulled


def _short(digest: str | None) -> str:
    return "none" if digest is None else f"{digest[:8]}…"
