"""Durable file operations: no name appears before its bytes are on the disk, and no link is followed."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from metalchat_store.errors import DiskError

BLOCK = 1 << 20
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_FULLFSYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


class Hasher(Protocol):
    """What hashlib makes."""

    def update(self, data: bytes, /) -> None: ...


def private_name(kind: str, suffix: str) -> str:
    """A file name that no other process uses: `<kind>~<process id>-<random>.<suffix>`."""
    return f"{kind}~{os.getpid()}-{os.urandom(4).hex()}.{suffix}"


def owner(name: str) -> int | None:
    """The process id in a private name; None if it is not one."""
    pid = name.rpartition("~")[2].partition("-")[0]
    return int(pid) if pid.isascii() and pid.isdigit() else None


def is_running(pid: int) -> bool:
    """Whether a process of that id exists on this computer."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def make_folder(path: Path, *, sync: bool = True, mode: int = 0o700) -> None:
    """Create a folder unless it exists; `DiskError` if something else, or a link, has its name."""
    try:
        os.mkdir(path, mode)  # noqa: PTH102 - the fault tests count calls of os
    except FileExistsError:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise is_link(path) from None
        if not stat.S_ISDIR(mode):
            raise DiskError(f"'{path}' is not a folder: move it away") from None
    else:
        if sync:
            sync_folder(path.parent)


def is_link(path: Path | str) -> DiskError:
    """The error for a symbolic link inside the store."""
    return DiskError(f"'{path}' is a link, which is not allowed in the model store")


def create(path: Path) -> int:
    """A descriptor of a new file of mode 0600; nothing that exists is opened."""
    return os.open(path, _CREATE, 0o600)


def open_regular(path: Path, *, flags: int = _READ) -> int:
    """A descriptor of an existing regular file; `OSError` ELOOP for a link, EINVAL for anything else."""
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def read_file(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes; `OSError` EINVAL if it is longer."""
    descriptor = open_regular(path)
    try:
        data = os.read(descriptor, min(limit + 1, os.fstat(descriptor).st_size + 1))
        while len(data) <= limit and (more := os.read(descriptor, min(BLOCK, limit + 1 - len(data)))):
            data += more
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise OSError(errno.EINVAL, "larger than allowed", str(path))
    return data


def write_at(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def hash_file(
    descriptor: int, length: int, hashers: tuple[Hasher, ...], seen: Callable[[int], None], *, start: int = 0
) -> int:
    """Feed the bytes from `start` to `length` to all hashers; returns where they end. `seen` gets the position."""
    offset = start
    while offset < length and (block := os.pread(descriptor, min(BLOCK, length - offset), offset)):
        for hasher in hashers:
            hasher.update(block)
        offset += len(block)
        seen(offset)
    return offset


def sync_file(descriptor: int) -> None:
    """Wait until the bytes are on the medium; on macOS that takes F_FULLFSYNC."""
    if _FULLFSYNC is not None:
        try:
            fcntl.fcntl(descriptor, _FULLFSYNC)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY):
                raise
        else:
            return
    os.fsync(descriptor)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the medium, where the file system can do that."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes, *, temporary: Path, mode: int = 0o600) -> None:
    """Give `path` the content `data`, all or nothing. `temporary` is a new name on the same file system."""
    descriptor = create(temporary)
    try:
        try:
            write_at(descriptor, data, 0)
            if mode != 0o600:
                os.fchmod(descriptor, mode)
            sync_file(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)  # noqa: PTH105 - the fault tests count calls of os
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Delete a file, a link or a whole folder, if it is there; another process may be deleting it too."""
    import shutil

    while os.path.lexists(path):
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(path.lstat().st_mode):
                shutil.rmtree(path)
            else:
                path.unlink()


def megabytes(count: int) -> str:
    """`12.3 MB`."""
    return f"{count / 1e6:,.1f} MB"


def no_space(home: Path, needed: int | None) -> DiskError:
    """The error for a full disk. `needed` in bytes, None if that is not known."""
    import shutil

    with suppress(OSError):
        free = shutil.disk_usage(home).free
        if needed is not None and needed > free:
            return DiskError(f"not enough disk space in {home}: {megabytes(needed)} needed, {megabytes(free)} free")
        return DiskError(f"not enough disk space in {home}: {megabytes(free)} free. The disk or a quota is full")
    return DiskError(f"not enough disk space in {home}")


@contextmanager
def disk_errors(
    home: Path, needed: Callable[[], int | None] = lambda: None, *, reading: bool = False
) -> Iterator[None]:
    """The one place where an `OSError` becomes a `DiskError` of one line. `reading`: nothing is written here."""
    try:
        yield
    except OSError as error:
        place = error.filename if isinstance(error.filename, str) else home
        code = error.errno
        if code in _NO_SPACE:
            raise no_space(home, needed()) from error
        if code == errno.ELOOP:
            raise is_link(place) from error
        if code in (errno.EMFILE, errno.ENFILE):
            raise DiskError("too many open files: raise the limit with 'ulimit -n'") from error
        reasons = {
            errno.EROFS: "read-only file system",
            errno.EACCES: "permission denied",
            errno.EPERM: "not permitted",
            errno.EFBIG: "a file may not be as large there ('ulimit -f' and the kind of file system say how large)",
        }
        reason = reasons.get(code or 0) or (error.strerror or type(error).__name__).lower()
        reading |= code in (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EINVAL)
        verb = "read" if reading else "write to"
        raise DiskError(f"cannot {verb} {place}: {reason}") from error
