"""Repositories of a Hugging Face hub over plain HTTP: one commit, each file by the identity that its list gives."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

from metalchat_store._address import AddressError, origin_of, redirected
from metalchat_store._http import Head, Http, Stream, busy
from metalchat_store.digest import Digest, check_sha1
from metalchat_store.errors import IntegrityError, InvalidRepository, NetworkError
from metalchat_store.pushes import Committed, Destination, LocalFile, Offer
from metalchat_store.remote import Body, Listing, RemoteContext, RemoteFile
from metalchat_store.remotes._hub_address import HubRepository, check_revision, parse_repository
from metalchat_store.remotes._hub_errors import check_rename, refusal
from metalchat_store.remotes._hub_listing import HubApi, other_commit
from metalchat_store.remotes._hub_push import HubPush

_EXPIRED = (401, 403, 410)
_ETAG = re.compile(r'"([^"\x00-\x20\x7f]{1,256})"')
_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_SIZE = re.compile(r"[0-9]{1,19}")


class HuggingFaceRemote:
    """Serves `https://host/org/name`, at `@revision` or `/tree/revision`; `http` on this computer only.

    Datasets have `datasets/` before their name, spaces `spaces/`.
    """

    def __init__(self) -> None:
        self._own: Http | None = None
        self._pushes: dict[Destination, HubPush] = {}
        self._lock = Lock()

    def check_address(self, repository: str, *, kind: str) -> None:
        """`InvalidRepository` unless the address is that of a repository of the kind."""
        parse_repository(repository, kind)

    def list(self, repository: str, *, revision: str | None, context: RemoteContext) -> Listing:
        """The files at the commit that `revision` (else the address, else `main`) names when this is called."""
        model = parse_repository(repository, context.kind)
        if revision is not None and model.revision not in (None, revision):
            raise InvalidRepository(
                f"the address names the revision '{model.revision}', the option '{revision[:60]}': give one of them"
            )
        api = HubApi(self._http(context), model, context.authorize)
        commit, license_name, gated = api.commit(check_revision(revision or model.revision or "main"))
        files = api.files(commit)
        return Listing(repository=repository, commit=commit, files=files, license=license_name, gated=gated)

    @contextmanager
    def read(
        self, listing: Listing, file: RemoteFile, *, offset: int, context: RemoteContext, validator: str | None = None
    ) -> Iterator[Body]:
        """The bytes of `file` from `offset`, or from 0 if the server does not continue there."""
        transfer = self._transfer(listing, file, context)
        if offset == file.size and offset > 0:
            yield Body(offset=offset, chunks=(), validator=validator)
            return
        with transfer.open(offset, None, validator) as body:
            yield body

    @contextmanager
    def read_part(
        self,
        listing: Listing,
        file: RemoteFile,
        *,
        start: int,
        end: int,
        context: RemoteContext,
        validator: str | None = None,
    ) -> Iterator[Body]:
        """The bytes of `file` from `start` to before `end`, or all if the server gives no parts."""
        with self._transfer(listing, file, context).open(start, end, validator) as body:
            yield body

    def offer(self, destination: Destination, files: Sequence[LocalFile], *, context: RemoteContext) -> Offer:
        """What the hub has of `files`, and how it wants the rest."""
        return self._push(destination, context).offer(files)

    def create(self, destination: Destination, *, context: RemoteContext) -> bool:
        """Create the repository; False if it was there."""
        return self._push(destination, context).create()

    def send(
        self, destination: Destination, file: LocalFile, *, context: RemoteContext, seen: Callable[[int], None]
    ) -> int:
        """Send the content of a large file; a call after a failure goes on with the parts that are missing."""
        return self._push(destination, context).send(file, seen)

    def commit(
        self,
        destination: Destination,
        offer: Offer,
        files: Sequence[LocalFile],
        *,
        message: str,
        context: RemoteContext,
    ) -> Committed:
        """Make one commit on top of `offer.commit`, or open a pull request with it."""
        return self._push(destination, context).commit(offer, files, message)

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            own, self._own = self._own, None
        if own is not None:
            own.close()

    def _transfer(self, listing: Listing, file: RemoteFile, context: RemoteContext) -> "_Transfer":
        if file.size is None or (file.sha256 is None and file.git_sha1 is None):
            raise IntegrityError(f"the list of '{listing.repository}' gives no size or identity for {file.path!a}")
        model = parse_repository(listing.repository, context.kind)
        return _Transfer(self._http(context), model, listing.commit, file, context)

    def _push(self, destination: Destination, context: RemoteContext) -> HubPush:
        http = self._http(context)
        with self._lock:
            if destination not in self._pushes:
                self._pushes[destination] = HubPush(http, destination, context)
            return self._pushes[destination]

    def _http(self, context: RemoteContext) -> Http:
        if context.client is not None:
            if not isinstance(context.client, Http):
                raise TypeError("RemoteContext.client is not an Http")
            return context.client
        with self._lock:
            if self._own is None:
                self._own = Http(clock=context.clock)
            return self._own


class _Transfer:
    """One file on its way: the hub says where the bytes are, and what they are is compared with the listing."""

    def __init__(self, http: Http, model: HubRepository, commit: str, file: RemoteFile, context: RemoteContext) -> None:
        self._http = http
        self._model = model
        self._commit = commit
        self._file = file
        self._context = context
        self._size = file.size or 0

    @contextmanager
    def open(self, offset: int, end: int | None, validator: str | None) -> Iterator[Body]:
        """Ask at most three times: an expired address is resolved anew once, an unusable range starts over once."""
        fresh, whole = True, offset == 0 and end is None
        end = self._size if end is None else end
        while True:
            with self._ask(0, None, None) if whole else self._ask(offset, end, validator) as stream:
                if fresh and stream.status in _EXPIRED and stream.origin != self._model.origin:
                    fresh = False
                    continue
                if not whole and (stream.status == 416 or not self._continues(stream, offset, end)):
                    whole = True
                    continue
                if whole or stream.status == 200:
                    yield self._body(stream, 0, self._size, part=False)
                else:
                    yield self._body(stream, offset, end, part=True)
                return

    @contextmanager
    def _ask(self, offset: int, end: int | None, validator: str | None) -> Iterator[Stream]:
        headers = {}
        if end is not None:
            headers["Range"] = f"bytes={offset}-" if end == self._size else f"bytes={offset}-{end - 1}"
            if validator is not None:
                headers["If-Range"] = validator
        sent: list[bool] = []

        def authorize(url: str) -> str | None:
            value = self._context.authorize(url)
            sent.append(value is not None)
            return value

        with self._http.open(
            self._model.resolve(self._commit, self._file.path),
            home=self._model.origin,
            authorize=authorize,
            headers=headers,
            inspect=self._inspect,
        ) as stream:
            if stream.origin == self._model.origin and stream.status not in (200, 206, 416):
                raise refusal(stream, self._model, what=f"{self._file.path!a}", authorized=any(sent))
            yield stream

    def _inspect(self, head: Head) -> None:
        """What the hub itself says about the file must be what it listed; other servers are judged by the bytes.

        Commit and identity are needed where the hub gives the bytes or names another server; in between, on the way
        to its own cache, they are compared if they are there.
        """
        if head.origin != self._model.origin or not (head.status in (200, 206) or head.redirects):
            return
        check_rename(head, self._model)
        underway = head.redirects and self._stays(head)
        said, size = head.headers.get("x-repo-commit"), head.headers.get("x-linked-size")
        if (said is not None or not underway) and check_sha1(said or "") != self._commit:
            raise other_commit(said or "", self._commit)
        etag = head.headers.get("x-linked-etag", head.headers.get("etag"))
        if etag is not None or not underway:
            self._compare_identity(etag or "")
        if size is not None and (_SIZE.fullmatch(size) is None or int(size) != self._size):
            raise IntegrityError(f"the hub sent another size for {self._file.path!a} than it listed")

    def _stays(self, head: Head) -> bool:
        try:
            return origin_of(redirected(head.url, head.headers.get("location", ""))) == self._model.origin
        except AddressError:
            return False

    def _compare_identity(self, etag: str) -> None:
        text = etag.removeprefix("W/").removeprefix('"').removesuffix('"')
        known = check_sha1(text) if len(text) == 40 else Digest(text).hex
        if known not in (self._file.sha256, self._file.git_sha1):
            raise IntegrityError(f"the hub has other content for {self._file.path!a} than it listed")

    def _continues(self, stream: Stream, offset: int, end: int) -> bool:
        """Whether a 206 brings exactly what was asked for. Any other status is judged by whoever reads the body."""
        if stream.status != 206:
            return True
        found = _RANGE.fullmatch(stream.headers.get("content-range", ""))
        part = (offset, end - 1, self._size)
        return found is not None and tuple(map(int, found.groups())) == part and _fits(stream, end - offset)

    def _body(self, stream: Stream, offset: int, end: int, *, part: bool) -> Body:
        name = self._file.path
        if stream.status not in (200, 206):
            raise self._unavailable(stream)
        stream.refuse_encoding(name)
        if stream.status == 206 and not part:
            raise IntegrityError(f"the server sent a part of {name!a} that was not asked for")
        if not _fits(stream, end - offset):
            raise IntegrityError(f"the server sent another size for {name!a} than the hub listed")
        etag = _ETAG.fullmatch(stream.headers.get("etag", ""))
        chunks = self._bounded(stream, end - offset)
        return Body(offset=offset, chunks=chunks, validator=etag[0] if etag else None)

    def _unavailable(self, stream: Stream) -> NetworkError:
        return busy(stream) or NetworkError(
            f"{stream.origin.shown} does not give out {self._file.path!a} ({stream.status}), where the hub points to",
            transient=stream.status in _EXPIRED,
        )

    def _bounded(self, stream: Stream, left: int) -> Iterator[bytes]:
        """The chunks, until one byte more than what is left of the file, or of the part, has come."""
        for chunk in stream.chunks:
            left -= len(chunk)
            if left < 0:
                raise IntegrityError(f"the server sent more of {self._file.path!a} than its {self._size} bytes")
            yield chunk
        if left > 0:
            raise NetworkError(f"{stream.origin.shown} ended {self._file.path!a} {left} bytes early", transient=True)


def _fits(stream: Stream, length: int) -> bool:
    """Whether the announced length, if there is one, is the right one."""
    said = stream.headers.get("content-length")
    return said is None or (_SIZE.fullmatch(said) is not None and int(said) == length)
