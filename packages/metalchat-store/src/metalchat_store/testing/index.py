"""A package index on this computer: real HTTP servers with releases, logins, a record and faults."""

import hashlib
import html
import json
import os
import re
from base64 import b64encode
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote

from metalchat_store.testing.hub_read import ranged
from metalchat_store.testing.hub_server import WEATHER, FakeServer, Weather
from metalchat_store.testing.hub_wire import Fault, Faults, Recorded, Reply
from metalchat_store.testing.wheel import make_wheel, wheel_metadata, wheel_name

_JSON = "application/vnd.pypi.simple.v1+json"
_HTML = "text/html; charset=utf-8"


@dataclass(kw_only=True)
class IndexFile:
    """One file of a project. What the pages say about it may be changed after it was added, also into lies.

    `address` replaces the link to the file. `metadata` is what is offered beside it, None for nothing.
    """

    filename: str
    content: bytes = field(repr=False)
    hashes: dict[str, str]
    size: int | None
    yanked: str | None = None
    requires_python: str | None = None
    metadata: bytes | None = None
    address: str | None = None


class FakeIndex:
    """A context manager around three servers with different names.

    `url` is the index (`localhost`), whose pages are in JSON for who accepts it, unless `json` is False; `files_url`
    gives out the files; `evil_url` is another server, which nothing secret may reach. With `together` the index gives
    out the files itself, under relative links. `requests` records what all three got, in order.
    """

    def __init__(self, *, json: bool = True, together: bool = False) -> None:
        self.requests: list[Recorded] = []
        self.faults = Faults()
        self.projects: dict[str, list[IndexFile]] = {}
        self.pages: dict[str, Reply] = {}
        self.logins: set[str] = set()
        self._json = json
        self._together = together
        self._index = FakeServer("index", self._answer_index, host="localhost", requests=self.requests, take=self._take)
        self._files = FakeServer("files", self._answer_file, requests=self.requests, take=self._take)
        self._evil = FakeServer("evil", self._answer_file, requests=self.requests, take=self._take)
        self.url, self.files_url, self.evil_url = f"{self._index.url}/simple", self._files.url, self._evil.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all connections and threads."""
        for server in (self._index, self._files, self._evil):
            server.close()

    @property
    def environ(self) -> dict[str, str]:
        """Variables that make this the only index; no file of settings is read."""
        return {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "PIP_INDEX_URL": self.url}

    def add_release(
        self,
        project: str,
        version: str,
        files: Mapping[str, bytes],
        *,
        license: str | None = "Apache-2.0",
        tag: str = "py3-none-any",
        metadata: bool = False,
        **options: Any,
    ) -> IndexFile:
        """A wheel that holds `files`. `metadata`: its METADATA is offered beside it. The rest is for `make_wheel`."""
        content = make_wheel(project, version, files, license=license, **options)
        beside = wheel_metadata(project, version, license=license) if metadata else None
        return self.add_file(project, wheel_name(project, version, tag), content, metadata=beside)

    def add_file(self, project: str, filename: str, content: bytes, *, metadata: bytes | None = None) -> IndexFile:
        """Any file of a project; size and sha256 are told as they are."""
        file = IndexFile(
            filename=filename,
            content=content,
            hashes={"sha256": hashlib.sha256(content).hexdigest()},
            size=len(content),
            metadata=metadata,
        )
        self.projects.setdefault(_normalised(project), []).append(file)
        return file

    def add_login(self, user: str, password: str) -> None:
        """From now on the index wants one of the logins that were added."""
        self.logins.add(f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}")

    def fault(self, **rule: Any) -> None:
        """Add a rule; the arguments are the fields of `Fault`, with the roles `index`, `files` and `evil`."""
        self.faults.add(Fault(**rule))

    def weather(self, kind: str | Weather, *, seed: int = 0) -> None:
        """The kind of network: `none`, `light`, `realistic`, `heavy`, or a `Weather` of one's own."""
        for offset, server in enumerate((self._index, self._files, self._evil)):
            server.dice.seed(seed + offset)
            server.weather = WEATHER[kind] if isinstance(kind, str) else kind

    def seen(self, secret: str, *, roles: Collection[str] = ("files", "evil")) -> list[Recorded]:
        """The requests to `roles` that hold `secret` anywhere: target, headers or body."""
        return [request for request in self.of(*roles) if secret.encode() in request.dump()]

    def of(self, *roles: str) -> list[Recorded]:
        """The requests that the servers with these roles got."""
        return [request for request in self.requests if request.role in roles]

    def _take(self, request: Recorded) -> Fault | None:
        return self.faults.take(request)

    def _answer_index(self, request: Recorded) -> Reply:
        if self.logins and request.header("Authorization") not in self.logins:
            return Reply(status=401, headers=[("WWW-Authenticate", 'Basic realm="index"')])
        if request.path.startswith("/files/"):
            return self._answer_file(request)
        found = re.fullmatch(r"/simple/([a-z0-9-]+)/", request.path)
        if found is None:
            return Reply(status=404)
        if found[1] in self.pages:
            return self.pages[found[1]]
        if found[1] not in self.projects:
            return Reply(status=404)
        if self._json and _JSON in (request.header("Accept") or ""):
            return Reply(headers=[("Content-Type", _JSON)], body=self._json_page(found[1]))
        return Reply(headers=[("Content-Type", _HTML)], body=self._html_page(found[1]))

    def _answer_file(self, request: Recorded) -> Reply:
        name = unquote(request.path).removeprefix("/files/")
        for file in (file for files in self.projects.values() for file in files):
            if name == file.filename:
                return ranged(request, file.content, f'"{hashlib.sha256(file.content).hexdigest()}"')
            if name == f"{file.filename}.metadata" and file.metadata is not None:
                return Reply(body=file.metadata)
        return Reply(status=404)

    def _address(self, file: IndexFile) -> str:
        root = "../../files" if self._together else f"{self.files_url}/files"
        return file.address or f"{root}/{quote(file.filename)}"

    def _json_page(self, project: str) -> bytes:
        files: list[dict[str, object]] = []
        for file in self.projects[project]:
            entry: dict[str, object] = {"filename": file.filename, "url": self._address(file), "hashes": file.hashes}
            if file.size is not None:
                entry["size"] = file.size
            if file.requires_python is not None:
                entry["requires-python"] = file.requires_python
            if file.metadata is not None:
                entry["core-metadata"] = {"sha256": hashlib.sha256(file.metadata).hexdigest()}
            entry["yanked"] = False if file.yanked is None else file.yanked or True
            files.append(entry)
        return json.dumps({"meta": {"api-version": "1.1"}, "name": project, "files": files}).encode()

    def _html_page(self, project: str) -> bytes:
        lines: list[str] = []
        for file in self.projects[project]:
            hashes = "&".join(f"{name}={digest}" for name, digest in file.hashes.items())
            told = {"href": f"{self._address(file)}#{hashes}" if hashes else self._address(file)}
            if file.requires_python is not None:
                told["data-requires-python"] = file.requires_python
            if file.metadata is not None:
                told["data-core-metadata"] = f"sha256={hashlib.sha256(file.metadata).hexdigest()}"
            if file.yanked is not None:
                told["data-yanked"] = file.yanked
            written = " ".join(f'{name}="{html.escape(value)}"' for name, value in told.items())
            lines.append(f"<a {written}>{html.escape(file.filename)}</a><br>")
        head = '<!DOCTYPE html><html><head><meta name="pypi:repository-version" content="1.1"></head><body>'
        return "\n".join([head, *lines, "</body></html>"]).encode()


def _normalised(project: str) -> str:
    return re.sub(r"[-_.]+", "-", project).lower()
