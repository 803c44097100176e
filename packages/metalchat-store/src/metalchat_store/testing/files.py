"""Plain web servers on this computer that give out files, some of them for a credential."""

import hashlib
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote

from metalchat_store.testing.hub_read import ranged
from metalchat_store.testing.hub_server import FakeServer
from metalchat_store.testing.hub_wire import Fault, Faults, Recorded, Reply


class FakeFiles:
    """A context manager around two servers with different names, which give out the same files.

    `files` maps paths (`/a/b`) to contents. `secrets` maps a path to the Authorization that it wants. `requests`
    records what both got, in order, with the roles `files` and `mirror`.
    """

    def __init__(self) -> None:
        self.requests: list[Recorded] = []
        self.faults = Faults()
        self.files: dict[str, bytes] = {}
        self.secrets: dict[str, str] = {}
        self._server = FakeServer("files", self._answer, host="localhost", requests=self.requests, take=self._take)
        self._mirror = FakeServer("mirror", self._answer, requests=self.requests, take=self._take)
        self.url, self.mirror_url = self._server.url, self._mirror.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all connections and threads."""
        for server in (self._server, self._mirror):
            server.close()

    def add_model(self, files: Mapping[str, bytes], *, folder: str = "m", **head: Any) -> dict[str, Any]:
        """Give out `files` below `/<folder>/`; the list of them, with the keys of `head`, as the remote reads it."""
        self.files |= {f"/{folder}/{name}": content for name, content in files.items()}
        entries = [
            {
                "path": name,
                "url": f"{self.url}/{folder}/{quote(name)}",
                "size": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            for name, content in files.items()
        ]
        return {"version": 1, **head, "file": entries}

    def add_list(self, value: Mapping[str, Any], path: str = "/model.json") -> str:
        """Give out a list of files as JSON; the address of the repository."""
        self.files[path] = json.dumps(value).encode()
        return f"manifest:{self.url}{path}"

    def fault(self, **rule: Any) -> None:
        """Add a rule; the arguments are the fields of `Fault`."""
        self.faults.add(Fault(**rule))

    def of(self, *roles: str) -> list[Recorded]:
        """The requests that the servers with these roles got."""
        return [request for request in self.requests if request.role in roles]

    def _take(self, request: Recorded) -> Fault | None:
        return self.faults.take(request)

    def _answer(self, request: Recorded) -> Reply:
        path = unquote(request.path)
        wanted = self.secrets.get(path)
        if wanted is not None and request.header("Authorization") != wanted:
            return Reply(status=401)
        content = self.files.get(path)
        if content is None:
            return Reply(status=404)
        return ranged(request, content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
