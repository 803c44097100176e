"""A small text file that is read whole and replaced in one step."""

import os
import stat
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp

from metalchat_credentials.errors import IndexNotSaved, InvalidIndex

_LARGEST = 1 << 20


def signature(path: Path) -> object:
    """Changes whenever the file does; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IndexNotSaved(f"{path} could not be read ({error.strerror}). Check its permissions") from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read(path: Path) -> bytes:
    """The file's bytes, none where there is no file. Raises InvalidIndex above 1 MiB, IndexNotSaved."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise IndexNotSaved(f"{path} could not be read ({error.strerror}). Check its permissions") from error
    if len(data) > _LARGEST:
        raise InvalidIndex(f"{path} is larger than {_LARGEST >> 20} MiB. Shorten it")
    return data


def replace(path: Path, before: bytes, after: bytes) -> bool:
    """Puts `after` in the place of `before`, mode 0600; False where the file holds something else by now.

    A symbolic link is followed, so that what it points to is replaced. After a crash the file is the old or the new
    one. Directories that are missing are made, open to their owner only.
    """
    try:
        target = Path(os.path.realpath(path))
        _make_directories(target.parent)
        descriptor, name = mkstemp(dir=target.parent, prefix=f".{target.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, stat.S_IRUSR | stat.S_IWUSR)
                file.write(after)
                file.flush()
                os.fsync(descriptor)
            if read(path) != before:
                return False
            temporary.replace(target)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        _sync(target.parent)
    except OSError as error:
        raise IndexNotSaved(
            f"{path} could not be written ({error.strerror}). Free space or check permissions"
        ) from error
    return True


def _make_directories(directory: Path) -> None:
    if not directory.is_dir():
        _make_directories(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
