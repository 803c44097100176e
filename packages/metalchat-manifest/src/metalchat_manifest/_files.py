"""Bounded reading of small files that may be anything on disk."""

import os
import stat
from pathlib import Path

from metalchat_manifest.errors import ManifestUnreadable


class TooLarge(Exception):
    """The file has more bytes than the limit."""


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; symbolic links are followed.

    Raises FileNotFoundError, TooLarge, and ManifestUnreadable for whatever else stands in the way; a device
    or a FIFO never blocks.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise ManifestUnreadable("it is not a regular file", path=path)
            if state.st_size > limit:
                raise TooLarge
            data = os.read(descriptor, limit + 1)
            while len(data) <= limit and (more := os.read(descriptor, limit + 1 - len(data))):
                data += more
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(str(path)) from error
    except OSError as error:
        raise ManifestUnreadable(f"it cannot be read: {error.strerror or 'input/output error'}", path=path) from error
    except ValueError as error:  # a NUL in the path
        raise FileNotFoundError("a path with a NUL") from error
    if len(data) > limit:
        raise TooLarge
    return data
