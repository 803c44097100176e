"""When a model was last used: the time of one empty file, moved at most once a minute."""

import os
import time
from contextlib import suppress

from metalchat_store._files import create, make_folder
from metalchat_store._layout import Layout

EVERY = 60.0
"""Seconds for which a use may go without a note."""


def touch(layout: Layout, id: str) -> None:
    """Note that a model is used now. A disk that cannot be written to does not matter."""
    path = layout.used / id
    with suppress(OSError):
        try:
            if abs(time.time() - path.lstat().st_mtime) >= EVERY:
                os.utime(path, follow_symlinks=False)
        except FileNotFoundError:
            make_folder(layout.used)
            os.close(create(path))


def last(layout: Layout, id: str) -> float:
    """Seconds since the epoch of the last use; that of the entry itself for what was never used, 0 if it is gone.

    An `OSError` is raised: what is not known to be long ago must not be evicted.
    """
    for path in (layout.used / id, layout.models / id):
        with suppress(FileNotFoundError, NotADirectoryError):
            return path.lstat().st_mtime
    return 0.0


def forget(layout: Layout, id: str) -> None:
    """Delete the note."""
    with suppress(FileNotFoundError):
        (layout.used / id).unlink()
