"""The licence of a wheel, from its METADATA: the file beside it, or the last bytes of the archive itself."""

import hashlib
import io
import re
import zipfile
import zlib

from metalchat_store.digest import Digest
from metalchat_store.errors import IntegrityError

LIMIT = 1 << 20
TAIL = 1 << 16
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,()+_-]{0,79}")
_CLASSIFIERS = {"Apache Software License": "Apache-2.0", "MIT License": "MIT"}


def verified(data: bytes, sha256: str, what: str) -> bytes:
    """`data` if it has that sha256, or none is known (empty); `IntegrityError` otherwise."""
    if sha256 and hashlib.sha256(data).hexdigest() != Digest(sha256).hex:
        raise IntegrityError(f"the metadata of {what} is not what the package index promises")
    return data


def license_of(metadata: bytes) -> str | None:
    """The licence in few words, an SPDX expression where there is one; None if it is unknown or a whole text."""
    from email.parser import HeaderParser

    message = HeaderParser().parsestr(metadata.decode("utf-8", "replace"), headersonly=True)
    for key in ("License-Expression", "License"):
        value = str(message.get(key, "")).strip()
        if _LICENSE.fullmatch(value):
            return value
    for value in message.get_all("Classifier", []):
        kind, _, name = str(value).rpartition(" :: ")
        if kind.startswith("License") and _LICENSE.fullmatch(name):
            return _CLASSIFIERS.get(name, name)
    return None


def license_in_tail(tail: bytes) -> str | None:
    """The licence in the last bytes of a wheel, where METADATA usually lies; None if it lies elsewhere.

    The reader of archives takes what is missing before the list of entries into account: entries that lie wholly
    within `tail` can be read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(tail)) as archive:
            names = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
            if len(names) != 1 or not 0 <= archive.getinfo(names[0]).file_size <= LIMIT:
                return None
            return license_of(archive.read(names[0]))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError):
        return None
    except (ArithmeticError, LookupError):
        return None
