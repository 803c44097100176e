"""Members of verified archives become blobs."""

import hashlib
import os
from collections.abc import Callable

from metalchat_store._download import remote_errors
from metalchat_store._files import BLOCK, create, remove, write_at
from metalchat_store._known import Known
from metalchat_store._layout import Layout
from metalchat_store.blobs import Blobs
from metalchat_store.digest import Digest
from metalchat_store.errors import IntegrityError
from metalchat_store.remote import Member
from metalchat_store.selection import limit_of
from metalchat_store.transfer import Stored


def unpack(layout: Layout, member: Member, known: Known, seen: Callable[[int], None]) -> Stored:
    """Write a member to the store; `IntegrityError` if it is longer or shorter than the archive says."""
    limit = limit_of(member.path) if member.size is None else member.size
    blobs = Blobs.of(layout)
    temporary = layout.temporary("member", "tmp")
    descriptor = create(temporary)
    try:
        hasher, offset = hashlib.sha256(), 0
        with remote_errors(f"'{member.path}'"):
            file = member.open()
        with file:
            while True:
                with remote_errors(f"'{member.path}'"):
                    block = file.read(BLOCK)
                if not block:
                    break
                if limit is not None and offset + len(block) > limit:
                    raise IntegrityError(f"'{member.path}' is longer than the {limit:,} bytes that are allowed for it")
                write_at(descriptor, block, offset)
                hasher.update(block)
                offset += len(block)
                seen(offset)
        if member.size is not None and offset != member.size:
            raise IntegrityError(f"'{member.path}' ends after {offset:,} of {member.size:,} bytes")
        digest = Digest(hasher.hexdigest())
        stamp = blobs.trusted(digest, offset, known.stamps(digest))
        if stamp is None:
            stamp = blobs.publish(temporary, descriptor, digest)
    finally:
        os.close(descriptor)
        remove(temporary)
    return Stored(digest=digest, stamp=stamp)
