"""What a pull is allowed to bring: anything, only what a lock says, nothing new for what is held."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from metalchat_store._notices import template_notice
from metalchat_store._template import digests, snapshot_digests
from metalchat_store.blobs import Blobs
from metalchat_store.digest import Digest
from metalchat_store.errors import Refused
from metalchat_store.lockfile import Lock
from metalchat_store.selection import Selection, short_name
from metalchat_store.snapshots import Snapshot
from metalchat_store.types import Entry


def _free(_entry: Entry) -> str | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The conditions of one pull.

    `lock`: exactly these files of exactly this commit. `held` says why an entry must stay as it is, None if it need
    not. `copies`: whether files of this computer may be copied where they cannot be shared. `same_revision`: the
    revision that was asked for is only a means to a known commit, and later updates go on from the recorded one.
    """

    lock: Lock | None = None
    held: Callable[[Entry], str | None] = field(default=_free)
    copies: bool = True
    same_revision: bool = False

    def check_commit(self, repository: str, commit: str) -> None:
        """`Refused` unless the remote's state is the locked one."""
        if self.lock is not None and commit != self.lock.commit:
            raise Refused(
                f"'{short_name(repository)}' is now {commit[:7]}, the lock pins {self.lock.commit[:7]}: "
                "'metalchat lock' locks what is in the store"
            )

    def narrowed(self, selection: Selection) -> Selection:
        """The locked ones of the chosen files; `Refused` if one is not among them."""
        if self.lock is None:
            return selection
        names = self._names()
        missing = sorted(names - set(selection.names))
        if missing:
            raise Refused(f"the lock names '{missing[0]}', which is not among the files of the model any more")
        return replace(
            selection,
            weights=tuple(name for name in selection.weights if name in names),
            others=tuple(name for name in selection.others if name in names),
        )

    def admits(self, names: Set[str]) -> bool:
        """Whether a model may have these files and no others."""
        return self.lock is None or names == self._names()

    def check_files(self, found: Mapping[str, Digest]) -> None:
        """`Refused` if a file is not the locked one."""
        for file in self.lock.files if self.lock is not None else ():
            here = found.get(file.path, file.digest)
            if here != file.digest:
                raise Refused(
                    f"'{file.path}' has sha256 {here.hex[:8]}…, the lock pins {file.digest.hex[:8]}…. Nothing was kept"
                )

    def _names(self) -> frozenset[str]:
        return frozenset() if self.lock is None else frozenset(file.path for file in self.lock.files)


ANYTHING = Terms()


def held_error(
    blobs: Blobs, entry: Entry, why: str, before: Snapshot | None, commit: str, now: Mapping[str, Path]
) -> Refused:
    """The error for an update that needs consent; it says so if the chat template among the files `now` is another."""
    name = entry.id[:7] if before is None else short_name(before.repository)
    text = f"'{name}' is now {commit[:7]}, here it stays at {(entry.commit or '')[:7]}, since {why}"
    if before is not None:
        old, new = snapshot_digests(blobs, before)[0], digests(now)[0]
        if old != new and new is not None:
            text += f"; {template_notice(name, old, new)}"
    return Refused(f"{text}. 'metalchat model update {name} --yes' takes the update")
