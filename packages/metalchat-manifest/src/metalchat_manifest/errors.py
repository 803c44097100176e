"""Everything that this package raises.

    ManifestError               (2)
    ├── InvalidRepository       (2)  an address that cannot name a model
    ├── InvalidSpec             (2)  an architecture, partitioning or variant that cannot be part of an identifier
    ├── InvalidManifest         (2)  metalchat.toml is not TOML, or is larger or deeper than allowed
    │   ├── InvalidValue        (2)  a known key with a value of the wrong type or out of range
    │   ├── MisspeltKey         (2)  a key that is nearly one of the known ones
    │   └── SecretInManifest    (2)  an access token, or a URL with a login, written in the file
    ├── InvalidSetting          (2)  a flag, an environment variable or an option that has no such meaning
    │   └── UnknownOption       (2)  an option that no known model configuration has
    ├── InvalidPrompt           (2)  the file that `prompt.system` names cannot be used
    ├── EditRefused             (2)  a place in the file that cannot be edited without rewriting other parts
    ├── ManifestNotFound        (4)  there is no such file
    ├── InvalidModelFile        (6)  config.json or generation_config.json is damaged or dishonest
    ├── ManifestUnreadable      (7)  the operating system refused to read a file
    ├── ManifestChanged         (7)  another program changed the file; nothing was written
    └── ManifestNotWritten      (7)  the operating system refused to write; the old file is whole

The number is `exit_code`. Messages are one line, hold no control character and no secret. Those about
a file begin with its name and, where known, line and column, and end with its folder unless that is
the working directory.
"""

from pathlib import Path
from typing import ClassVar

from metalchat_manifest._text import one_line


class ManifestError(Exception):
    """Base of all errors of this package.

    `path`, `line`, `column` (both from 1) and `key` (dotted) say what the message is about, where known.
    """

    exit_code: ClassVar[int] = 2

    def __init__(
        self,
        message: str,
        *,
        path: Path | None = None,
        line: int | None = None,
        column: int | None = None,
        key: str | None = None,
    ) -> None:
        text = one_line(message)
        if path is not None:
            place = one_line(path.name)
            if line is not None:
                place += f" line {line}"
            if column is not None:
                place += f" column {column}"
            text = f"{place}: {text}"
            folder = path.parent
            if folder.is_absolute() and folder != _working_directory():
                text += f" (in {one_line(str(folder))})"
        super().__init__(text)
        self.path = path
        self.line = line
        self.column = column
        self.key = key


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except OSError:
        return None


class InvalidRepository(ManifestError):
    """The address has no scheme or host, or holds what no address may hold."""


class InvalidSpec(ManifestError):
    """An architecture, partitioning or variant is empty or holds a character that would blur the identifier."""


class InvalidManifest(ManifestError):
    """The file is not TOML 1.0 in UTF-8, or exceeds a limit."""


class InvalidValue(InvalidManifest):
    """The value of `key` has the wrong type or is out of range."""


class MisspeltKey(InvalidManifest):
    """`key` is not known, and close to one that is."""


class SecretInManifest(InvalidManifest):
    """An access token or a login is written in the file. The message does not repeat it."""


class InvalidSetting(ManifestError):
    """A value that came from a flag, an environment variable or the caller is not a valid setting."""


class UnknownOption(InvalidSetting):
    """No known model configuration has an option of that name."""


class InvalidPrompt(ManifestError):
    """The file of `prompt.system` is missing, too large, not UTF-8 text, or holds an access token."""


class EditRefused(ManifestError):
    """The edit would need to rewrite more than its own line; a person has to make it."""


class ManifestNotFound(ManifestError):
    """There is no manifest at that path."""

    exit_code: ClassVar[int] = 4


class InvalidModelFile(ManifestError):
    """A model's own JSON file is not what it must be. It is untrusted data."""

    exit_code: ClassVar[int] = 6


class ManifestUnreadable(ManifestError):
    """A file exists and the operating system refused to read it, or it is not a regular file."""

    exit_code: ClassVar[int] = 7


class ManifestChanged(ManifestError):
    """The file is not what it was when the edit began. Nothing was written."""

    exit_code: ClassVar[int] = 7


class ManifestNotWritten(ManifestError):
    """The operating system refused to write. The file is as it was before."""

    exit_code: ClassVar[int] = 7
