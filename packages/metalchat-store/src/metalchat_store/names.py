"""The one place where names that somebody else chose become paths.

A name is refused, never repaired. What is refused would leave the directory, mean something else on another file
system, or hide from the eye: empty, `.` and `..` segments, `/` at an end, `\\`, `:`, control and format characters,
segments above 255 bytes, device names of Windows, trailing dots and spaces, `.git`, and the store's own files.
"""

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from metalchat_store.errors import IntegrityError

MAX_SEGMENT = 255  # bytes of UTF-8: the limit of APFS, ext4 and NTFS
MAX_NAME = 1024
MAX_DEPTH = 32

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$", "clock$"}
    | {f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"}
)


def check_name(name: str) -> tuple[str, ...]:
    """The segments of a relative name written with `/`; `IntegrityError` if it is not allowed."""
    if not isinstance(name, str) or not name or len(name) > MAX_NAME:
        raise _refused(name)
    segments = tuple(name.split("/"))
    if len(segments) > MAX_DEPTH or not all(map(_allowed, segments)):
        raise _refused(name)
    return segments


def check_names(names: Iterable[str]) -> None:
    """Refuse names that fall together on a file system that ignores case or normalises Unicode.

    The same name twice, two spellings of one file or folder, and a file that is also a folder are refused.
    """
    seen: dict[str, tuple[str, bool]] = {}
    for name in names:
        segments = check_name(name)
        for depth in range(1, len(segments) + 1):
            here = ("/".join(segments[:depth]), depth == len(segments))
            key = _folded(here[0])
            if key in seen and (here[1] or seen[key] != here):
                raise _refused(name)
            seen[key] = here


def local_path(root: Path, name: str) -> Path:
    """The path below `root` of a file that somebody else named; `IntegrityError` if the name is not allowed."""
    return root.joinpath(*check_name(name))


def _allowed(segment: str) -> bool:
    if segment in ("", ".", "..") or segment[-1] in ". " or segment[0] == " ":
        return False
    if any(character in "\\:" or unicodedata.category(character) in _HIDDEN for character in segment):
        return False
    folded = _folded(segment)
    if folded.split(".", 1)[0].rstrip(" ") in _DEVICES:
        return False
    if folded in (".git", "metalchat.toml", "metalchat.lock") or folded.startswith(".metalchat"):
        return False
    return len(segment.encode()) <= MAX_SEGMENT


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _refused(name: object) -> IntegrityError:
    shown = ascii(name)[1:-1] if isinstance(name, str) else type(name).__name__
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return IntegrityError(f'the model contains a file name that is not allowed: "{shown}"')
