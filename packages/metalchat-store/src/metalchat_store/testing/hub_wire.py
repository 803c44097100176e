"""What goes over the wire of a fake server: recorded requests, replies, and the faults that spoil them."""

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs


@dataclass(kw_only=True)
class Recorded:
    """One request as it arrived. `role` is the server that got it; `target` the raw path and query.

    `status` and `sent` (bytes of the body) are filled in when the answer has gone out.
    """

    role: str
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    at: float
    status: int = 0
    sent: int = 0

    @property
    def path(self) -> str:
        """The raw path, with its percent escapes."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """The last value of each query parameter."""
        pairs = parse_qs(self.target.partition("?")[2], keep_blank_values=True)
        return {name: values[-1] for name, values in pairs.items()}

    def header(self, name: str) -> str | None:
        """The first value of a header, None if it was not sent."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def dump(self) -> bytes:
        """Everything that the client sent, for a search for secrets."""
        lines = [f"{self.method} {self.target}", *(f"{name}: {value}" for name, value in self.headers), ""]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n" + self.body


@dataclass(kw_only=True)
class Reply:
    """An answer before any fault. Names of headers are written as given; `Content-Length` is added when sent."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What shall go wrong, and with which requests. An action that is left at its default does nothing.

    `role` (`hub`, `cdn`, `evil`), `method` and `path` (a regular expression searched in the raw target) select; the
    first `skip` matches pass, the next `times` are spoiled (-1: all that follow).
    """

    role: str = ""
    method: str = ""
    path: str = ""
    skip: int = 0
    times: int = 1
    status: int | None = None
    """Another status and no body but `body`; the headers stay."""
    only_status: int | None = None
    """Another status; body and headers stay."""
    body: bytes | None = None
    set: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    """Headers to set; a tuple repeats the header."""
    drop: tuple[str, ...] = ()
    redirect: str | None = None
    """A raw `Location`, with status 302 unless `status` says another."""
    cut: int | None = None
    """The connection ends after so many bytes of the body; `rst`: by a reset."""
    rst: bool = False
    extra: bytes = b""
    """Appended to the body; `lie`: the announced length stays that of the true body."""
    lie: bool = False
    flip: int | None = None
    """The byte at this position is changed."""
    swap: bytes | None = None
    """The body starts with these bytes instead of its own."""
    drip: tuple[int, float] | None = None
    """So many bytes at a time, so many seconds apart."""
    sleep: float = 0.0
    stall_at: int | None = None
    """Silence after so many bytes of the body, until the hub is closed."""
    close: bool = False
    garbage: bytes = b""
    """Sent instead of an HTTP answer."""
    badchunk: bool = False
    norange: bool = False
    """A request with `Range` is answered as if it had none."""
    range_lie: bool = False
    """`Content-Range` names another start than the bytes have."""
    gzip: bool = False
    bomb: int = 0
    """The body is this many zero bytes, compressed."""
    expire: bool = False
    """All signed addresses that were given out until now are refused, this one included."""
    commit: tuple[str, Mapping[str, bytes]] | None = None
    """A repository and files: a new commit on `main` just before this request is answered."""

    def matches(self, request: Recorded) -> bool:
        """Whether the request is one of those that the fault is about."""
        return (
            self.role in ("", request.role)
            and self.method in ("", request.method)
            and re.search(self.path, request.target) is not None
        )

    def spoil(self, reply: Reply) -> Reply:
        """The reply with the fault's changes of status, headers and body."""
        body = reply.body if self.status is None else b""
        body = body if self.body is None else self.body
        if self.swap is not None:
            body = self.swap + body[len(self.swap) :]
        if self.flip is not None and body:
            spot = self.flip % len(body)
            body = body[:spot] + bytes([body[spot] ^ 0x20]) + body[spot + 1 :]
        status = self.status or self.only_status or (302 if self.redirect is not None else reply.status)
        changed = dict(self.set)
        if self.redirect is not None:
            changed["Location"] = self.redirect
        if self.gzip or self.bomb:
            body = gzip.compress(bytes(self.bomb) if self.bomb else body, mtime=0)
            changed["Content-Encoding"] = "gzip"
        gone = {name.lower() for name in (*changed, *self.drop)}
        headers = [(name, value) for name, value in reply.headers if name.lower() not in gone]
        if self.range_lie:
            headers = [(name, _shifted(value) if name == "Content-Range" else value) for name, value in headers]
        for name, values in changed.items():
            headers += [(name, value) for value in ((values,) if isinstance(values, str) else values)]
        return Reply(status=status, headers=headers, body=body + self.extra)


@dataclass
class _Rule:
    fault: Fault
    seen: int = 0


class Faults:
    """The rules of a fake server, in the order in which they were added; the first that applies is used."""

    def __init__(self) -> None:
        self._rules: list[_Rule] = []

    def add(self, fault: Fault) -> None:
        """Add a rule."""
        self._rules.append(_Rule(fault))

    def clear(self) -> None:
        """Forget all rules."""
        self._rules.clear()

    def take(self, request: Recorded) -> Fault | None:
        """The fault for a request, counted as used."""
        for rule in self._rules:
            fault = rule.fault
            if not fault.matches(request):
                continue
            rule.seen += 1
            if rule.seen > fault.skip and (fault.times < 0 or rule.seen <= fault.skip + fault.times):
                return fault
        return None


def _shifted(content_range: str) -> str:
    return re.sub(r"\d+", lambda found: str(int(found[0]) + 1), content_range, count=1)
