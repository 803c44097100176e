"""The part of the store that takes in models which were made here out of others, as variants of these."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from metalchat_store._base import Base
from metalchat_store._files import disk_errors, make_folder, remove
from metalchat_store._made_here import COMMIT, made_here
from metalchat_store.errors import NotAModel
from metalchat_store.remote import RemoteFile
from metalchat_store.types import Entry, Progress


class Deriving(Base):
    """Methods that make a model out of another."""

    def derived(self, entry: Entry, suffix: str) -> Entry | None:
        """The undamaged variant `<variant>-<suffix>` of a model, made of what that holds now; None if there is none."""
        with disk_errors(self.home, reading=True):
            commit = _commit(entry, suffix)
            return next((other for other in self._entries.all() if other.commit == commit and not other.damaged), None)

    def derive(
        self, entry: Entry, suffix: str, write: Callable[[Path], object], *, progress: Progress | None = None
    ) -> Entry:
        """Take in what `write` puts into an empty folder, as the variant `<variant>-<suffix>` of a model.

        It has an id of its own, is verified like a model that was pulled, and has no source: nothing updates it, and
        what is damaged cannot be fetched. All or nothing: where `write` raises, or the process ends, nothing is left
        that a listing shows or that `gc` keeps. Raises `NotAModel` for a folder that holds none, `DiskError`.
        """
        from metalchat_store._fetching import fetching
        from metalchat_store.adoption import FoundRemote
        from metalchat_store.caches import Found
        from metalchat_store.pull import Pull

        spec = entry.spec
        if spec is None or made_here(entry.commit):
            raise NotAModel(f"model '{entry.id}' was made here, or is damaged; make a variant of what was pulled")
        with disk_errors(self.home):
            self._layout.prepare()
            folder = self._layout.temporary(entry.id, "made")
            try:
                make_folder(folder)
                write(folder)
                files = []
                for path in sorted(folder.iterdir()):
                    path.chmod(0o444)
                    files.append(RemoteFile(path=path.name, size=path.stat().st_size, location=os.fspath(path)))
                found = Found(
                    tool="folder",
                    repository=spec.repository,
                    place=folder,
                    commit=_commit(entry, suffix),
                    files=tuple(files),
                )
                scheme = spec.repository.partition(":")[0].lower()
                means = replace(self._means(), remotes={scheme: lambda: FoundRemote(found)})
                with fetching(self._layout, means, spec.repository, progress=progress) as opened:
                    return Pull(opened, suffix=f"-{suffix}").run().entry
            finally:
                remove(folder)


def _commit(entry: Entry, suffix: str) -> str:
    """The same for the same content of the source and the same variant of it."""
    made_of = hashlib.sha256(f"{entry.id} {entry.commit} {suffix}".encode()).hexdigest()
    return f"{COMMIT}{made_of[:40]}"
