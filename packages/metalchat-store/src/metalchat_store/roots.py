"""What keeps a model, or an earlier state of one: manifests that select it, locks beside them, pins."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metalchat_store._files import make_folder, read_file, write_file
from metalchat_store._layout import Layout
from metalchat_store.errors import StoreError
from metalchat_store.lockfile import LOCK, Lock

MANIFEST = "metalchat.toml"
_LIMIT = 1 << 20
_NONE = (errno.ENOENT, errno.EINVAL, errno.ELOOP)  # deleted meanwhile, or nothing that the store wrote
_AWAY = 30 * 86400  # seconds for which a manifest counts whose folder is gone: it may be on a disk that is not here


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """Why the model `id` is kept; `path` is None for a pin.

    `commit` is that of a lock; None for a lock that cannot be read, which keeps every state.
    """

    kind: Literal["manifest", "lock", "pin"]
    id: str
    commit: str | None = None
    path: Path | None = None

    def __str__(self) -> str:
        words = {"manifest": f"'{self.path}' selects it", "lock": f"'{self.path}' locks it", "pin": "it is pinned"}
        return words[self.kind]


class Roots:
    """The folder `roots`: one small file for every known manifest and every pin."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def register(self, manifest: Path, id: str) -> None:
        """Remember a manifest, by its absolute path, that selects a model; that of the home is always known."""
        path = os.path.abspath(manifest)  # noqa: PTH100 - `..` is taken out, which Path.absolute() leaves
        if Path(path) == self._layout.home / MANIFEST:
            return
        record = json.dumps({"version": 1, "path": path, "model": id}).encode()
        self._write(hashlib.sha256(os.fsencode(path)).hexdigest()[:40] + ".json", record)

    def pin(self, id: str) -> None:
        """Pin a model."""
        self._write(f"{id}.pin", b"")

    def unpin(self, id: str) -> bool:
        """Take the pin away; False if there was none."""
        try:
            (self._layout.roots / f"{id}.pin").unlink()
        except FileNotFoundError:
            return False
        return True

    def pinned(self) -> frozenset[str]:
        """The ids of all pinned models."""
        return frozenset(name.removesuffix(".pin") for name in self._names() if name.endswith(".pin"))

    def all(self) -> tuple[Root, ...]:
        """Every root there is now. What cannot be read keeps what the manifest last selected.

        Raises `OSError` for a note of the store's own that is there and cannot be read now.
        """
        found = [Root(kind="pin", id=id) for id in sorted(self.pinned())]
        places = {path: id for path, id, _ in self._records()}
        places.setdefault(self._layout.home / MANIFEST, "")
        for path, last in sorted(places.items()):
            selected = _selected(path, last)
            found += [Root(kind="manifest", id=id, path=path) for id in selected]
            found += _locked(path.with_name(LOCK), {*selected, last} - {""})
        return tuple(found)

    def of(self, id: str) -> tuple[Root, ...]:
        """The roots of one model."""
        return tuple(root for root in self.all() if root.id == id)

    def forget_gone(self, now: float) -> None:
        """Forget manifests that were deleted; one whose whole folder is gone counts for another 30 days."""
        for path, _, record in self._records():
            if _is_gone(path) and (path.parent.is_dir() or _age(record, now) > _AWAY):
                with suppress(FileNotFoundError):
                    record.unlink()

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._layout.roots)  # noqa: PTH208 - names alone
        except FileNotFoundError:
            return []

    def _records(self) -> Iterator[tuple[Path, str, Path]]:
        for name in self._names():
            record = self._layout.roots / name
            if not name.endswith(".json"):
                continue
            try:
                data = read_file(record, _LIMIT)
            except OSError as error:
                if error.errno in _NONE:
                    continue
                raise
            with suppress(ValueError, RecursionError, TypeError, KeyError):
                content = json.loads(data)
                path, id = content["path"], content["model"]
                if isinstance(path, str) and isinstance(id, str) and os.path.isabs(path):  # noqa: PTH117 - text
                    yield Path(path), id, record

    def _write(self, name: str, data: bytes) -> None:
        self._layout.prepare()
        make_folder(self._layout.roots)
        write_file(self._layout.roots / name, data, temporary=self._layout.temporary("root", "tmp"))


def _selected(path: Path, last: str) -> tuple[str, ...]:
    from metalchat_manifest import Manifest, ManifestError, ManifestNotFound

    try:
        model = Manifest.read(path).model
    except ManifestNotFound:
        return (last,) if last and not path.parent.is_dir() else ()
    except ManifestError:
        return (last,) if last else ()
    return () if model is None else model.ids


def _locked(path: Path, selected: Set[str]) -> list[Root]:
    try:
        lock = Lock.read(path)
    except StoreError:
        return [Root(kind="lock", id=id, path=path) for id in sorted(selected)]
    return [] if lock is None else [Root(kind="lock", id=lock.spec.id, commit=lock.commit, path=path)]


def _is_gone(path: Path) -> bool:
    return not os.path.lexists(path) and not os.path.lexists(path.with_name(LOCK))


def _age(record: Path, now: float) -> float:
    try:
        return now - record.stat().st_mtime
    except FileNotFoundError:
        return 0.0
