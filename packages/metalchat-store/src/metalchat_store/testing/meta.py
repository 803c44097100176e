"""Meta's download server on this computer: folders of releases behind a signed link that expires."""

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from metalchat_store.testing.hub_read import ranged
from metalchat_store.testing.hub_server import FakeServer
from metalchat_store.testing.hub_wire import Fault, Faults, Recorded, Reply

_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class FakeMeta:
    """A context manager around two servers with different names.

    `link` is what Meta would mail, with a `*`; its query holds `signature`, which nothing but this server may see.
    It expires after an hour of `clock`, or with `expire`. `evil_url` is another server; it gives out the same files.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.requests: list[Recorded] = []
        self.faults = Faults()
        self.files: dict[str, bytes] = {}
        self._clock = clock
        self._generation = 0
        self._server = FakeServer("meta", self._answer, host="localhost", requests=self.requests, take=self._take)
        self._evil = FakeServer("evil", self._give, requests=self.requests, take=self._take)
        self.url, self.evil_url = self._server.url, self._evil.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all connections and threads."""
        for server in (self._server, self._evil):
            server.close()

    @property
    def link(self) -> str:
        """A fresh link to everything."""
        expires = int(self._clock()) + 3600
        return f"{self.url}/*?Expires={expires}&Signature={self._sign(expires)}&Key-Pair-Id=FAKE"

    @property
    def signature(self) -> str:
        """The secret part of a link made now."""
        return self.link.partition("Signature=")[2].partition("&")[0]

    @property
    def environ(self) -> dict[str, str]:
        """The variable that a store takes the link from."""
        return {"METALCHAT_META_URL": self.link}

    def add(
        self, folder: str, files: Mapping[str, bytes], *, digest: str = "md5", checklist: bytes | None = None
    ) -> None:
        """A release's folder with its checklist, in MD5 or SHA-256, unless `checklist` says something else."""
        lines = [
            f"{hashlib.new(digest, content, usedforsecurity=False).hexdigest()}  {name}\n"
            for name, content in files.items()
        ]
        self.files |= {f"/{folder}/{name}": content for name, content in files.items()}
        self.files[f"/{folder}/checklist.chk"] = "".join(lines).encode() if checklist is None else checklist

    def expire(self) -> None:
        """Refuse all links that were given out until now."""
        self._generation += 1

    def fault(self, **rule: Any) -> None:
        """Add a rule; the arguments are the fields of `Fault`, with the roles `meta` and `evil`."""
        self.faults.add(Fault(**rule))

    def of(self, *roles: str) -> list[Recorded]:
        """The requests that the servers with these roles got."""
        return [request for request in self.requests if request.role in roles]

    def _take(self, request: Recorded) -> Fault | None:
        fault = self.faults.take(request)
        if fault is not None and fault.expire:
            self.expire()
        return fault

    def _answer(self, request: Recorded) -> Reply:
        expires = request.query.get("Expires", "")
        valid = expires.isdecimal() and int(expires) >= self._clock()
        if not valid or not hmac.compare_digest(request.query.get("Signature", ""), self._sign(int(expires))):
            return Reply(status=403, headers=[("Content-Type", "application/xml")], body=_DENIED)
        return self._give(request)

    def _give(self, request: Recorded) -> Reply:
        content = self.files.get(request.path)
        if content is None:
            return Reply(status=404)
        return ranged(request, content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    def _sign(self, expires: int) -> str:
        return hmac.new(b"meta", f"{expires} {self._generation}".encode(), hashlib.sha256).hexdigest()
