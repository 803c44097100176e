"""The text of a model's list of addresses, read and checked."""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urljoin

from metalchat_store._address import AddressError, origin_of
from metalchat_store.digest import Digest
from metalchat_store.errors import IntegrityError, NotAModel
from metalchat_store.names import check_name, check_names
from metalchat_store.remote import MAX_FILES

LIMIT = 4 << 20
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .+_()-]{0,127}")
_KEYS = {"version", "license", "expires", "file"}
_FILE_KEYS = {"path", "url", "size", "sha256", "expires"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One file: where it is, what it must be, and until when the address works (seconds since 1970; None: always)."""

    path: str
    url: str
    size: int
    sha256: str
    expires: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileList:
    """All files of a model."""

    files: tuple[Address, ...]
    license: str | None = None

    @property
    def commit(self) -> str:
        """A fingerprint of names and contents; addresses may change without changing it."""
        lines = sorted(f"{file.path}\0{file.size}\0{file.sha256}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:40]


def parse(data: bytes, *, where: str, base: str | None) -> FileList:
    """The list in a TOML or JSON text, which messages call `where`; relative addresses are below `base`, if given.

    Raises `NotAModel` for what is no such list, `IntegrityError` for names and identities that are not allowed. No
    message holds an address: it may be signed.
    """
    value = _decoded(data, where)
    for key in value.keys() - _KEYS:
        raise NotAModel(f"{where}: {str(key)[:60]!a} is not known (known: {', '.join(sorted(_KEYS))})")
    if value.get("version") != 1 or isinstance(value["version"], bool):
        raise NotAModel(f"{where}: 'version' is not 1")
    files = value.get("file")
    if not isinstance(files, list) or not files:
        raise NotAModel(f"{where}: there is no [[file]]")
    if len(files) > MAX_FILES:
        raise IntegrityError(f"{where} has more than {MAX_FILES:,} files")
    license_name = value.get("license")
    if license_name is not None and (not isinstance(license_name, str) or not _LICENSE.fullmatch(license_name)):
        raise NotAModel(f"{where}: 'license' is not the name of a licence")
    expires = _moment(value.get("expires"), f"{where}: 'expires'")
    found = tuple(_file(item, number, where, base, expires) for number, item in enumerate(files, start=1))
    check_names(file.path for file in found)
    return FileList(files=found, license=license_name)


def _decoded(data: bytes, where: str) -> Mapping[str, object]:
    try:
        text = data.decode("utf-8")
        value = json.loads(text) if text.lstrip()[:1] == "{" else tomllib.loads(text)
    except (ValueError, RecursionError, MemoryError) as error:
        raise NotAModel(f"{where} is neither valid TOML nor JSON") from error
    if not isinstance(value, dict):
        raise NotAModel(f"{where} is not a table")
    return value


def _file(item: object, number: int, where: str, base: str | None, expires: float | None) -> Address:
    here = f"{where}: file {number}"
    if not isinstance(item, dict):
        raise NotAModel(f"{here} is not a table")
    for key in item.keys() - _FILE_KEYS:
        raise NotAModel(f"{here}: {str(key)[:60]!a} is not known (known: {', '.join(sorted(_FILE_KEYS))})")
    path, url, size, sha256 = (item.get(key) for key in ("path", "url", "size", "sha256"))
    if not isinstance(path, str) or not isinstance(url, str) or not isinstance(sha256, str):
        raise NotAModel(f"{here} needs 'path', 'url' and 'sha256', each a text")
    check_name(path)
    Digest(sha256)
    if type(size) is not int or not 0 <= size < 1 << 53:
        raise NotAModel(f"{here}: 'size' is not a number of bytes")
    try:
        address = url if base is None else urljoin(base, url)
        inward = origin_of(address).loopback and base is not None and not origin_of(base).loopback
    except (AddressError, ValueError):
        raise NotAModel(f"{here}: 'url' is not an https address (http on this computer only), or has a login") from None
    if "#" in address or inward:
        raise NotAModel(f"{here}: 'url' has a '#', or leads from another server to this computer")
    own = _moment(item.get("expires"), f"{here}: 'expires'")
    ends = [moment for moment in (own, expires) if moment is not None]
    return Address(path=path, url=address, size=size, sha256=sha256, expires=min(ends, default=None))


def _moment(value: object, what: str) -> float | None:
    """Seconds since 1970 of a TOML date with time and zone, or its text; None for None."""
    if value is None:
        return None
    if isinstance(value, str | datetime):
        with suppress(ValueError, OverflowError):
            moment = datetime.fromisoformat(value) if isinstance(value, str) else value
            if moment.tzinfo is not None:
                return moment.astimezone(UTC).timestamp()
    raise NotAModel(f"{what} is not a date with time and zone, such as 2026-12-31T23:59:59Z")
