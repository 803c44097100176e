"""The bytes of one file of an HTTP server, continued where an earlier answer ended."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from metalchat_store._address import Origin
from metalchat_store._answers import TooLarge, gathered
from metalchat_store._http import Head, Http, Stream
from metalchat_store.errors import IntegrityError, NetworkError, StoreError
from metalchat_store.remote import Authorizer, Body

_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_SIZE = re.compile(r"[0-9]{1,18}")
_ETAG = re.compile(r'"[^"\x00-\x20\x7f]{1,256}"')
MAX_SIZE = 64 << 30


class Ranges:
    """One file at `url`. `authorize` is asked for requests to `home` only; `refuse` makes the error for a status."""

    def __init__(
        self,
        http: Http,
        url: str,
        *,
        home: Origin,
        authorize: Authorizer,
        name: str,
        refuse: Callable[[Head], StoreError],
    ) -> None:
        self._http = http
        self._url = url
        self._home = home
        self._authorize = authorize
        self._name = name
        self._refuse = refuse

    def small(self, limit: int) -> bytes | None:
        """The whole file, of at most `limit` bytes; None if it is larger or not there."""
        with self._ask({}) as stream:
            if stream.status != 200:
                return None
            stream.refuse_encoding(self._name)
            try:
                return gathered(stream.chunks, limit)
            except TooLarge:
                return None

    def tail(self, count: int) -> tuple[int | None, bytes]:
        """The size of the file, and its last `count` bytes where the server gives out parts; None and nothing else.

        What an error means is left to whoever reads the file itself.
        """
        with self._ask({"Range": f"bytes=-{count}"}) as stream:
            if stream.status == 206:
                found = _range(stream)
                if found is None or found[1] != found[2] - 1 or found[1] - found[0] >= count:
                    return None, b""
                try:
                    return found[2], gathered(stream.chunks, count)
                except TooLarge:
                    return None, b""
            return (_length(stream) if stream.status == 200 else None), b""

    @contextmanager
    def read(self, offset: int, *, size: int | None, validator: str | None) -> Iterator[Body]:
        """The bytes from `offset`, or from 0 if the server does not continue there."""
        if offset and offset == size:
            yield Body(offset=offset, chunks=(), validator=validator)
            return
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        if offset and validator is not None:
            headers["If-Range"] = validator
        with self._ask(headers) as stream:
            if not offset or stream.status == 200 or self._continues(stream, offset, size):
                yield self._body(stream, offset if stream.status == 206 else 0, size)
                return
            if stream.status not in (206, 416):
                raise self._refuse(stream)
        with self._ask({}) as stream:
            yield self._body(stream, 0, size)

    def _ask(self, headers: dict[str, str]) -> AbstractContextManager[Stream]:
        return self._http.open(self._url, home=self._home, authorize=self._authorize, headers=headers)

    def _continues(self, stream: Stream, offset: int, size: int | None) -> bool:
        found = _range(stream) if stream.status == 206 else None
        return found is not None and found[0] == offset and found[1] == found[2] - 1 and size in (None, found[2])

    def _body(self, stream: Stream, offset: int, size: int | None) -> Body:
        if stream.status != (206 if offset else 200):
            raise self._refuse(stream)
        stream.refuse_encoding(self._name)
        length = _length(stream)
        if size is not None and length not in (None, size - offset):
            raise IntegrityError(f"{stream.origin.shown} sent another size for {self._name!a} than was listed")
        etag = _ETAG.fullmatch(stream.headers.get("etag", ""))
        left = size - offset if size is not None else MAX_SIZE if length is None else length
        exact = size is not None or length is not None
        return Body(offset=offset, chunks=self._bounded(stream, left, exact), validator=etag[0] if etag else None)

    def _bounded(self, stream: Stream, left: int, exact: bool) -> Iterator[bytes]:
        """The chunks, until one byte more than `left` has come."""
        for chunk in stream.chunks:
            left -= len(chunk)
            if left < 0:
                raise IntegrityError(f"{stream.origin.shown} sent more of {self._name!a} than its size")
            yield chunk
        if exact and left > 0:
            raise NetworkError(f"{stream.origin.shown} ended {self._name!a} {left} bytes early", transient=True)


def _range(stream: Stream) -> tuple[int, int, int] | None:
    found = _RANGE.fullmatch(stream.headers.get("content-range", ""))
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]))


def _length(stream: Stream) -> int | None:
    text = stream.headers.get("content-length", "")
    return int(text) if _SIZE.fullmatch(text) else None
