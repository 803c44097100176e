"""Files on their way out: read as often as needed, and never given out whole unless they are what was announced."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from metalchat_store._files import disk_errors, open_regular
from metalchat_store._push_secrets import SecretSearch
from metalchat_store.errors import IntegrityError
from metalchat_store.pushes import LocalFile

BLOCK = 3 << 14  # 48 KiB: 64 KiB in base64
_READ = 1 << 20
_SAMPLE = 512
_REGULAR_LIMIT = 100_000_000


@dataclass(frozen=True, slots=True)
class Identity:
    """Which file it is, and in which state."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, facts: os.stat_result) -> "Identity":
        return cls(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)


def announce(name: str, path: Path, expected: Identity, *, own: bytes, seen: Callable[[int], None]) -> LocalFile:
    """Read a file once, for its digests and for access tokens (`Refused`).

    `expected` is what it looked like when it was found; `own` the token of the push itself.
    """
    small = expected.size <= _REGULAR_LIMIT
    search = SecretSearch(name, own, huge=not small)
    sha256, offset, sample = hashlib.sha256(), 0, b""
    git = hashlib.sha1(b"blob %d\0" % expected.size, usedforsecurity=False) if small else None
    with disk_errors(path, reading=True):
        descriptor = open_regular(path)
        try:
            _same(descriptor, expected, name)
            while block := os.pread(descriptor, _READ, offset):
                sample = sample or block[:_SAMPLE]
                sha256.update(block)
                if git is not None:
                    git.update(block)
                search.feed(block)
                offset += len(block)
                seen(offset)
            _same(descriptor, expected, name)
        finally:
            os.close(descriptor)
    if offset != expected.size:
        raise changed(name)
    digest = sha256.hexdigest()
    return LocalFile(
        path=name,
        size=expected.size,
        sha256=digest,
        git_sha1=None if git is None else git.hexdigest(),
        sample=sample,
        read=Source(name, path, expected, digest).read,
    )


class Source:
    """A file that was announced. Reading it from start to end, in any number of pieces, hashes it once more."""

    def __init__(self, name: str, path: Path, identity: Identity, sha256: str) -> None:
        self._name = name
        self._path = path
        self._identity = identity
        self._sha256 = sha256
        self._states = {0: hashlib.sha256()}

    def read(self, start: int, length: int) -> Iterator[bytes]:
        """The bytes from `start` on; the last block of the file only once all of it is known to be the same."""
        with disk_errors(self._path, reading=True):
            descriptor = open_regular(self._path)
        try:
            _same(descriptor, self._identity, self._name)
            known = max(position for position in self._states if position <= start)
            state, end = self._states[known].copy(), start + length
            for block in self._blocks(descriptor, known, start):
                state.update(block)
            done = start
            for block in self._blocks(descriptor, start, end):
                state.update(block)
                done += len(block)
                if done == end:
                    _same(descriptor, self._identity, self._name)
                    if end == self._identity.size and state.hexdigest() != self._sha256:
                        raise changed(self._name)
                    self._states[end] = state
                yield block
        finally:
            os.close(descriptor)

    def _blocks(self, descriptor: int, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            with disk_errors(self._path, reading=True):
                block = os.pread(descriptor, min(BLOCK, end - start), start)
            if not block:
                raise changed(self._name)
            yield block
            start += len(block)


def changed(name: str) -> IntegrityError:
    """The error for a file that is no longer what was announced."""
    return IntegrityError(f"{name!a} changed while it was pushed. Push again")


def _same(descriptor: int, expected: Identity, name: str) -> None:
    if Identity.of(os.fstat(descriptor)) != expected:
        raise changed(name)
