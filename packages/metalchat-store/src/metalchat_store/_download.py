"""The bytes of one file: where they stand, what they hash to, when to ask again."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from metalchat_store import _parts
from metalchat_store._backoff import Backoff
from metalchat_store._files import hash_file, write_at
from metalchat_store._partials import Partial
from metalchat_store._spans import Spans
from metalchat_store.digest import Digest
from metalchat_store.errors import IncompatibleRemote, IntegrityError, NetworkError, StoreError
from metalchat_store.remote import Body, Listing, ReadsParts, Remote, RemoteContext, RemoteFile

_NO_JOURNAL = 1 << 16  # bytes of a file that comes in one breath: its digest says enough about what is left of it


class Damaged(Exception):
    """The whole content arrived and is not what was promised; never leaves the package."""


@contextmanager
def remote_errors(repository: str) -> Iterator[None]:
    """What a remote raises by accident becomes an error of the store."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        transient = isinstance(error, ConnectionError | TimeoutError)
        reason = (error.strerror or str(error) or type(error).__name__).splitlines()[0]
        raise NetworkError(f"cannot reach {repository}: {reason}", transient=transient) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise IncompatibleRemote(f"the remote of {repository} failed: {reason}") from error


class Download:
    """One try to complete a file, from what `partial` holds already."""

    def __init__(
        self,
        file: RemoteFile,
        *,
        remote: Remote,
        listing: Listing,
        context: RemoteContext,
        begin: Callable[[], Partial],
        partial: Partial | None,
        limit: int | None,
        seen: Callable[[str, int, int | None], None],
    ) -> None:
        self.fetched = 0
        self._file = file
        self._remote = remote
        self._listing = listing
        self._context = context
        self._begin = begin
        self._limit = limit if file.size is None else file.size
        self._seen = seen
        self._offset = 0
        identified = file.sha256 is not None or (file.git_sha1 is not None and file.size is not None)
        self._identified = identified or file.md5 is not None
        self._several = isinstance(remote, ReadsParts) and self._identified and file.size is not None
        self.partial = partial if partial is not None else begin()
        self._reset()

    def run(self, backoff: Backoff) -> None:
        """Fetch what is missing. `NetworkError` when the back-off gives up; `IntegrityError` for a byte too many."""
        self._rehash()
        complete = self._offset == self._file.size
        while not complete:
            try:
                self._fetch_parts()
                if self._offset != self._file.size:
                    self._stream(backoff)
                self._follow()
                complete = self._file.size is None or self._offset == self._file.size
                if not complete and not self._islands():
                    raise NetworkError("the connection was closed early", transient=True)
            except NetworkError as error:
                backoff.failed(f"'{self._file.path}'", error)
                if not self._identified and self.partial.validator is None:
                    self._restart()

    def check(self) -> Digest:
        """The sha256 of the content; `Damaged` unless it is what the listing promised."""
        digest = Digest(self._sha256.hexdigest())
        if self._file.sha256 is not None and digest.hex != self._file.sha256:
            raise Damaged(_difference("sha256", self._file.sha256, digest.hex))
        if self._git is not None and self._git.hexdigest() != self._file.git_sha1:
            raise Damaged(_difference("git sha1", str(self._file.git_sha1), self._git.hexdigest()))
        if self._md5 is not None and self._md5.hexdigest() != self._file.md5:
            raise Damaged(_difference("md5", str(self._file.md5), self._md5.hexdigest()))
        return digest

    def _reset(self) -> None:
        self._offset = 0
        self._spans = Spans()
        self._sha256 = hashlib.sha256()
        self._git: hashlib._Hash | None = None
        if self._file.git_sha1 is not None and self._file.size is not None and self._file.sha256 is None:
            self._git = hashlib.sha1(f"blob {self._file.size}\0".encode(), usedforsecurity=False)
        self._md5 = None if self._file.md5 is None else hashlib.md5(usedforsecurity=False)
        self._hashers = tuple(hasher for hasher in (self._sha256, self._git, self._md5) if hasher is not None)

    def _rehash(self) -> None:
        """Take over what an earlier process fetched."""
        spans = Spans(self.partial.spans)
        if spans.total == 0:
            return
        longest = max(end for _, end in spans.spans)
        if (self._limit is not None and longest > self._limit) or (not self._identified and not self.partial.validator):
            self._restart()
            return
        self._spans = spans
        self._follow()
        if self._islands() and not isinstance(self._remote, ReadsParts):
            self._restart()

    def _follow(self) -> None:
        """Hash what is there after the hashed bytes without a gap."""
        self._hash_to(self._spans.reach(self._offset))

    def _hash_to(self, end: int) -> None:
        self._offset = hash_file(self.partial.descriptor, end, self._hashers, self._show, start=self._offset)

    def _islands(self) -> bool:
        """Whether there is more than the hashed bytes."""
        return self._spans.total > self._offset

    def _fetch_parts(self) -> None:
        """Fetch a large rest over several connections, in so far as that is possible."""
        size = self._file.size or 0
        if not self._several or size - self._spans.total < 2 * _parts.PIECE:
            return
        parts = _parts.Parts(self.partial, self._spans, size, opened=self._body, note=self._note_ranges)
        try:
            parts.run(lambda: self._hash_to(parts.reach(self._offset)))
        finally:
            self.fetched += parts.fetched
        self._several = parts.fetched > 0

    def _restart(self) -> None:
        self.partial.discard()
        self.partial = self._begin()
        self._reset()

    def _stream(self, backoff: Backoff) -> None:
        """Fetch what follows the hashed bytes, over one connection, up to what is there already."""
        asked, end = self._offset, self._file.size
        if self._islands():
            end = min(start for start, _ in self._spans.spans if start > asked)
        with self._body(asked, end) as body:
            with remote_errors(self._listing.repository):
                chunks = iter(body)
            if body.offset == 0 and asked > 0:
                self._restart()
                end = self._file.size
            elif body.offset != asked:
                raise Damaged(f"the server sent the bytes from {body.offset} on, asked for those from {asked} on")
            if self._offset == 0 or body.validator != self.partial.validator:
                (self._note_ranges if self.partial.ranged else self._note)(body.validator)
            try:
                while True:
                    with remote_errors(self._listing.repository):
                        chunk = next(chunks, None)
                    if chunk is None:
                        return
                    backoff.progressed(len(chunk))
                    if end != self._file.size and end is not None and self._offset + len(chunk) >= end:
                        self._accept(chunk[: end - self._offset])
                        return
                    self._accept(chunk)
            finally:
                if self.partial.ranged:
                    self.partial.mark(self._spans)

    @contextmanager
    def _body(self, start: int, end: int | None) -> Iterator[Body]:
        """What the remote answers; errors of its leaving never hide those of writing."""
        validator = self.partial.validator if start else None
        with remote_errors(self._listing.repository):
            if isinstance(self._remote, ReadsParts) and end is not None and end != self._file.size:
                manager = self._remote.read_part(
                    self._listing, self._file, start=start, end=end, context=self._context, validator=validator
                )
            else:
                manager = self._remote.read(
                    self._listing, self._file, offset=start, context=self._context, validator=validator
                )
            body = manager.__enter__()
        try:
            yield body
        except BaseException as error:
            with suppress(Exception):
                manager.__exit__(type(error), error, error.__traceback__)
            raise
        with remote_errors(self._listing.repository):
            manager.__exit__(None, None, None)

    def _accept(self, chunk: bytes) -> None:
        end = self._offset + len(chunk)
        if self._limit is not None and end > self._limit:
            raise IntegrityError(
                f"'{self._file.path}' is longer than the {self._limit:,} bytes that are allowed for it. "
                "Nothing was kept"
            )
        write_at(self.partial.descriptor, chunk, self._offset)
        for hasher in self._hashers:
            hasher.update(chunk)
        self._spans.add(self._offset, end)
        if self.partial.ranged:
            self.partial.grown(self._spans, len(chunk))
        self._offset = end
        self.fetched += len(chunk)
        self._show(end)

    def _note(self, validator: str | None) -> None:
        if self._identified and self._file.size is not None and self._file.size <= _NO_JOURNAL:
            self.partial.validator = validator
        else:
            self.partial.note(self._facts(), validator)

    def _note_ranges(self, validator: str | None) -> None:
        self.partial.note(self._facts(), validator, self._spans.spans)

    def _facts(self) -> dict[str, object]:
        return {
            "repository": self._listing.repository,
            "commit": self._listing.commit,
            "path": self._file.path,
            "size": self._file.size,
        }

    def _show(self, done: int) -> None:
        self._seen(self._file.path, done, self._file.size)


def _difference(kind: str, expected: str, received: str) -> str:
    return f"expected {kind} {expected[:6]}…, received {received[:6]}…"
