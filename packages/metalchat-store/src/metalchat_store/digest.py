"""Identities of content, and the only way from one to a path of the store."""

import re
from dataclasses import dataclass
from pathlib import Path

from metalchat_store.errors import IntegrityError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_INVALID = "the server sent a file identity that is not valid"


@dataclass(frozen=True, slots=True)
class Digest:
    """The SHA-256 of some bytes: exactly 64 lowercase hexadecimal digits, or `IntegrityError`."""

    hex: str

    def __post_init__(self) -> None:
        if not isinstance(self.hex, str) or _SHA256.fullmatch(self.hex) is None:
            raise IntegrityError(_INVALID)

    def __str__(self) -> str:
        return self.hex

    def below(self, root: Path) -> Path:
        """Where the content lies below `root`: `<first two digits>/<the other 62>`."""
        return root / self.hex[:2] / self.hex[2:]


def check_sha1(text: str) -> str:
    """`text` if it is exactly 40 lowercase hexadecimal digits (a git object id), else `IntegrityError`."""
    if not isinstance(text, str) or _SHA1.fullmatch(text) is None:
        raise IntegrityError(_INVALID)
    return text
