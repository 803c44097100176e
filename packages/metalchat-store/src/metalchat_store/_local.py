"""Files of this computer become blobs: cloned, else hard-linked, else copied."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from metalchat_store._adopt import adopt
from metalchat_store._files import hash_file, open_regular, remove
from metalchat_store._known import Known
from metalchat_store._layout import Layout
from metalchat_store.blobs import Blobs, Stamp
from metalchat_store.digest import Digest
from metalchat_store.errors import IntegrityError
from metalchat_store.remote import RemoteFile
from metalchat_store.transfer import Stored


def take(
    layout: Layout, source: Path, file: RemoteFile, known: Known, seen: Callable[[int], None], *, copies: bool = True
) -> Stored:
    """Hash `source` and give it its place among the blobs; `IntegrityError` if it is not what was listed.

    `copies=False` refuses (`Refused`) what can be neither cloned nor hard-linked.

    With a hard link the blob keeps the permissions of the source, and a later change of the source shows in its
    stamp. One that the store shares already is not read again.
    """
    blobs = Blobs.of(layout)
    facts = os.stat(source)  # noqa: PTH116 - one call, counted by the fault tests
    shared = known.shared(Stamp.of(facts)) if file.git_sha1 is None else None
    if shared is not None and file.sha256 in (None, shared.hex) and _same(source, blobs.path(shared)):
        return Stored(digest=shared, stamp=Stamp.of(facts), adopted="hard link")
    temporary = layout.temporary("adopt", "tmp")
    try:
        kind = adopt(source, temporary, copies=copies)
        descriptor = open_regular(temporary)
        try:
            size = os.fstat(descriptor).st_size
            hasher, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
            hashers = (hasher,) if file.git_sha1 is None else (hasher, git)
            length = hash_file(descriptor, size, hashers, seen)
            digest = Digest(hasher.hexdigest())
            if kind == "hard link" and Stamp.of(os.fstat(descriptor)) != Stamp.of(facts):
                raise IntegrityError(f"'{file.path}' changed while it was read. Pull again")
            _compare(file, length, digest, git.hexdigest())
            stamp = blobs.trusted(digest, length, known.stamps(digest))
            if stamp is None:
                stamp = blobs.publish(temporary, descriptor, digest, freeze=kind != "hard link")
        finally:
            os.close(descriptor)
    finally:
        remove(temporary)
    return Stored(digest=digest, stamp=stamp, adopted=kind)


def compare(source: Path, file: RemoteFile, seen: Callable[[int], None]) -> Stamp:
    """The stamp of a file that is read where it lies; `IntegrityError` if it is not what was listed."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    wanted = {hasher: digest for hasher, digest in ((sha256, file.sha256), (md5, file.md5)) if digest is not None}
    descriptor = open_regular(source)
    try:
        facts = os.fstat(descriptor)
        if wanted:
            hash_file(descriptor, facts.st_size, tuple(wanted), seen)
    finally:
        os.close(descriptor)
    if file.size not in (None, facts.st_size):
        raise IntegrityError(f"'{file.path}' changed while it was read. Pull again")
    if any(hasher.hexdigest() != digest for hasher, digest in wanted.items()):
        raise IntegrityError(f"'{file.location}' is damaged: it is not what its checklist says. Nothing was kept")
    return Stamp.of(facts)


def _same(source: Path, blob: Path) -> bool:
    try:
        return os.path.samestat(os.stat(source), blob.lstat())  # noqa: PTH116 - beside lstat
    except FileNotFoundError:
        return False


def _compare(file: RemoteFile, length: int, digest: Digest, git: str) -> None:
    if file.size is not None and length != file.size:
        raise IntegrityError(f"'{file.path}' changed while it was read. Pull again")
    if file.sha256 is not None and digest.hex != file.sha256:
        raise IntegrityError(
            f"'{file.location}' is damaged: expected sha256 {file.sha256[:6]}…, received {digest.hex[:6]}…. "
            "Nothing was kept"
        )
    if file.git_sha1 is not None and git != file.git_sha1:
        raise IntegrityError(
            f"'{file.location}' is damaged: expected git id {file.git_sha1[:6]}…, found {git[:6]}…. Nothing was kept"
        )
