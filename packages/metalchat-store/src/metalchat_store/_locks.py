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
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0, is_singleton=False)
    seen: object = None
    since: float | None = None
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0)
        except Timeout:
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
    excludes = lock.is_locked and _excludes(path)
    try:
        yield excludes
    finally:
        if excludes:
            with suppress(OSError):
                path.unlink()
        lock.release()


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


def _excludes(path: Path) -> bool:
    """Whether a second attempt on the same file fails, as it must: on some network file systems it does not."""
    return os.path.lexists(path) and not is_free(path)
