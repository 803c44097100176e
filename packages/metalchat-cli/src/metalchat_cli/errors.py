"""What the command line itself can get wrong, and how any error becomes a line and an exit code.

    CliError
    ├── Usage                   an option or argument to change
    ├── CommandConflict         a plug-in offers a command that exists already
    ├── NotCheckedOut           the scope that was asked for selects no model
    └── NotSet                  an option that no manifest sets

The packages' own errors carry an `exit_code`; everything else is the program's own fault, code 1.
"""

import errno
from typing import ClassVar

DISK_ERRORS = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EACCES}


class CliError(Exception):
    """Base of the command line's own errors."""

    exit_code: ClassVar[int] = 1


class Usage(CliError):
    """Something on the command line to change."""

    exit_code: ClassVar[int] = 2


class CommandConflict(CliError):
    """Two distributions offer the same command."""

    exit_code: ClassVar[int] = 2


class NotCheckedOut(CliError):
    """The scope that was asked for selects no model."""

    exit_code: ClassVar[int] = 2


class NotSet(CliError):
    """An option that no manifest sets."""

    exit_code: ClassVar[int] = 4


def exit_code(error: BaseException) -> int:
    """1 own fault, 2 usage or manifest, 3 credentials, 4 not found, 5 network, 6 integrity, 7 disk, 8 refused."""
    code = getattr(type(error), "exit_code", None)
    if isinstance(code, int):
        return code
    if _is_usage(error):
        return 2
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return 7
    return 1


def describe(error: BaseException) -> str:
    """One line, beginning as the older program's did where it had the same message."""
    from metalchat_credentials import redact

    text = redact(_one_line(str(error))) or type(error).__name__
    if type(error).__name__ in ("ModelNotFound", "Corrupted"):
        return f"fatal: {text}"
    if isinstance(error, NotCheckedOut):
        return f"error: {text}"
    if isinstance(getattr(type(error), "exit_code", None), int):
        return f"metalchat: error: {text}"
    if _is_usage(error):
        text = text.partition(" Available commands:")[0].rstrip(".")
        stop = "" if text.endswith("?") else "."
        return f"metalchat: error: {text}{stop} See 'metalchat --help'"
    if isinstance(error, OSError):
        name = f" '{error.filename}'" if error.filename else ""
        return f"metalchat: error: {error.strerror or text}{name}"
    return f"metalchat: error: unexpected {type(error).__name__}: {text}. METALCHAT_DEBUG=1 shows where"


def _is_usage(error: BaseException) -> bool:
    # By name: importing cyclopts only to compare would cost every failing command its start-up time.
    return any(kind.__name__ == "CycloptsError" for kind in type(error).__mro__)


def _one_line(text: str) -> str:
    return " ".join(text.split())
