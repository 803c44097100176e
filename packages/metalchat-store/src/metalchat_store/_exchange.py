"""Two names change places in one step, where the system can do that."""

import os
import sys
from pathlib import Path

_AT_FDCWD = -100  # linux/fcntl.h
_SWAP = 2  # RENAME_EXCHANGE of linux/fs.h, RENAME_SWAP of sys/stdio.h


def exchange(one: Path, other: Path) -> bool:
    """Swap two existing names; False, and nothing happens, where the system or the file system cannot."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    left, right = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "darwin":
            return library.renamex_np(left, right, _SWAP) == 0
        return library.renameat2(_AT_FDCWD, left, _AT_FDCWD, right, _SWAP) == 0
    except AttributeError:
        return False
