"""Which blob a file became that is listed under its git id only, for other pulls before a snapshot says so.

A hint lies among the unfinished files until a pull of the model ends, and is checked before it is believed.
"""

import hashlib
import os
from contextlib import suppress

from metalchat_store._files import create, hash_file, open_regular, read_file, write_at
from metalchat_store._layout import Layout
from metalchat_store.blobs import Blobs, Stamp
from metalchat_store.digest import Digest
from metalchat_store.errors import IntegrityError
from metalchat_store.remote import RemoteFile

SUFFIX = "hint"


def leave(layout: Layout, key: str, digest: Digest) -> None:
    """Say that `key` is the blob `digest`, if the disk allows it."""
    temporary = layout.temporary("hint", "tmp")
    try:
        descriptor = create(temporary)
        try:
            write_at(descriptor, digest.hex.encode(), 0)
        finally:
            os.close(descriptor)
        os.replace(temporary, layout.partial / f"{key}.{SUFFIX}")  # noqa: PTH105 - the fault tests count calls of os
    except OSError:
        with suppress(OSError):
            temporary.unlink()


def leads_nowhere(layout: Layout, key: str) -> bool:
    """Whether the blob that a hint names is gone."""
    digest = _named(layout, key)
    return digest is None or not os.path.lexists(Blobs(layout.blobs).path(digest))


def follow(layout: Layout, key: str, file: RemoteFile) -> tuple[Digest, Stamp] | None:
    """The blob that is said to be `file`, if it really is."""
    digest = _named(layout, key)
    if digest is None:
        return None
    with suppress(OSError):
        descriptor = open_regular(Blobs(layout.blobs).path(digest))
        try:
            stamp = Stamp.of(os.fstat(descriptor))
            git, sha256 = hashlib.sha1(b"blob %d\0" % stamp.size, usedforsecurity=False), hashlib.sha256()
            hash_file(descriptor, stamp.size, (git, sha256), lambda _: None)
        finally:
            os.close(descriptor)
        if (stamp.size, git.hexdigest(), sha256.hexdigest()) == (file.size, file.git_sha1, digest.hex):
            return digest, stamp
    return None


def _named(layout: Layout, key: str) -> Digest | None:
    with suppress(OSError, IntegrityError, UnicodeDecodeError):
        return Digest(read_file(layout.partial / f"{key}.{SUFFIX}", 64).decode())
    return None
