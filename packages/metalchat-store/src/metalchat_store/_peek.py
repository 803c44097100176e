"""A few bytes of a listed file, without keeping any of it."""

import hashlib
import threading

from metalchat_store._backoff import Backoff
from metalchat_store._download import remote_errors
from metalchat_store._fetching import Fetching
from metalchat_store.errors import IntegrityError, NetworkError
from metalchat_store.remote import Listing, ReadsParts, RemoteFile


class Peek:
    """Reads parts of the files of one listing. `fetched` counts the bytes that came; safe for several threads.

    Raises `IntegrityError` when more than `budget` bytes would come.
    """

    def __init__(self, fetching: Fetching, listing: Listing, *, budget: int) -> None:
        self.fetched = 0
        self._fetching = fetching
        self._listing = listing
        self._left = budget
        self._guard = threading.Lock()

    def part(self, file: RemoteFile, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`, fewer where the file ends."""
        end = end if file.size is None else min(end, file.size)
        if end <= start:
            return b""
        waiting = self._fetching.waiting
        backoff = Backoff(sleep=waiting.pause, message=self._fetching.context.notice)
        while True:
            try:
                with remote_errors(self._listing.repository):
                    return self._once(file, start, end)
            except NetworkError as error:
                backoff.failed(f"'{file.path}'", error)

    def whole(self, file: RemoteFile, limit: int) -> bytes:
        """All of a small file, compared with its identity. Raises `IntegrityError`."""
        data = self.part(file, 0, limit + 1)
        if len(data) > limit:
            raise IntegrityError(f"'{file.path}' is larger than the {limit >> 20} MiB that are looked at")
        if file.sha256 not in (None, hashlib.sha256(data).hexdigest()):
            raise IntegrityError(f"'{file.path}' is damaged: it has another sha256 than was listed")
        if file.sha256 is None and file.git_sha1 is not None:
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
            if blob.hexdigest() != file.git_sha1:
                raise IntegrityError(f"'{file.path}' is damaged: it has another git sha1 than was listed")
        return data

    def _once(self, file: RemoteFile, start: int, end: int) -> bytes:
        remote, listing, context = self._fetching.remote, self._listing, self._fetching.context
        if isinstance(remote, ReadsParts) and file.size is not None and (start, end) != (0, file.size):
            opened = remote.read_part(listing, file, start=start, end=end, context=context)
        else:
            opened = remote.read(listing, file, offset=start, context=context)
        with opened as body:
            at, data = body.offset, bytearray()
            if at not in (0, start):
                raise IntegrityError(f"the server sent another part of '{file.path}' than was asked for")
            for chunk in body:
                self._count(len(chunk))
                data += chunk[max(0, start - at) : max(0, end - at)]
                at += len(chunk)
                if at >= end:
                    break
        return bytes(data)

    def _count(self, count: int) -> None:
        with self._guard:
            self.fetched += count
            self._left -= count
            if self._left < 0:
                raise IntegrityError(f"'{self._listing.repository}' has headers that are too large to look at")
