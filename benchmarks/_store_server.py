"""A hub whose bytes come out of files by sendfile, from several processes, so that it is not what is measured.

It knows what a pull and `hf download` ask for, and no more: revision, tree, and files, all of which are large (LFS) and
come from a second address on the same port. `latency` is slept before every answer; a connection gives at most `rate`
bytes a second.
"""

import hashlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Self

COMMIT = "1" * 40
_PROCESSES = 4
_API = re.compile(r"/api/models/(?P<name>[\w-]+/[\w-]+)(?:/(?P<route>revision|tree)/[\w.-]+)?(?:\?.*)?")
_RESOLVE = re.compile(r"/(?P<name>[\w-]+/[\w-]+)/resolve/[\w.-]+/(?P<path>[\w.-]+)")
_BLOB = re.compile(r"/blob/(?P<digest>[0-9a-f]{64})")
_RANGE = re.compile(rb"(?im)^range: *bytes=([0-9]+)-([0-9]*)\r?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One file of a repository."""

    path: Path
    size: int
    sha256: str


def served(folder: Path) -> dict[str, Served]:
    """The files of a folder, hashed."""
    found = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[path.name] = Served(path=path, size=path.stat().st_size, sha256=digest)
    return found


class FastHub:
    """A context manager around the processes that answer. `url` is the hub."""

    def __init__(
        self, repositories: Mapping[str, Mapping[str, Served]], *, latency: float = 0.0, rate: float | None = None
    ) -> None:
        self._repositories = repositories
        self._blobs = {file.sha256: file for files in repositories.values() for file in files.values()}
        self._latency = latency
        self._rate = rate
        self._children: list[int] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        port = self._listener.getsockname()[1]
        self.url, self._cdn = f"http://localhost:{port}", f"http://127.0.0.1:{port}"
        for _ in range(_PROCESSES):
            pid = os.fork()
            if pid == 0:
                try:
                    self._serve()
                finally:
                    os._exit(1)
            self._children.append(pid)
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._listener.close()

    def blob_url(self, digest: str) -> str:
        """Where the bytes of a file are, for a program that only reads them."""
        return f"{self._cdn}/blob/{digest}"

    def _serve(self) -> None:
        import threading

        while True:
            connection, _ = self._listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection:
            pending = b""
            while True:
                while b"\r\n\r\n" not in pending:
                    data = connection.recv(1 << 16)
                    if not data:
                        return
                    pending += data
                head, _, pending = pending.partition(b"\r\n\r\n")
                try:
                    self._answer(connection, head + b"\r\n")
                except OSError:
                    return

    def _answer(self, connection: socket.socket, head: bytes) -> None:
        method, target = head.split(b" ", 2)[:2]
        address = target.decode("ascii")
        if self._latency:
            time.sleep(self._latency)
        blob = _BLOB.fullmatch(address)
        if blob is not None:
            self._send_file(connection, head, self._blobs[blob["digest"]])
            return
        status, headers, body = self._route(address)
        lines = [f"HTTP/1.1 {status}", f"Date: {formatdate(usegmt=True)}", f"Content-Length: {len(body)}", *headers]
        answer = ("\r\n".join(lines) + "\r\n\r\n").encode()
        connection.sendall(answer if method == b"HEAD" else answer + body)

    def _route(self, address: str) -> tuple[str, list[str], bytes]:
        api, resolve = _API.fullmatch(address), _RESOLVE.fullmatch(address)
        if api is not None and api["name"] in self._repositories:
            files = self._repositories[api["name"]]
            if api["route"] == "tree":
                value: object = [_entry(name, file) for name, file in files.items()]
            else:
                value = {"id": api["name"], "sha": COMMIT, "private": False, "gated": False, "disabled": False}
                value |= {"siblings": [{"rfilename": name} for name in files], "tags": [], "downloads": 0, "likes": 0}
            return "200 OK", ["Content-Type: application/json", f"X-Repo-Commit: {COMMIT}"], json.dumps(value).encode()
        if resolve is not None and resolve["path"] in self._repositories.get(resolve["name"], {}):
            file = self._repositories[resolve["name"]][resolve["path"]]
            etag = f'"{file.sha256}"'
            headers = [f"X-Repo-Commit: {COMMIT}", f"X-Linked-Size: {file.size}", f"X-Linked-Etag: {etag}"]
            headers += [f"ETag: {etag}", "Accept-Ranges: bytes", f"Location: {self.blob_url(file.sha256)}"]
            return "302 Found", headers, b""
        return "404 Not Found", ["X-Error-Code: EntryNotFound"], b"{}"

    def _send_file(self, connection: socket.socket, head: bytes, file: Served) -> None:
        asked = _RANGE.search(head)
        start = int(asked[1]) if asked else 0
        end = min(int(asked[2] or file.size), file.size - 1) if asked else file.size - 1
        lines = [f"HTTP/1.1 {'206 Partial Content' if asked else '200 OK'}", f"Date: {formatdate(usegmt=True)}"]
        lines += [f"Content-Length: {end - start + 1}", f'ETag: "{file.sha256}"', "Accept-Ranges: bytes"]
        lines += [f"Content-Range: bytes {start}-{end}/{file.size}"] if asked else []
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        if head.startswith(b"HEAD"):
            return
        with file.path.open("rb") as source:
            began, first = time.monotonic(), start
            while start <= end:
                sent = os.sendfile(connection.fileno(), source.fileno(), start, min(end - start + 1, 1 << 20))
                if sent == 0:
                    raise OSError("the file became shorter")
                start += sent
                if self._rate is not None:
                    time.sleep(max(0.0, (start - first) / self._rate - (time.monotonic() - began)))


def _entry(name: str, file: Served) -> dict[str, object]:
    lfs = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
    oid = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
    return {"type": "file", "oid": oid, "size": file.size, "path": name, "lfs": lfs}
