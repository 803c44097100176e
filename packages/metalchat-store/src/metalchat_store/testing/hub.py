"""A Hugging Face hub on this computer: real HTTP servers with repositories, tokens, a record and faults."""

import time
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any, Self

from metalchat_store.testing.hub_read import Problem, ranged
from metalchat_store.testing.hub_server import WEATHER, FakeServer, Weather
from metalchat_store.testing.hub_state import HubState, Token
from metalchat_store.testing.hub_wire import Fault, Faults, Recorded, Reply
from metalchat_store.testing.hub_write import WriteRoutes

_EXPIRED = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
_LIMITS = [
    ("RateLimit", '"api";r=499;t=55'),
    ("RateLimit-Policy", '"fixed window";"api";q=500;w=300'),
    ("X-Request-Id", "Root=1-00000000-000000000000000000000000"),
]


class FakeHub:
    """A context manager around three servers with different names.

    `url` is the hub (`localhost`), `cdn_url` gives out large files under signed addresses, `evil_url` is another
    server that nothing secret may reach; it gives out large files without asking, and a web page for the rest.
    `requests` records what all three got, in order. `routes` says how files are taken in, as `WriteRoutes` tells.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.requests: list[Recorded] = []
        self.faults = Faults()
        self.state = HubState(clock)
        self.routes = WriteRoutes(self.state, lambda: self.url, lambda: self.cdn_url)
        self._hub = FakeServer("hub", self._answer_hub, host="localhost", requests=self.requests, take=self._take)
        self._cdn = FakeServer("cdn", self._answer_cdn, requests=self.requests, take=self._take)
        self._evil = FakeServer("evil", self._answer_evil, requests=self.requests, take=self._take)
        self.url, self.cdn_url, self.evil_url = self._hub.url, self._cdn.url, self._evil.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all connections and threads."""
        for server in (self._hub, self._cdn, self._evil):
            server.close()

    @property
    def connections(self) -> int:
        """How many connections the three servers accepted."""
        return sum(server.connections for server in (self._hub, self._cdn, self._evil))

    def add_repo(
        self,
        name: str,
        *,
        files: Mapping[str, bytes],
        lfs: Collection[str] | None = None,
        private: bool = False,
        gated: str | bool = False,
        license: str | None = None,
        kind: str = "models",
        downloads: int = 0,
    ) -> str:
        """A repository with one commit on `main`; returns the commit.

        `lfs` names the large files; None: weights, and whatever has 1 KiB or more. A search says its `downloads`.
        """
        commit = self.state.add_repo(
            name, kind=kind, files=files, lfs=lfs, private=private, gated=gated, license_name=license
        )
        self.state.repos[kind, name].downloads = downloads
        return commit

    def commit(
        self, name: str, files: Mapping[str, bytes], *, ref: str = "refs/heads/main", kind: str = "models"
    ) -> str:
        """A new commit whose whole content is `files`; `ref` then names it."""
        return self.state.commit(self.state.repos[kind, name], files, ref)

    def set_ref(self, name: str, ref: str, commit: str, *, kind: str = "models") -> None:
        """Let a full ref (`refs/tags/v1`, `refs/pr/1`) name a commit."""
        self.state.repos[kind, name].refs[ref] = commit

    def rename(self, old: str, new: str, *, kind: str = "models") -> None:
        """Move a repository; its old name answers with redirects."""
        repo = self.state.repos.pop((kind, old))
        repo.id = new
        self.state.repos[kind, new] = repo
        self.state.renamed[kind, old] = new

    def contents(self, name: str, *, ref: str = "refs/heads/main", kind: str = "models") -> dict[str, bytes]:
        """Every file of a repository at a full ref."""
        repo = self.state.repos[kind, name]
        return {path: content.data for path, content in repo.commits[repo.refs[ref]].items()}

    def add_token(self, token: str, *, user: str, role: str = "read") -> None:
        """An access token of `user`, who owns what is named `user/...`; `role` is `read` or `write`."""
        self.state.tokens[token] = Token(user=user, role=role)

    def revoke_token(self, token: str) -> None:
        """The token is refused from now on."""
        del self.state.tokens[token]

    def grant(self, name: str, user: str, *, kind: str = "models") -> None:
        """Let `user` read a private or gated repository."""
        self.state.repos[kind, name].granted.add(user)

    def fault(self, **rule: Any) -> None:
        """Add a rule; the arguments are the fields of `Fault`."""
        self.faults.add(Fault(**rule))

    def expire(self) -> None:
        """Refuse all signed addresses that were given out until now."""
        self.state.generation += 1

    def weather(self, kind: str | Weather, *, seed: int = 0) -> None:
        """The kind of network: `none`, `light`, `realistic`, `heavy`, or a `Weather` of one's own.

        The same seed drops the same requests.
        """
        for offset, server in enumerate((self._hub, self._cdn, self._evil)):
            server.dice.seed(seed + offset)
            server.weather = WEATHER[kind] if isinstance(kind, str) else kind

    def seen(self, secret: str, *, roles: Collection[str] = ("cdn", "evil")) -> list[Recorded]:
        """The requests to `roles` that hold `secret` anywhere: target, headers or body."""
        return [request for request in self.of(*roles) if secret.encode() in request.dump()]

    def of(self, *roles: str) -> list[Recorded]:
        """The requests that the servers with these roles got."""
        return [request for request in self.requests if request.role in roles]

    def _take(self, request: Recorded) -> Fault | None:
        fault = self.faults.take(request)
        if fault is not None and fault.expire:
            self.expire()
        if fault is not None and fault.commit is not None:
            self.commit(*fault.commit)
        return fault

    def _answer_hub(self, request: Recorded) -> Reply:
        try:
            reply = self.routes.serve(request)
            if reply is None:
                raise Problem(404, "Sorry, we can't find the page you are looking for.")
        except Problem as problem:
            reply = problem.reply
        reply.headers += _LIMITS
        return reply

    def _answer_cdn(self, request: Recorded) -> Reply:
        if request.method == "PUT":
            return self.routes.store(request)
        digest = request.path.removeprefix("/blob/")
        if not self.state.admits(digest, request.query):
            return Reply(status=403, headers=[("Content-Type", "application/xml")], body=_EXPIRED)
        return self._blob(request, digest)

    def _answer_evil(self, request: Recorded) -> Reply:
        digest = request.path.removeprefix("/blob/")
        if digest in self.state.blobs:
            return self._blob(request, digest)
        return Reply(headers=[("Content-Type", "text/html")], body=b"<html>evil</html>")

    def _blob(self, request: Recorded, digest: str) -> Reply:
        if digest not in self.state.blobs:
            return Reply(status=404)
        return ranged(request, self.state.blobs[digest], f'"{digest}"')
