"""Locks that save work and nothing else: what they protect stays correct where they do not work."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from metalchat_store._layout import Layout

SUFFIX = "lock"
PATIENCE = 120.0  # seconds without a sign of life after which another holder is no longer waited for
_POLL = 0.1
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def exclusive(
    path: Path,
    *,
    waiting: Callable[[], None],
    activity: Callable[[], object],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Iterator[bool]:
    """Hold the lock file `path`; yields whether it really excludes others.

    `waiting` is called once if another process holds it. The wait ends without the lock when `activity()` has not
    changed for two minutes. The file is removed at the end.
    """
    descriptor: int | None = None
    seen: object = None
    since: float | None = None
    while descriptor is None:
        try:
            descriptor = _acquire(path)
        except BlockingIOError:
            if since is None:
                waiting()
            now = activity()
            if since is None or now != seen:
                seen, since = now, clock()
            elif clock() - since > PATIENCE:
                break
            sleep(_POLL)
        except NotImplementedError:
            break
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            break
    excludes = descriptor is not None and _excludes(path)
    try:
        yield excludes
    finally:
        if excludes:
            with suppress(OSError):
                path.unlink()
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def entry_lock(
    layout: Layout,
    id: str,
    notice: Callable[[str], None],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Iterator[None]:
    """Hold the lock of a model entry, for the moment in which it is replaced or removed."""
    with exclusive(
        layout.partial / f"{id}.{SUFFIX}",
        waiting=lambda: notice(f"waiting for another process that changes model '{id}'"),
        activity=lambda: None,
        clock=clock,
        sleep=sleep,
    ):
        yield


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock file `path` now."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def discard(path: Path) -> None:
    """Remove a lock file, unless somebody holds it: who comes next would make another and hold that."""
    with suppress(OSError):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_nlink:  # it is still the file of that name
                    path.unlink()
            finally:
                os.close(descriptor)
        except (NotImplementedError, OSError) as error:
            if isinstance(error, NotImplementedError) or error.errno in _UNSUPPORTED:
                path.unlink()


def _acquire(path: Path) -> int | None:
    """A descriptor that holds the lock; None if the last holder removed the file. `BlockingIOError` if it is held."""
    descriptor = os.open(os.fspath(path), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            held, descriptor = descriptor, -1
            return held
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return None


def _excludes(path: Path) -> bool:
    """Whether a second attempt on the same file fails, as it must: on some network file systems it does not."""
    return os.path.lexists(path) and not is_free(path)
