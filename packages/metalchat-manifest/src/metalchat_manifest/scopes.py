"""Where settings come from, and where their files are."""

import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from metalchat_manifest._toml import FILE_NAME
from metalchat_manifest.values import Value


class Scope(StrEnum):
    """A manifest's place: the working directory, the user, or one model."""

    LOCAL = "local"
    GLOBAL = "global"
    MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which layer a value comes from.

    `scope` is one of default, config.json, generation_config.json, model, global, local, environment, flag.
    `path` and `line` are those of the file; for the environment `path` is None and `variable` is set.
    """

    scope: str
    path: Path | None = None
    line: int | None = None
    variable: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One dotted key, its value in one layer, and that layer."""

    key: str
    value: Value
    origin: Origin


def global_path(home: Path) -> Path:
    """The manifest of the global scope; `home` is metalchat's own folder."""
    return home / FILE_NAME


def model_path(home: Path, identifier: str) -> Path:
    """The manifest of the model scope."""
    return home / "models" / identifier / FILE_NAME


def find_local(directory: Path, *, home: Path) -> Path | None:
    """The manifest of the local scope: in `directory` or the nearest of its parents, or None.

    The search ends with the user's home directory `home`, and with the first directory that has a `.git`.
    In a parent only a file of this user or of root counts: in a folder that many can write to, such as /tmp,
    anybody could lay one for others.
    """
    start = Path(os.path.abspath(directory))  # noqa: PTH100  Path.absolute() keeps `..`, whose parents are others
    last = _identity(home)
    for folder in (start, *start.parents):
        candidate = folder / FILE_NAME
        if _counts(candidate, any_owner=folder == start):
            return candidate
        if (folder / ".git").exists() or (last is not None and _identity(folder) == last):
            return None
    return None


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        state = folder.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _counts(path: Path, *, any_owner: bool) -> bool:
    try:
        state = path.stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(state.st_mode) and (any_owner or state.st_uid in {os.getuid(), 0})
