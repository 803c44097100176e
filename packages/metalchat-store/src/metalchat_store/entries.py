"""The folder `models`: reading entries in microseconds, and publishing them whole."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from metalchat_store._files import read_file, remove, sync_folder
from metalchat_store._layout import Layout
from metalchat_store.names import local_path
from metalchat_store.snapshots import Snapshot, Snapshots
from metalchat_store.types import Entry

if TYPE_CHECKING:
    from metalchat_manifest import ModelSpec

MANIFEST = "metalchat.toml"
MANIFEST_LIMIT = 1 << 20
OLD = "old"
_ID = re.compile(r"[0-9a-f]{40}")
_TEXT = r'"([^"\\\x00-\x1f\x7f]*)"'
OURS = re.compile(
    rf"\[model\]\nrepository = {_TEXT}\narchitecture = {_TEXT}\npartitioning = {_TEXT}\nvariant = {_TEXT}\n\n"
    rf"\[source\]\ncommit = {_TEXT}\nfiles = ([0-9]{{1,6}})\nbytes = ([0-9]{{1,18}})\n"
)
"""A manifest exactly as the store writes it: one match instead of a TOML parser, for a thousand models."""


class Entries:
    """The model entries of a store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._snapshots = Snapshots(layout)

    def ids(self) -> list[str]:
        """Names of all entries, sorted."""
        self.recover()
        try:
            names = os.listdir(self._layout.models)  # noqa: PTH208 - names alone, and a thousand of them
        except FileNotFoundError:
            return []
        return sorted(name for name in names if _ID.fullmatch(name))

    def all(self) -> Iterator[Entry]:
        """Every entry, by id."""
        for id in self.ids():
            with suppress(FileNotFoundError):  # removed since it was named
                yield self.read(id)

    def read(self, id: str) -> Entry:
        """An entry as it looks from outside: names and sizes are compared, nothing is hashed.

        Raises `FileNotFoundError` if there is none.
        """
        path = self._layout.models / id
        try:
            return self._read(id, path)
        except FileNotFoundError:
            if not os.path.lexists(path):
                raise
            return Entry(id=id, spec=None, path=path, damaged="it is being changed")
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            return Entry(id=id, spec=None, path=path, damaged=f"it cannot be read: {reason}")

    def _read(self, id: str, path: Path) -> Entry:
        if not stat.S_ISDIR(path.lstat().st_mode):
            return Entry(id=id, spec=None, path=path, damaged="it is not a folder")
        try:
            text = read_file(path / MANIFEST, MANIFEST_LIMIT).decode()
        except FileNotFoundError:
            return Entry(id=id, spec=None, path=path, damaged=f"it has no {MANIFEST}")
        except (OSError, UnicodeDecodeError):
            return Entry(id=id, spec=None, path=path, damaged=f"its {MANIFEST} cannot be read")
        fast = OURS.fullmatch(text)
        if fast is None:
            return self._read_edited(id, path, text)
        repository, architecture, partitioning, variant, commit = fast.group(1, 2, 3, 4, 5)
        count, size = int(fast[6]), int(fast[7])
        spec = _spec(repository, architecture, partitioning, variant)
        if spec is None:
            return Entry(id=id, spec=None, path=path, damaged=f"its {MANIFEST} has no valid [model] table")
        damaged = None if _census(path) == (count, size) else self._difference(id, path, commit)
        return Entry(id=id, spec=spec, path=path, damaged=damaged, size=size, commit=commit)

    def recover(self) -> None:
        """Finish or undo a replacement of an entry that was killed between its two renames."""
        with suppress(OSError), os.scandir(self._layout.partial) as found:
            for item in found:
                id = item.name.partition("~")[0]
                if item.name.endswith(f".{OLD}") and _ID.fullmatch(id):
                    target = self._layout.models / id
                    if not os.path.lexists(target):
                        with suppress(OSError):
                            os.rename(item.path, target)  # noqa: PTH104 - the fault tests count calls of os

    def forget_replaced(self, id: str) -> None:
        """Delete older forms of an entry that is there, so that none of them can come back."""
        for name in os.listdir(self._layout.partial):  # noqa: PTH208 - names alone
            if name.startswith(f"{id}~") and name.endswith(f".{OLD}"):
                remove(self._layout.partial / name)

    def take_away(self, id: str) -> Path:
        """Remove an entry from sight in one step; the folder is left in `partial`, at the path that is returned."""
        self.forget_replaced(id)
        target = self._layout.temporary(id, "gone")
        os.rename(self._layout.models / id, target)  # noqa: PTH104 - the fault tests count calls of os
        sync_folder(self._layout.models)
        return target

    def _read_edited(self, id: str, path: Path, text: str) -> Entry:
        import tomllib

        try:
            tables = tomllib.loads(text.removeprefix("\ufeff"))
        except (tomllib.TOMLDecodeError, RecursionError):
            return Entry(id=id, spec=None, path=path, damaged=f"its {MANIFEST} is not valid TOML")
        model, source = tables.get("model"), tables.get("source")
        words = [model.get(key) if isinstance(model, dict) else None for key in _KEYS]
        commit = source.get("commit") if isinstance(source, dict) else None
        commit = commit if isinstance(commit, str) else None
        spec = _spec(*words)
        if spec is None:
            return Entry(
                id=id, spec=None, path=path, damaged=f"its {MANIFEST} has no valid [model] table", commit=commit
            )
        snapshot = self._snapshots.read(id, commit)
        if snapshot is None:
            damaged = None if commit is None else "the record of its files is missing"
            count, size = _census(path)
            damaged = damaged if count else "it has no files"
            return Entry(id=id, spec=spec, path=path, damaged=damaged, size=size, commit=commit)
        damaged = difference(path, snapshot)
        return Entry(id=id, spec=spec, path=path, damaged=damaged, size=snapshot.size, commit=snapshot.commit)

    def _difference(self, id: str, path: Path, commit: str) -> str | None:
        snapshot = self._snapshots.read(id, commit)
        return "the record of its files is missing" if snapshot is None else difference(path, snapshot)


