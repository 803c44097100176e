"""The hub double as https://huggingface.co: a proxy that ends TLS with a certificate of its own authority.

A program with `environ()` reaches the double under the real names and through a real TLS handshake; every
other name is refused. Linux only: elsewhere the system's own store of authorities decides, not SSL_CERT_FILE.
"""

import http.client
import socket
import ssl
import threading
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import trustme
from metalchat_store.testing import FakeHub

HUB = "huggingface.co"
CDN = "cdn-lfs.hf.co"


class HubOverTls:
    """`connections` counts what programs opened. `directory` gets the authority's certificate."""

    def __init__(self, hub: FakeHub, directory: Path) -> None:
        self._backends = {HUB: hub.url, CDN: hub.cdn_url}
        authority = trustme.CA()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(HUB, CDN).configure_cert(self._context)
        self._certificate = directory / "authority.pem"
        authority.cert_pem.write_to_path(str(self._certificate))
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closing = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def environ(self) -> dict[str, str]:
        """What a program needs to find the double under the hub's names."""
        port = self._listener.getsockname()[1]
        return {"HTTPS_PROXY": f"http://127.0.0.1:{port}", "SSL_CERT_FILE": str(self._certificate), "NO_PROXY": ""}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        with socket.create_connection(self._listener.getsockname()):  # wakes the thread that accepts
            self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._closing:
                connection.close()
                return
            self.connections += 1
            threading.Thread(target=self._tunnel, args=(connection,), daemon=True).start()

    def _tunnel(self, connection: socket.socket) -> None:
        with connection:
            asked = _head(connection).split(b" ")
            host = asked[1].decode().partition(":")[0] if len(asked) > 1 else ""
            if asked[0] != b"CONNECT" or host not in self._backends:
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                return
            connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            try:
                with self._context.wrap_socket(connection, server_side=True) as secure:
                    while self._exchange(secure, self._backends[host]):
                        pass
            except OSError:
                return  # the program went away

    def _exchange(self, secure: ssl.SSLSocket, backend: str) -> bool:
        """Pass one request on and its answer back; whether another may follow."""
        head = _head(secure)
        if not head:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = dict(line.split(": ", 1) for line in lines if line)
        length = int({name.lower(): value for name, value in headers.items()}.get("content-length", 0))
        body = b""
        while len(body) < length:
            body += secure.recv(length - len(body))
        parts = urlsplit(backend)
        assert parts.hostname is not None
        upstream = http.client.HTTPConnection(parts.hostname, parts.port)
        try:
            upstream.request(method, target, body=body, headers=headers)
            answer = upstream.getresponse()
            content = b"" if method == "HEAD" else answer.read()
            if "json" in (answer.getheader("Content-Type") or ""):
                content = self._renamed(content.decode()).encode()
            out = [f"HTTP/1.1 {answer.status} {answer.reason}"]
            for name, value in answer.getheaders():
                if name.lower() == "transfer-encoding" or (name.lower() == "content-length" and method != "HEAD"):
                    continue
                out.append(f"{name}: {self._renamed(value)}")
            if method != "HEAD":
                out.append(f"Content-Length: {len(content)}")
            secure.sendall("\r\n".join([*out, "", ""]).encode("latin-1") + content)
        finally:
            upstream.close()
        return True

    def _renamed(self, text: str) -> str:
        for name, url in self._backends.items():
            text = text.replace(url, f"https://{name}")
        return text


def _head(connection: socket.socket) -> bytes:
    """The bytes up to the empty line, or nothing if the other side has gone."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            return b""
        head += byte
    return head[:-2]
