"""What the command line itself can get wrong, and how any error becomes a line and an exit code.

    CliError                    1
    ├── Usage                   2  an option or argument to change
    ├── CommandConflict         2  a plug-in offers a command that exists already
    ├── NotCheckedOut           2  the scope that was asked for selects no model
    ├── NotSet                  4  an option that no manifest sets
    ├── OutputFailed            7  standard output cannot be written
    ├── Incomplete              1  an answer was cut off before it had the form that was asked for
    ├── CommandUnusable         1  what a distribution registered as a command is none
    └── Ended                   1  somebody else's command ended with a message

The packages' own errors carry an `exit_code`; everything else is the program's own fault, code 1.
"""

import errno
import re
from typing import ClassVar

from metalchat_cli.redaction import redacted

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


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


class OutputFailed(CliError):
    """Standard output cannot be written: a full disk, most often."""

    exit_code: ClassVar[int] = 7


class Incomplete(CliError):
    """The answer ended before it had the form that was asked for."""


class CommandUnusable(CliError):
    """What a distribution registered as a command is neither a function nor a cyclopts App."""


class Ended(CliError):
    """A command of another distribution ended the program with a message."""


def exit_code(error: BaseException) -> int:
    """1 own fault, 2 usage or manifest, 3 credentials, 4 not found, 5 network, 6 integrity, 7 disk, 8 refused."""
    code = getattr(type(error), "exit_code", None)
    if isinstance(code, int):
        return code
    if _is_usage(error):
        return 2
    # An error with a file's name is about that file; a write to a full disk does not know the name.
    if isinstance(error, OSError) and (error.filename is not None or error.errno in DISK_ERRORS):
        return 7
    return 1


def describe(error: BaseException) -> str:
    """One line, beginning as the older program's did where it had the same message."""
    from metalchat_credentials import redact

    text = redact(redacted(_one_line(str(error)))) or type(error).__name__
    if type(error).__name__ in ("ModelNotFound", "Corrupted"):
        return f"fatal: {text}"
    if isinstance(error, NotCheckedOut):
        return f"error: {text}"
    if isinstance(getattr(type(error), "exit_code", None), int):
        return f"metalchat: error: {text}"
    if _is_usage(error):
        return f"metalchat: error: {_usage(error, text)}"
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename is not None else ""
        return redact(f"metalchat: error: {name}{(error.strerror or text).lower()}")
    return f"metalchat: error: unexpected {type(error).__name__}: {text}. METALCHAT_DEBUG=1 shows where"


def _is_usage(error: BaseException) -> bool:
    # By name: importing cyclopts only to compare would cost every failing command its start-up time.
    return any(kind.__name__ == "CycloptsError" for kind in type(error).__mro__)


def _usage(error: BaseException, text: str) -> str:
    """What is wrong with the command line, and which help to read; an argument's value may be a token."""
    kind = type(error).__name__
    unused: list[str] = getattr(error, "unused_tokens", None) or [""]
    chain: tuple[str, ...] = tuple(getattr(error, "command_chain", None) or ())
    if kind == "UnusedCliTokensError":
        text = "there is one argument too many" if "credential" in chain else f"unexpected argument '{unused[0]}'"
    elif kind == "UnknownOptionError":
        text = re.sub(r"(Unknown option: \S*?)=.*?(?= Did you mean|$)", r"\1.", text)
    elif kind == "CoercionError":
        # Some versions of cyclopts put the option in front of a converter's own words, some leave that to them.
        text = re.sub(r"^(Invalid value for [^:]+: )\1", r"\1", text)
    text = text.partition(" Available commands:")[0].rstrip(".")
    stop = "" if text.endswith("?") else "."
    return f"{text}{stop} See '{' '.join(('metalchat', *chain))} --help'"


def _one_line(text: str) -> str:
    return " ".join(text.split())
