"""The one way to the terminal: everything that metalchat did not write is made harmless here.

What a model, a hub, a file name or a parser says may hold escape sequences that hide text, write to the
clipboard or move the cursor. `safe_text` shows each control character instead of sending it; it looks at
one character at a time, so it is the same for a stream cut anywhere.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from metalchat_cli import errors, redaction

# C0 without newline and tab, DEL, C1, and lone surrogates, which no encoder accepts.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
# Characters that reorder or hide what surrounds them: harmless in an answer, not in a name that is trusted.
_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]")

_COLOURS = {"red": "31", "yellow": "33", "dim": "2"}


def safe_text(text: str) -> str:
    r"""`text` with every control character but newline and tab written out, such as `\x1b`."""
    return _CONTROL.sub(_escape, text)


def json_text(text: str) -> str:
    r"""A piece of JSON with every control character but newline and tab as JSON escapes it, such as `\u0085`."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def safe_name(text: str) -> str:
    """`text` on one line: as `safe_text`, with newlines, tabs, bidirectional and invisible characters written out."""
    text = _INVISIBLE.sub(_escape, safe_text(text))
    return text.replace("\n", "\\n").replace("\t", "\\t")


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def shows_hints() -> bool:
    """Whether standard error is a terminal, where somebody reads along."""
    return sys.stderr.isatty()


def shows_progress() -> bool:
    """Whether standard error is a terminal that can go back to the start of a line."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def value_text(value: bool | int | float | str) -> str:
    """A setting's value as TOML and the command line write it, strings without quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def write(text: str) -> None:
    """Write a piece of an answer to standard output, at once."""
    _put(safe_text(text))
    flush()


def line(text: str = "") -> None:
    """Write a line that others' words may be part of to standard output."""
    _put(safe_text(text) + "\n")


def row(*cells: str, separator: str = "  ", highlight: bool = False) -> None:
    """Write one row of a list; each cell stays on that row. `highlight` colours the first one."""
    safe = [safe_name(cell) for cell in cells]
    if highlight:
        safe[0] = paint(safe[0], "yellow", is_terminal())
    _put(separator.join(safe) + "\n")


def json_line(value: Any) -> None:
    """Write one JSON document in pure ASCII, so that no control character passes unescaped."""
    _put(json.dumps(value, ensure_ascii=True, indent=2).replace("\x7f", "\\u007f") + "\n")


def compact_json_line(value: Any) -> None:
    """The same in one line, for what is mostly numbers."""
    _put(json.dumps(value, ensure_ascii=True).replace("\x7f", "\\u007f") + "\n")


def note(text: str, colour: str | None = None) -> None:
    """Write one line to standard error: a notice, a hint, statistics, what failed. Nobody listening is no failure."""
    with suppress(OSError):
        sys.stderr.write(paint(safe_name(redaction.redacted(text)), colour, sys.stderr.isatty()) + "\n")
        sys.stderr.flush()


def trace(error: BaseException) -> None:
    """Write where an error came from to standard error, for who set METALCHAT_DEBUG."""
    import traceback

    from metalchat_credentials import redact

    with suppress(OSError):
        sys.stderr.write(safe_text(redact(redaction.redacted("".join(traceback.format_exception(error))))))


def error(text: str) -> None:
    """Write the one line that says what failed to standard error."""
    note(text, "red")


def paint(text: str, colour: str | None, on_terminal: bool) -> str:
    """`text` in a colour, only on a terminal and only where $NO_COLOR is not set."""
    if colour is None or not on_terminal or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


_at_line_start = True


def _put(text: str) -> None:
    global _at_line_start
    if not text:
        return
    with _output():
        try:
            sys.stdout.write(text)
        except UnicodeEncodeError:
            encoding = sys.stdout.encoding or "ascii"
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    _at_line_start = text.endswith("\n")


def end_line() -> None:
    """Finish a half-written line of standard output, if there is one and it is a terminal."""
    if is_terminal():
        end_answer()


def end_answer() -> None:
    """Finish a half-written line of standard output, if there is one."""
    if not _at_line_start:
        _put("\n")
    flush()


def flush() -> None:
    """Send what was written.

    Raises:
        OutputFailed: it cannot be sent.
    """
    with _output():
        sys.stdout.flush()


@contextmanager
def _output() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise errors.OutputFailed(f"standard output cannot be written: {reason}") from error


def settle() -> None:
    """End with standard output: what could not be sent is dropped, or the interpreter would complain at its exit."""
    global _at_line_start
    _at_line_start = True
    try:
        sys.stdout.flush()
    except OSError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


def read_secret(question: str) -> str:
    """Ask for a secret without showing what is typed; the question goes to the terminal, not to standard output.

    Raises:
        Usage: the person gave none.
    """
    import getpass

    try:
        return getpass.getpass(safe_name(question) + " ")
    except EOFError as error:
        raise errors.Usage("no token was given") from error


def confirm(question: str) -> bool:
    """Ask on standard error what takes a yes or a no; anything but a yes is a no."""
    sys.stderr.write(f"{safe_text(question)} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def read_stdin(limit: int) -> bytes:
    """At most `limit` bytes of standard input; fewer only at its end."""
    return sys.stdin.buffer.read(limit)


def lines() -> Iterator[str]:
    """Standard input, line by line, without line ends.

    Raises:
        Usage: a line is not UTF-8.
    """
    for number, data in enumerate(sys.stdin.buffer, start=1):
        try:
            yield data.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise errors.Usage(f"line {number} of standard input is not UTF-8 text (byte {error.start})") from error


def can_ask() -> bool:
    """Whether there is a person to ask: both ends of the conversation are terminals."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def aside(text: str) -> None:
    """Write a piece of what a model thinks: dimmed on a terminal, nowhere else."""
    if is_terminal():
        _put(paint(safe_text(text), "dim", True))
        flush()


def status(text: str) -> None:
    """Show `text` in place of the last status on standard error, which is a terminal; empty text clears it."""
    with suppress(OSError):
        sys.stderr.write(f"\r\x1b[K{safe_name(text)}")
        sys.stderr.flush()
