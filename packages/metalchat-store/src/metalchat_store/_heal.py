"""Blobs that lost their name get it back from an entry that has the content."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from metalchat_store._adopt import link
from metalchat_store._files import make_folder
from metalchat_store._layout import Layout
from metalchat_store.blobs import Blobs, Stamp
from metalchat_store.names import local_path
from metalchat_store.snapshots import Snapshot, SnapshotFile


def heal(layout: Layout, folder: Path, snapshot: Snapshot) -> None:
    """Give every file of an entry that has its recorded stamp its name among the blobs, where that is missing."""
    heal_files(layout, folder, snapshot.files)


def heal_files(layout: Layout, folder: Path, files: Iterable[SnapshotFile]) -> None:
    """The same for some files."""
    blobs = Blobs(layout.blobs)
    for file in files:
        blob = blobs.path(file.digest)
        if file.stamp is None or os.path.lexists(blob):
            continue
        path = local_path(folder, file.path)
        with suppress(FileNotFoundError, FileExistsError, NotADirectoryError):
            if Stamp.of(path.lstat()) == file.stamp:
                make_folder(blob.parent)
                link(path, blob)
