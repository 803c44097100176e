"""What the store says about datasets and spaces."""

from dataclasses import dataclass
from pathlib import Path

from metalchat_store.types import FileCheck


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A dataset or space of the store: the folder `path`, named by `id`.

    `files` counts what was pulled, which may be a part of the repository. `damaged` says in a few words what is
    visibly wrong, None if nothing is.
    """

    id: str
    kind: str
    path: Path
    repository: str | None = None
    commit: str | None = None
    files: int = 0
    size: int = 0
    damaged: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptNow:
    """The result of a pull. `already`: everything was there, and nothing was done."""

    kept: Kept
    already: bool
    fetched_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptVerification:
    """The result of hashing every file."""

    kept: Kept
    files: tuple[FileCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether every file has the recorded content."""
        return self.kept.damaged is None and all(check.ok for check in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRepaired:
    """The result of a repair, as that of a model: `verification` is that of the files afterwards."""

    verification: KeptVerification
    files: tuple[str, ...] = ()
    fetched_bytes: int = 0
    quarantined: int = 0
