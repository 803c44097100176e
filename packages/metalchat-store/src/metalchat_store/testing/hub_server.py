"""A recording HTTP/1.1 server on this computer, whose answers can be spoiled in every way that a network knows."""

import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from email.message import Message
from email.utils import formatdate
from http.client import HTTPException, parse_headers, responses
from typing import BinaryIO

from metalchat_store.testing.hub_wire import Fault, Recorded, Reply

_SMALL = 1 << 16
_NUMBER = re.compile(r"[0-9]{1,18}")
Application = Callable[[Recorded], Reply]


@dataclass(frozen=True, kw_only=True)
class Weather:
    """A kind of network: seconds before each answer, their spread, and the share of requests that are dropped."""

    latency: float = 0.0
    jitter: float = 0.0
    drop: float = 0.0


WEATHER = {
    "none": Weather(),
    "light": Weather(latency=0.01, jitter=0.005, drop=0.0),
    "realistic": Weather(latency=0.05, jitter=0.02, drop=0.01),
    "heavy": Weather(latency=0.2, jitter=0.1, drop=0.05),
}


class FakeServer:
    """One listener. `host` is the name that its URL shows; it always listens on 127.0.0.1.

    `requests` gets a `Recorded` for each request before it is answered; `connections` counts accepted connections.
    """

    def __init__(
        self,
        role: str,
        application: Application,
        *,
        host: str = "127.0.0.1",
        requests: list[Recorded] | None = None,
        take: Callable[[Recorded], Fault | None] = lambda _: None,
    ) -> None:
        self.role = role
        self.requests: list[Recorded] = [] if requests is None else requests
        self.connections = 0
        self.closing = threading.Event()
        self.weather = Weather()
        self.dice = random.Random(0)  # noqa: S311 - chance of a simulated network, no secret
        self._application = application
        self._take = take
        self._open: set[socket.socket] = set()
        self._workers: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://{host}:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, end all connections and wait for their threads."""
        self.closing.set()
        with socket.create_connection(self._listener.getsockname()):  # wakes the thread that accepts
            self._thread.join()
        self._listener.close()
        with self._lock:
            for connection in self._open:
                _shut(connection)
            workers = list(self._workers)
        for worker in workers:
            worker.join(5)

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self.closing.is_set():
                connection.close()
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            worker = threading.Thread(target=self._converse, args=(connection,), daemon=True)
            with self._lock:
                self.connections += 1
                self._open.add(connection)
                self._workers.append(worker)
            worker.start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            try:
                while self._exchange(connection, lines):
                    pass
            except OSError:
                _shut(connection)
            with self._lock:
                self._open.discard(connection)
                self._workers.remove(threading.current_thread())

    def _exchange(self, connection: socket.socket, lines: BinaryIO) -> bool:
        """Read one request and answer it; whether another may follow. What is no request is answered with 400."""
        line = lines.readline(1 << 16)
        if not line:
            return False
        words: list[str] = []
        headers = Message()
        with suppress(UnicodeDecodeError, HTTPException):
            words, headers = line.decode("ascii").split(), parse_headers(lines)
        length = headers.get("Content-Length") or "0"
        if len(words) != 3 or not _NUMBER.fullmatch(length):
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return False
        body = lines.read(int(length))
        request = Recorded(
            role=self.role,
            method=words[0],
            target=words[1],
            headers=tuple((name, str(value)) for name, value in headers.items()),
            body=body,
            at=time.monotonic(),
        )
        if len(body) < int(length):
            with self._lock:
                self.requests.append(request)
            return False
        reply, fault = self._answer(request)
        if fault.close or fault.garbage:
            connection.sendall(fault.garbage)
            return False
        true_length = len(reply.body)
        reply = fault.spoil(reply)
        request.status = reply.status
        framing = ("Content-Length", str(true_length if fault.lie else len(reply.body)))
        if fault.badchunk:
            framing = ("Transfer-Encoding", "chunked")
        named = {name.lower() for name, _ in reply.headers} | {name.lower() for name in fault.drop}
        fixed = [pair for pair in (("Date", formatdate(usegmt=True)), framing) if pair[0].lower() not in named]
        start = f"HTTP/1.1 {reply.status} {responses.get(reply.status, 'Unknown')}"
        shown = [start, *(f"{name}: {value}" for name, value in fixed + reply.headers), "", ""]
        head = "\r\n".join(shown).encode("utf-8", "surrogateescape")
        going = headers.get("Connection", "").lower() != "close" and framing[0].lower() not in named
        return self._send(connection, request, head, reply.body, fault) and going

    def _answer(self, request: Recorded) -> tuple[Reply, Fault]:
        """Record a request and answer it."""
        with self._lock:
            self.requests.append(request)
            fault = self._take(request) or Fault()
            weather = self.weather
            pause = weather.latency + weather.jitter * (2 * self.dice.random() - 1)
            dropped = self.dice.random() < weather.drop
        if pause + fault.sleep > 0:
            self.closing.wait(pause + fault.sleep)
        seen = request
        if fault.norange:
            headers = tuple(pair for pair in request.headers if pair[0].lower() != "range")
            seen = replace(request, headers=headers)
        return self._application(seen), replace(fault, close=True) if dropped else fault

    def _send(self, connection: socket.socket, request: Recorded, head: bytes, body: bytes, fault: Fault) -> bool:
        if request.method == "HEAD":
            connection.sendall(head)
            return True
        if fault.badchunk:
            connection.sendall(head + b"5\r\nhello\r\nzz\r\n")
            return False
        ends = [len(body), *(end for end in (fault.cut, fault.stall_at) if end is not None)]
        part = body[: min(ends)]
        step, pause = fault.drip or (max(1, len(part)), 0.0)
        if step <= _SMALL:
            head += part[:step]
        connection.sendall(head)
        request.sent = len(part[:step]) if step <= _SMALL else 0
        for start in range(request.sent, len(part), step):
            if pause and self.closing.wait(pause):
                return False
            connection.sendall(part[start : start + step])
            request.sent += len(part[start : start + step])
        if fault.stall_at is not None:
            self.closing.wait()
        if fault.rst:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return fault.cut is None and fault.stall_at is None and not (fault.lie and fault.extra)


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
