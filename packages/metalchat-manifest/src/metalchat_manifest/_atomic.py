"""Replacing a small file so that whoever looks finds the old bytes or the new ones, whole."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from metalchat_manifest._toml import read_manifest
from metalchat_manifest.errors import ManifestChanged, ManifestNotFound, ManifestNotWritten

_WAIT_FOR_LOCK = 1.0  # seconds; a save holds the lock for milliseconds
_PAUSE = 0.005


def replace(path: Path, data: bytes, expected: bytes | None) -> None:
    """Makes `data` the content of `path`, if its content still is `expected` (None: there is no file).

    The new bytes reach the disk under a temporary name in the same folder and take the file's place by
    rename; the folder is synchronised after that. Mode, and owner where possible, stay. A symbolic link
    stays a link: the file that it leads to is replaced. Two programs that use this function exclude each
    other by a lock on the folder, so of two edits of the same text one is refused.

    Raises ManifestChanged and ManifestNotWritten; in both cases the file is untouched.
    """
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _not_written(path, error) from error
    try:
        with _locked(folder, path):
            if current(target) != expected:
                raise ManifestChanged("it was changed by another program; nothing was written", path=path)
            try:
                _swap(folder, target.name, data)
            except OSError as error:
                raise _not_written(path, error) from error
        with contextlib.suppress(OSError):  # the new content is in place; some file systems cannot do this
            os.fsync(folder)
    finally:
        os.close(folder)


def current(path: Path) -> bytes | None:
    """The bytes at `path`, None where there is no file. Raises ManifestUnreadable, InvalidManifest."""
    try:
        return read_manifest(path)
    except ManifestNotFound:
        return None


def _swap(folder: int, name: str, data: bytes) -> None:
    temporary = f".{name}.tmp"
    with contextlib.suppress(FileNotFoundError):  # what a killed save has left; the lock says that nobody uses it
        os.unlink(temporary, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o666, dir_fd=folder)
    try:
        try:
            _keep_attributes(folder, name, descriptor)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _keep_attributes(folder: int, name: str, descriptor: int) -> None:
    try:
        old = os.stat(name, dir_fd=folder)
    except FileNotFoundError:
        return
    new = os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, old.st_mode & 0o7777)


@contextlib.contextmanager
def _locked(folder: int, path: Path) -> Iterator[None]:
    """Holds the folder's lock, where the file system has locks."""
    deadline = time.monotonic() + _WAIT_FOR_LOCK
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in {errno.EWOULDBLOCK, errno.EAGAIN}:
                break  # this file system has no locks
            if time.monotonic() > deadline:
                raise ManifestChanged(
                    "it is being changed by another program; nothing was written", path=path
                ) from error
            time.sleep(_PAUSE)
    yield  # closing the descriptor releases the lock


def _not_written(path: Path, error: OSError) -> ManifestNotWritten:
    why = (error.strerror or "input/output error").lower()
    return ManifestNotWritten(f"it cannot be written: {why}. Nothing was written", path=path)