_KEYS = ("repository", "architecture", "partitioning", "variant")


def difference(path: Path, snapshot: Snapshot) -> str | None:
    """The first file of an entry that is missing or has another size, in words; None if all are there."""
    for file in snapshot.files:
        try:
            facts = local_path(path, file.path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return f"'{file.path}' is missing"
        if not stat.S_ISREG(facts.st_mode):
            return f"'{file.path}' is not a file"
        if facts.st_size != file.size:
            return f"'{file.path}' has {facts.st_size:,} bytes instead of {file.size:,}"
    return None


def quote(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'


def manifest_text(spec: "ModelSpec", snapshot: Snapshot) -> str:
    """The manifest of a new entry, in the form that `OURS` matches."""
    return (
        f"[model]\nrepository = {quote(spec.repository)}\narchitecture = {quote(spec.architecture)}\n"
        f"partitioning = {quote(spec.partitioning)}\nvariant = {quote(spec.variant)}\n\n"
        f"[source]\ncommit = {quote(snapshot.commit)}\nfiles = {len(snapshot.files)}\nbytes = {snapshot.size}\n"
    )


def _spec(*words: object) -> "ModelSpec | None":
    from metalchat_manifest import ManifestError, ModelSpec

    repository, architecture, partitioning, variant = words
    if not (
        isinstance(repository, str)
        and isinstance(architecture, str)
        and isinstance(partitioning, str)
        and isinstance(variant, str)
    ):
        return None
    try:
        return ModelSpec(repository=repository, architecture=architecture, partitioning=partitioning, variant=variant)
    except ManifestError:
        return None


def _census(path: Path | str) -> tuple[int, int]:
    """Number and bytes of the regular files below an entry, its manifest left out."""
    count = size = 0
    with os.scandir(path) as found:
        for item in found:
            if item.is_file(follow_symlinks=False):
                if item.name != MANIFEST:
                    count, size = count + 1, size + item.stat(follow_symlinks=False).st_size
            elif item.is_dir(follow_symlinks=False):
                inner = _census(item.path)
                count, size = count + inner[0], size + inner[1]
    return count, size
