"""Meta's `checklist.chk`: the MD5 or SHA-256 of each file of a release."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from metalchat_store.checkpoint.model import TOKENIZER
from metalchat_store.errors import IntegrityError
from metalchat_store.remote import RemoteFile

CHECKLIST = "checklist.chk"
CHECKLIST_LIMIT = 64 << 10
_LINE = re.compile(r"([0-9a-fA-F]{32}|[0-9a-fA-F]{64})[ \t]+[*]?(?:[.]/)?([A-Za-z0-9][A-Za-z0-9._-]{0,127})")


def parse_checklist(data: bytes) -> Mapping[str, str]:
    """The digest of each file by its name: 32 digits of MD5 or 64 of SHA-256. Raises `IntegrityError`."""
    found: dict[str, str] = {}
    for line in data.decode("utf-8", errors="replace").splitlines():
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or match[2] in found:
            raise IntegrityError("Meta's checklist is not a list of digests and file names")
        found[match[2]] = match[1].lower()
    return found


def check_named(names: Iterable[str], digests: Mapping[str, str], release: str, notice: Callable[[str], None]) -> None:
    """`IntegrityError` unless the checklist names them all; of the tokenizer, which old ones lack, a notice."""
    for name in names:
        if name not in digests:
            if name != TOKENIZER:
                raise IntegrityError(f"Meta's checklist of '{release}' does not name '{name}'")
            notice(f"Meta's checklist does not name '{name}': its content is not compared")


def identified(file: RemoteFile, digests: Mapping[str, str]) -> RemoteFile:
    """The file with the digest that the checklist has for it, if any."""
    digest = digests.get(file.path, "")
    return replace(file, sha256=digest if len(digest) == 64 else None, md5=digest if len(digest) == 32 else None)
