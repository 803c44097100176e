"""The HTTP client of the remotes, and the only module that knows which library speaks HTTP.

A request is built anew for every hop of a redirect from a short list of headers. The value of `Authorization` comes
from a function that is asked with the hop's own address, and only while that address has the origin of the server
that the user named. There are no cookies, no netrc, no default headers; proxies of the environment are used, except
for this computer. Nothing is tried twice: an error says whether the same request may succeed later.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

from metalchat_store._address import AddressError, Origin, origin_of, redirected
from metalchat_store._answers import AnswerError, Json, TooLarge, gathered, inflated, parse_json
from metalchat_store._transport import new_transport, proxy_to, why
from metalchat_store._waiting import LONGEST_PAUSE, TooSlow, asked_pause, duration, paced, within
from metalchat_store.errors import AccessDenied, IntegrityError, NetworkError

if TYPE_CHECKING:
    import httpx

    from metalchat_store.remote import Authorizer

MIB = 1 << 20
_SHORT = 1 << 14
_REDIRECTS = (301, 302, 303, 307, 308)
_BUSY = {408: "took too long", 429: "has too many requests"}
_AUTHORIZATION = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,4094}[\x21-\x7e])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds, redirects and bytes a second that one request may take."""

    connect: float = 10.0
    silence: float = 30.0
    deadline: float = 60.0
    redirects: int = 10
    rate: float = 1024.0
    window: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Status and headers of one answer. Names are lower-case; a header sent twice is joined with a comma."""

    url: str
    status: int
    headers: Mapping[str, str]
    origin: Origin

    @property
    def redirects(self) -> bool:
        """Whether the answer sends the client elsewhere."""
        return self.status in _REDIRECTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Head):
    """A whole answer of an API call, decoded."""

    data: bytes

    def json(self, service: str) -> Json:
        """The JSON value; `NetworkError` saying that the host is no `service` (`a Hugging Face hub`) otherwise."""
        try:
            return parse_json(self.data)
        except AnswerError as error:
            raise self.unlike(service, str(error)) from error

    def unlike(self, service: str, reason: str) -> NetworkError:
        """The error of an answer that such a service would not give."""
        path = self.url.partition("?")[0].removeprefix(self.origin.url)
        path = path if len(path) <= 60 else path[:57] + "..."
        return NetworkError(
            f"{self.origin.shown} did not answer like {service} ({reason} at {path}): "
            "check the network or the address of the model"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream(Head):
    """An open answer; `chunks` yields its bytes as they were sent, once, and raises `NetworkError`."""

    chunks: Iterator[bytes]

    def refuse_encoding(self, name: str) -> None:
        """`IntegrityError` if the file `name` comes compressed, which could grow without limit."""
        if self.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise IntegrityError(f"'{name}' was sent compressed, which is not allowed")


@dataclass(slots=True, kw_only=True)
class Sending:
    """Bytes on their way to a server, once: `length` of them in all, of which `taken` were asked for so far.

    Chunks of more than 64 KiB are too large: a server that does not take one within the deadline is given up.
    """

    chunks: Iterable[bytes]
    length: int
    taken: int = 0

    def counted(self) -> Iterator[bytes]:
        """The chunks, counted when they are asked for."""
        for chunk in self.chunks:
            self.taken += len(chunk)
            yield chunk


@dataclass(slots=True)
class Http:
    """A client that may be used from several threads. `transport` replaces the network, for tests.

    `clock` is monotonic, in seconds, and measures how long data is waited for.
    """

    clock: Callable[[], float] = time.monotonic
    limits: Limits = field(default_factory=Limits)
    transport: object | None = None
    _transports: dict[Origin, "httpx.BaseTransport"] = field(default_factory=dict, init=False, repr=False)
    _reached: set[Origin] = field(default_factory=set, init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def fetch(
        self,
        url: str,
        *,
        home: Origin,
        authorize: "Authorizer",
        limit: int = MIB,
        accept: str = "application/json",
        inspect: Callable[[Head], None] | None = None,
    ) -> Answer:
        """The whole answer to a GET of the server's API, at most `limit` bytes decoded, within the deadline.

        Redirects are followed within `home` only. Every status is returned as it is; `inspect` sees every hop.
        Raises `NetworkError`.
        """
        until = self.clock() + self.limits.deadline
        headers = {"Accept": accept, "Accept-Encoding": "gzip"}
        with self.open(url, home=home, authorize=authorize, headers=headers, abroad=False, inspect=inspect) as stream:
            return self._whole(stream, limit, until)

    @contextmanager
    def open(
        self,
        url: str,
        *,
        home: Origin,
        authorize: "Authorizer",
        headers: Mapping[str, str] | None = None,
        abroad: bool = True,
        inspect: Callable[[Head], None] | None = None,
    ) -> Iterator[Stream]:
        """The answer to a GET after at most ten redirects, closed when the context is left.

        With `abroad`, redirects to other servers are followed without authorization, otherwise they are an error;
        a way that leads back to `home` stays without it.
        `inspect` is called with each hop's head before it is followed, and may raise. Raises `NetworkError`.
        """
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"} | dict(headers or {})
        trusted = True  # until the first hop elsewhere: what another server says to ask is asked without a secret
        for _ in range(self.limits.redirects + 1):
            response, origin = self._send(url, home, authorize if trusted else _nobody, headers)
            trusted = trusted and origin == home
            try:
                joined = {name.lower(): value for name, value in response.headers.items()}
                head = Head(url=url, status=response.status_code, headers=joined, origin=origin)
                if inspect is not None:
                    inspect(head)
                if not head.redirects:
                    yield Stream(
                        url=url,
                        status=head.status,
                        headers=joined,
                        origin=origin,
                        chunks=self._chunks(response, origin),
                    )
                    return
                url = _followed(head, home, abroad=abroad)
                self._drain(response)
            finally:
                response.close()
        raise NetworkError(f"{home.shown} sent more than {self.limits.redirects} redirects in a row")

    def close(self) -> None:
        """End all connections. The client may be used again."""
        with self._lock:
            transports = list(self._transports.values())
            self._transports.clear()
        for transport in transports:
            transport.close()

    def submit(
        self,
        method: str,
        url: str,
        *,
        home: Origin,
        authorize: "Authorizer",
        body: "bytes | Sending",
        headers: Mapping[str, str],
        patience: float = 0.0,
        limit: int = MIB,
    ) -> Answer:
        """The whole answer to a request that sends `body`. A redirect is not followed: it is the answer.

        `patience`: seconds that the server may take to answer once it has everything, where that is more than usual.
        What iterating over the body raises is raised. Raises `NetworkError`.
        """
        sending = Sending(chunks=(body,), length=len(body)) if isinstance(body, bytes) else body
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip"} | dict(headers)
        response, origin = self._send(url, home, authorize, headers, method=method, body=sending, patience=patience)
        try:
            joined = {name.lower(): value for name, value in response.headers.items()}
            chunks = self._chunks(response, origin)
            stream = Stream(url=url, status=response.status_code, headers=joined, origin=origin, chunks=chunks)
            return self._whole(stream, limit, self.clock() + self.limits.deadline)
        finally:
            response.close()

    def _send(
        self,
        url: str,
        home: Origin,
        authorize: "Authorizer",
        headers: Mapping[str, str],
        *,
        method: str = "GET",
        body: "Sending | None" = None,
        patience: float = 0.0,
    ) -> tuple["httpx.Response", Origin]:
        import httpx

        try:
            origin = origin_of(url)
        except AddressError as error:
            raise NetworkError(f"an address of {home.shown} is not valid: {error}") from error
        sent = {"User-Agent": "metalchat-store"} | dict(headers)
        value = authorize(url) if origin == home else None
        if value is not None:
            if _AUTHORIZATION.fullmatch(value) is None:
                raise AccessDenied(
                    f"the credential for {origin.shown} holds a line break or another character that is not allowed"
                )
            sent["Authorization"] = value
        limits = self.limits
        timeout = httpx.Timeout(limits.silence, connect=limits.connect, read=max(limits.silence, patience))
        if body is not None:
            sent["Content-Length"] = str(body.length)
        try:
            request = httpx.Request(
                method,
                url,
                headers=sent,
                content=None if body is None else body.counted(),
                extensions={"timeout": timeout.as_dict()},
            )
            port = request.url.port or {"http": 80, "https": 443}.get(request.url.scheme)
            if (request.url.scheme, request.url.host, port) != (origin.scheme, origin.host, origin.port):
                raise NetworkError(f"an address of {home.shown} is ambiguous")
            transport = self._transport_to(origin)
            response = within(
                max(limits.deadline, patience),
                lambda: transport.handle_request(request),
                httpx.Response.close,
                alive=lambda: None if body is None else body.taken,
            )
        except TimeoutError as error:
            raise NetworkError(
                f"{origin.shown} did not answer within {duration(limits.deadline)}", transient=True
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ImportError) as error:
            raise self._translated(error, origin) from error
        self._reached.add(origin)
        return response, origin

    def _transport_to(self, origin: Origin) -> "httpx.BaseTransport":
        with self._lock:  # one for each server: looking for a free connection takes longer than linear in their number
            if origin not in self._transports:
                proxy = None if origin.loopback or self.transport is not None else proxy_to(origin)
                self._transports[origin] = new_transport(origin.scheme, proxy, self.transport)
            return self._transports[origin]

    def _chunks(self, response: "httpx.Response", origin: Origin) -> Iterator[bytes]:
        import httpx

        limits = self.limits
        try:
            yield from paced(response.iter_raw(), clock=self.clock, rate=limits.rate, window=limits.window)
        except TooSlow as error:
            slow = f"{limits.rate / 1024:.0f} KiB/s for {duration(limits.window)}"
            raise NetworkError(f"{origin.shown} sent less than {slow}", transient=True) from error
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            raise self._translated(error, origin) from error

    def _drain(self, response: "httpx.Response") -> None:
        """Read the short text that comes with a redirect, so that the connection can be used again."""
        import httpx

        length = response.headers.get("content-length", "")
        if not (length.isascii() and length.isdecimal() and int(length) <= _SHORT):
            return
        until = self.clock() + self.limits.connect
        try:
            for _ in response.iter_raw():
                if self.clock() > until:
                    return
        except (httpx.HTTPError, OSError):
            return

    def _whole(self, stream: Stream, limit: int, until: float) -> Answer:
        try:
            encoding = stream.headers.get("content-encoding", "")
            data = gathered(inflated(self._until(until, stream), encoding), limit)
        except TooLarge as error:
            raise NetworkError(f"{stream.origin.shown}: the answer is larger than {limit >> 20} MiB") from error
        except AnswerError as error:
            raise NetworkError(f"{stream.origin.shown} sent an answer that cannot be read: {error}") from error
        return Answer(url=stream.url, status=stream.status, headers=stream.headers, origin=stream.origin, data=data)

    def _until(self, deadline: float, stream: Stream) -> Iterator[bytes]:
        for chunk in stream.chunks:
            if self.clock() > deadline:
                limit = duration(self.limits.deadline)
                raise NetworkError(f"{stream.origin.shown} did not finish its answer within {limit}", transient=True)
            yield chunk

    def _translated(self, error: Exception, origin: Origin) -> NetworkError:
        """One line for an error of the library, whose own text may hold headers or addresses of proxies."""
        import httpx

        host = origin.shown
        if isinstance(error, httpx.ProxyError):
            return NetworkError(f"the proxy does not let {host} be reached: check HTTPS_PROXY")
        if isinstance(error, httpx.ConnectTimeout):
            limit = duration(self.limits.connect)
            return NetworkError(f"{host} cannot be reached within {limit}", transient=origin in self._reached)
        if isinstance(error, httpx.TimeoutException):
            return NetworkError(f"{host} sent nothing for {duration(self.limits.silence)}", transient=True)
        if isinstance(error, httpx.ConnectError):
            reason, final = why(error)
            return NetworkError(f"{host} cannot be reached: {reason}", transient=not final and origin in self._reached)
        if isinstance(error, httpx.RemoteProtocolError):
            text = str(error)
            if "closed connection" in text or "disconnected" in text:
                return NetworkError(f"{host} ended the connection early", transient=True)
            return NetworkError(f"{host} does not speak HTTP as it should: check the network or a proxy in between")
        if isinstance(error, httpx.NetworkError | OSError):
            return NetworkError(f"the connection to {host} was lost", transient=True)
        return NetworkError(f"the request to {host} is not possible: {type(error).__name__}")


def busy(head: Head) -> NetworkError | None:
    """The error of an answer that says "not now" (408, 429, 5xx) with the pause that it asks for; None for others.

    A pause above 60 seconds is not waited for: the error then says how long the server wants, and is final.
    """
    if head.status not in _BUSY and head.status < 500:
        return None
    pause = asked_pause(head.headers)
    host = head.origin.shown
    if pause is not None and pause > LONGEST_PAUSE:
        reason = "too many requests" if head.status == 429 else f"status {head.status}"
        return NetworkError(f"{host} asks to wait {duration(pause)} ({reason}): try again later", retry_after=pause)
    if head.status in _BUSY:
        return NetworkError(
            f"{host} {_BUSY[head.status]} ({head.status}): try again later", transient=True, retry_after=pause
        )
    return NetworkError(f"{host} answered {head.status}: try again later", transient=True, retry_after=pause)


def _nobody(_url: str) -> str | None:
    return None


def _followed(head: Head, home: Origin, *, abroad: bool) -> str:
    try:
        target = redirected(head.url, head.headers.get("location", ""))
    except AddressError as error:
        raise NetworkError(f"{head.origin.shown} sent a redirect that is not followed: {error}") from error
    other = origin_of(target)
    if other != home and not abroad:
        raise NetworkError(f"{home.shown} sent a redirect to another server ({other.shown}), which is not followed")
    return target
