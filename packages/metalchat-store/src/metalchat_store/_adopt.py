"""A second name, or a copy, of a file that lies on this computer already."""

import errno
import fcntl
import os
import sys
from pathlib import Path

from metalchat_store._files import BLOCK, create, open_regular, write_at
from metalchat_store.errors import Refused

KINDS = ("clone", "hard link", "copy")
_FICLONE = 0x40049409  # linux/fs.h
_CLONE_NOFOLLOW = 1  # sys/clonefile.h


def adopt(source: Path, target: Path, *, links: bool = True, copies: bool = True) -> str:
    """Make `target`, which must not exist, from the regular file `source`; returns how: one of `KINDS`.

    A clone shares the bytes until one side changes. A hard link is the same file under a second name, so a change of
    the source shows; `links=False` leaves it out. Without `copies`, `Refused` where neither is possible.
    """
    if clone(source, target):
        return "clone"
    if links and link(source, target):
        return "hard link"
    if not copies:
        raise Refused(f"'{source}' can be neither cloned nor hard-linked from here, and a copy was not asked for")
    reader = open_regular(source)
    try:
        writer = create(target)
        try:
            offset = 0
            while block := os.pread(reader, BLOCK, offset):
                write_at(writer, block, offset)
                offset += len(block)
        finally:
            os.close(writer)
    finally:
        os.close(reader)
    return "copy"


def link(source: Path, target: Path) -> bool:
    """Hard-link, or say that the two places cannot share a file."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise
    return True


def clone(source: Path, target: Path) -> bool:
    """Copy on write, where the file system can: APFS, Btrfs, XFS, bcachefs."""
    if sys.platform == "darwin":
        return _clonefile(source, target)
    reader = open_regular(source)
    try:
        writer = create(target)
        try:
            fcntl.ioctl(writer, _FICLONE, reader)
        except OSError as error:
            target.unlink()
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
                raise
            return False
        finally:
            os.close(writer)
    finally:
        os.close(reader)
    return True


def _clonefile(source: Path, target: Path) -> bool:
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    return library.clonefile(os.fsencode(source), os.fsencode(target), _CLONE_NOFOLLOW) == 0
