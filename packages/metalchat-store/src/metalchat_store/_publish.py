"""An entry built in private and shown in one rename; what the user wrote in the old one stays."""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from metalchat_store._adopt import adopt
from metalchat_store._exchange import exchange
from metalchat_store._files import create, make_folder, read_file, remove, sync_file, sync_folder, write_at
from metalchat_store._layout import Layout
from metalchat_store.blobs import Blobs
from metalchat_store.entries import MANIFEST, MANIFEST_LIMIT, OLD, OURS, Entries, manifest_text
from metalchat_store.errors import Corrupted
from metalchat_store.names import local_path
from metalchat_store.snapshots import Snapshot, SnapshotFile

if TYPE_CHECKING:
    from metalchat_manifest import ModelSpec

_OWN_FILE_LIMIT = 1 << 20


def publish(layout: Layout, spec: "ModelSpec", snapshot: Snapshot, *, before: Snapshot | None) -> Path:
    """Make `models/<id>` what `snapshot` says. `before` describes the entry that is replaced, if that is known.

    Raises `FileNotFoundError` if a blob was deleted meanwhile. Killed at any point, either the old or the new
    entry is there, or the old one waits in `partial` and comes back with the next look at the store.
    """
    target = layout.models / snapshot.id
    building = layout.temporary(snapshot.id, "entry")
    try:
        make_folder(building)
        fill(building, Blobs(layout.blobs), snapshot.files)
        _keep_own_files(target, building, snapshot, before)
        _write_manifest(building, target / MANIFEST, spec, snapshot)
        sync_folder(building)
        show(layout, building, target)
    finally:
        remove(building)
    return target


def fill(building: Path, blobs: Blobs, files: tuple[SnapshotFile, ...]) -> None:
    folders: set[Path] = set()
    for file in files:
        path = local_path(building, file.path)
        for folder in reversed(path.relative_to(building).parents[:-1]):
            make_folder(building / folder)
            folders.add(building / folder)
        _link_or_copy(blobs.path(file.digest), path)
    for folder in folders:
        sync_folder(folder)


def _link_or_copy(blob: Path, path: Path) -> None:
    try:
        os.link(blob, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV):
            raise
        adopt(blob, path, links=False)


def _keep_own_files(old: Path, building: Path, snapshot: Snapshot, before: Snapshot | None) -> None:
    """Small files that no pull brought, such as the system prompt that the manifest names, move along."""
    brought = {file.path for file in (*snapshot.files, *(before.files if before else ()))} | {MANIFEST}
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(old) as found:
        for item in found:
            facts = item.stat(follow_symlinks=False)
            if item.name in brought or not stat.S_ISREG(facts.st_mode) or facts.st_size > _OWN_FILE_LIMIT:
                continue
            if not os.path.lexists(building / item.name):
                _link_or_copy(old / item.name, building / item.name)


def _write_manifest(building: Path, old: Path, spec: "ModelSpec", snapshot: Snapshot) -> None:
    text = manifest_text(spec, snapshot)
    try:
        kept = read_file(old, MANIFEST_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        kept = None
    edited = kept is not None and OURS.fullmatch(kept.decode(errors="replace")) is None
    path = building / MANIFEST
    descriptor = create(path)
    try:
        write_at(descriptor, kept if edited and kept is not None else text.encode(), 0)
        sync_file(descriptor)
    finally:
        os.close(descriptor)
    if edited:
        _edit(path, spec, snapshot)


def _edit(path: Path, spec: "ModelSpec", snapshot: Snapshot) -> None:
    from metalchat_manifest import ManifestError, edit

    try:
        with edit(path) as editor:
            editor.set_model(spec)
            editor.set_table(
                "source", {"commit": snapshot.commit, "files": len(snapshot.files), "bytes": snapshot.size}
            )
    except ManifestError as error:
        reason = str(error).replace(f" (in {path.parent})", "")
        raise Corrupted(
            f"model '{snapshot.id}' has a {MANIFEST} that cannot be updated: {reason}. Correct it or remove the model"
        ) from error


def show(layout: Layout, building: Path, target: Path) -> None:
    """Rename into place; an entry that is there changes places with the new one, or else steps aside first."""
    while True:
        try:
            os.rename(building, target)  # noqa: PTH104 - the fault tests count calls of os
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        if exchange(building, target):
            break
        with suppress(FileNotFoundError):
            os.rename(target, layout.temporary(target.name, OLD))  # noqa: PTH104 - the same
    sync_folder(layout.models)
    Entries(layout).forget_replaced(target.name)
