"""What the store hands to its callers."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from metalchat_store.remote import RemoteFile

if TYPE_CHECKING:
    from metalchat_manifest import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A model of the store: the folder `path` that an engine opens, named by the identifier `id`.

    `spec` is None where metalchat.toml cannot be read. `damaged` says in a few words what is visibly wrong, None if
    nothing is. `size` in bytes and `commit` are None for what another program put there.
    """

    id: str
    spec: "ModelSpec | None"
    path: Path
    damaged: str | None = None
    size: int | None = None
    commit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a pull would fetch. `download_bytes` counts what the store does not have, None if a size is unknown."""

    repository: str
    commit: str
    files: tuple[RemoteFile, ...]
    download_bytes: int | None
    license: str | None = None


class Progress(Protocol):
    """Told how a pull or a verification goes; called from several threads, one call at a time."""

    def plan(self, listing: Plan) -> None:
        """Once, before the first byte."""
        ...

    def file(self, path: str, done: int, total: int | None) -> None:
        """`done` of `total` bytes of a file are here. `done` starts again at 0 if the file is fetched again."""
        ...

    def message(self, text: str) -> None:
        """One line for the user: what is waited for or tried again."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """The result of a pull.

    `already`: the model was there, whole, and nothing was done. `fetched_bytes` came over the remote in this pull.
    `adopted` is `clone`, `hard link` or `copy` for files of this computer, None otherwise; the weakest of them counts.
    """

    entry: Entry
    already: bool
    fetched_bytes: int
    adopted: str | None = None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck:
    """Whether a file has the recorded content; `reason` says why not, and is empty if it has."""

    path: str
    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of hashing every file of a model."""

    entry: Entry
    files: tuple[FileCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether every file has the recorded content, and there is at least one."""
        return bool(self.files) and all(check.ok for check in self.files)
