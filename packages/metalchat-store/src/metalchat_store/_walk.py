"""What lies below the folders of a store, in so far as a collection asks."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from metalchat_store.digest import Digest

_SHARD = re.compile(r"[0-9a-f]{2}")
_REST = re.compile(r"[0-9a-f]{62}")


def blobs_below(root: Path) -> Iterator[tuple[Digest, str]]:
    """Every file that is named like a blob."""
    with suppress(FileNotFoundError), os.scandir(root) as shards:
        for shard in shards:
            if _SHARD.fullmatch(shard.name) and shard.is_dir(follow_symlinks=False):
                with os.scandir(shard.path) as found:
                    for item in found:
                        if _REST.fullmatch(item.name) and item.is_file(follow_symlinks=False):
                            yield Digest(shard.name + item.name), item.path


def changed(facts: os.stat_result) -> float:
    """When a file, or the number of its names, changed last."""
    return max(facts.st_mtime, facts.st_ctime)


def changes(folder: Path) -> Iterator[tuple[int, float]]:
    """The inodes of all that is below an entry, and when they changed."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            facts = path.lstat()
            yield facts.st_ino, changed(facts)


def inodes(folder: Path | str) -> Iterator[int]:
    """The inodes of all files below an entry."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
        for item in found:
            if item.is_dir(follow_symlinks=False):
                yield from inodes(item.path)
            else:
                yield item.inode()


def size(path: Path) -> int:
    """Bytes that become free with a file or folder: those of files without another name."""
    try:
        facts = path.lstat()
        if stat.S_ISDIR(facts.st_mode):
            return sum(size(inner) for inner in list(path.iterdir()))
    except FileNotFoundError:
        return 0
    return facts.st_size if facts.st_nlink == 1 else 0
