import asyncio
import itertools
import socket
import threading
from contextlib import suppress

import httpx
import pytest
from metalchat_credentials import (
    CredentialAuth,
    Credentials,
    InsecureTransport,
    InvalidURL,
    Purpose,
    Secret,
    parse_url,
)
from metalchat_credentials.testing import MemoryBackend, SpyBackend

TOKEN = "hf_CANARYcanaryCANARYcanary12345"
STATUSES = (301, 302, 303, 307, 308)
METHODS = ("GET", "HEAD", "PUT", "POST")


class Server:
    """A loopback server that keeps every byte it receives and answers with `answer(request head)`."""

    def __init__(self) -> None:
        self.received = b""
        self.requests: list[bytes] = []
        self.answer = lambda head: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.url = f"http://{self.address}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(10)
                data = b""
                while b"\r\n\r\n" not in data:
                    piece = connection.recv(65536)
                    data += piece
                    if not piece or data.startswith(b"\x16"):  # the end, or the greeting of TLS
                        break
                head, _, body = data.partition(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
                )
                while len(body) < length and (piece := connection.recv(65536)):
                    body += piece
                self.received += head + b"\r\n\r\n" + body
                self.requests.append(head)
                connection.sendall(self.answer(head))
                connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)


@pytest.fixture
def hub():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def evil():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def make(tmp_path):
    def make(*entries: str, purpose: Purpose = Purpose.READ, **tokens: str) -> CredentialAuth:
        credentials = Credentials(tmp_path, environ={}, directory=tmp_path, backends={"keyring": MemoryBackend()})
        for url in entries:
            credentials.add(parse_url(url), username="alice", secret=Secret(TOKEN), purpose=purpose)
        for text, url in tokens.items():
            credentials.add(parse_url(url), username="alice", secret=Secret(text), purpose=purpose)
        return CredentialAuth(credentials, purpose)

    return make


@pytest.fixture
def client(make, hub):
    with httpx.Client(auth=make(hub.url), follow_redirects=True, trust_env=False, timeout=10) as made:
        yield made


def redirect(status: int, location: bytes) -> bytes:
    return b"HTTP/1.1 %d Go\r\nLocation: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % (status, location)


LOCATIONS = {
    "other port": "{evil}/x",
    "other host": "http://localhost:{port}/x",
    "no scheme": "//{address}/x",
    "userinfo": "http://u:p@{address}/x",
    "userinfo of the hub": "http://{hub}@{address}/x",
    "backslash": "http://{address}\\@{hub}/x",
    "CRLF": "{evil}/x\r\nAuthorization: x",
    "fragment": "{evil}/#http://{hub}/",
    "https": "https://{address}/x",
    "file": "file:///etc/passwd",
    "ftp": "ftp://{address}/x",
    "javascript": "javascript:alert(1)",
    "empty": "",
    "70 kB": "{evil}/" + "a" * 70_000,
    "relative": "x",
    "same origin": "http://{hub}/x",
}


@pytest.mark.parametrize("location", LOCATIONS.values(), ids=LOCATIONS)
def test_n1_no_byte_of_a_token_reaches_another_origin(client, hub, evil, location: str) -> None:
    target = location.format(evil=evil.url, address=evil.address, port=evil.address.rpartition(":")[2], hub=hub.address)
    evil.answer = lambda head: (
        b'HTTP/1.1 401 Denied\r\nWWW-Authenticate: Bearer realm="http://127.0.0.1/token"\r\n'
        b"Content-Length: 0\r\nConnection: close\r\n\r\n"
    )
    for status, method in itertools.product(STATUSES, METHODS):
        start = b"%s /start HTTP/1.1" % method.encode()
        hub.answer = lambda head, status=status, start=start: (
            redirect(status, target.encode())
            if head.startswith(start)
            else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        with suppress(httpx.HTTPError, httpx.InvalidURL, InvalidURL):
            client.request(method, f"{hub.url}/start", content=b"body" if method in ("PUT", "POST") else None)
        assert TOKEN.encode() in hub.received, "the hub itself does get it"
        hub.received = b""
    assert TOKEN.encode() not in evil.received
    if location.startswith(("{evil}/x", "http://localhost", "//", "http://u:p")) and "\r" not in location:
        assert len(evil.requests) == len(STATUSES) * len(METHODS), "the redirects were followed"


@pytest.mark.parametrize(
    ("entry", "start", "target"),
    [
        ("http://localhost", "http://localhost/a", "https://localhost/a"),
        ("http://localhost:8080", "http://localhost:8080/a", "https://localhost:8080/a"),
        ("https://huggingface.co", "https://huggingface.co/a", "http://huggingface.co/a"),
        ("https://huggingface.co", "https://huggingface.co/a", "https://huggingface.co:8443/a"),
        ("https://huggingface.co", "https://huggingface.co/a", "https://cdn.huggingface.co/a"),
        ("https://huggingface.co", "https://huggingface.co/a", "https://huggingface.co.evil/a"),
        ("https://huggingface.co/org", "https://huggingface.co/org/a", "https://huggingface.co/other/a"),
        ("https://huggingface.co/org", "https://huggingface.co/org/a", "https://huggingface.co/organisation"),
    ],
)
def test_n1_a_redirect_to_an_address_without_a_credential_carries_no_token(make, entry, start, target) -> None:
    for status, method in itertools.product(STATUSES, METHODS):
        sent = []

        def answer(request: httpx.Request, status=status, sent=sent) -> httpx.Response:
            sent.append((str(request.url), b"".join(b": ".join(pair) for pair in request.headers.raw)))
            return httpx.Response(status, headers={"Location": target}) if len(sent) == 1 else httpx.Response(401)

        with httpx.Client(auth=make(entry), transport=httpx.MockTransport(answer), follow_redirects=True) as client:
            assert client.request(method, start).status_code == 401
        assert [url for url, _ in sent] == [start, target]
        assert [TOKEN.encode() in raw for _, raw in sent] == [True, False]


def test_n1_a_redirect_to_another_port_and_back_gives_nothing_away(client, hub, evil) -> None:
    evil.answer = lambda head: redirect(302, f"{hub.url}/back".encode())
    hub.answer = lambda head: (
        redirect(302, f"{evil.url}/x".encode())
        if b"/start" in head
        else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    assert client.get(f"{hub.url}/start").status_code == 200
    assert TOKEN.encode() not in evil.received


def test_a_redirect_within_the_origin_is_authorised_where_it_leads(make) -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append((request.method, request.url.path, request.headers.get("Authorization"), request.content))
        if request.url.path == "/old":
            return httpx.Response(307, headers={"Location": "/new"})
        return httpx.Response(200 if "Authorization" in request.headers else 401)

    with httpx.Client(auth=make("https://h"), transport=httpx.MockTransport(answer), follow_redirects=True) as client:
        assert client.put("https://h/old", content=b"body").status_code == 200
    bearer = f"Bearer {TOKEN}"
    assert sent == [
        ("PUT", "/old", bearer, b"body"),
        ("PUT", "/new", None, b"body"),
        ("PUT", "/new", bearer, b"body"),
    ]


def test_each_address_of_a_redirect_gets_its_own_token(make) -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append((str(request.url), request.headers.get("Authorization")))
        if request.url.host == "one":
            return httpx.Response(302, headers={"Location": "https://two/x"})
        return httpx.Response(200 if "Authorization" in request.headers else 401)

    auth = make(first="https://one", second="https://two")
    with httpx.Client(auth=auth, transport=httpx.MockTransport(answer), follow_redirects=True) as client:
        assert client.get("https://one/x").status_code == 200
    assert sent == [("https://one/x", "Bearer first"), ("https://two/x", None), ("https://two/x", "Bearer second")]


def test_a_body_that_is_read_from_a_stream_is_not_sent_twice(make) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/old":
            return httpx.Response(303, headers={"Location": "/new"})
        return httpx.Response(401)

    auth = make("https://h")
    with httpx.Client(auth=auth, transport=httpx.MockTransport(answer), follow_redirects=True) as client:
        assert client.post("https://h/old", content=iter([b"a", b"b"])).status_code == 401


def test_redirects_without_end_come_to_an_end(make) -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(str(request.url))
        if "Authorization" not in request.headers:
            return httpx.Response(401)
        return httpx.Response(302, headers={"Location": f"/{len(sent)}"})

    auth = make("https://h")
    with httpx.Client(auth=auth, transport=httpx.MockTransport(answer), follow_redirects=True) as client:
        assert client.get("https://h/a").status_code == 401
    assert len(sent) == 20


def test_a_redirect_that_is_followed_by_hand_is_decided_afresh(make) -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("Authorization"))
        return httpx.Response(302, headers={"Location": "https://localhost/x"})

    with httpx.Client(auth=make("http://localhost"), transport=httpx.MockTransport(answer)) as client:
        following = client.get("http://localhost/x").next_request
        assert following is not None
        assert "Authorization" not in following.headers
        client.send(following)
    assert sent == [f"Bearer {TOKEN}", None]


def test_n2_only_ordinary_headers_reach_another_origin(client, hub, evil) -> None:
    hub.answer = lambda head: redirect(302, f"{evil.url}/x".encode())
    client.get(f"{hub.url}/start", headers={"Range": "bytes=0-1"})
    names = {line.split(b":")[0].lower() for line in evil.requests[0].split(b"\r\n")[1:]}
    assert names <= {b"host", b"user-agent", b"accept", b"accept-encoding", b"range", b"connection"}


def test_n4_a_server_does_not_choose_where_a_token_goes(client, hub, evil) -> None:
    hub.answer = lambda head: (
        b'HTTP/1.1 401 Denied\r\nWWW-Authenticate: Bearer realm="%s/token",service="x"\r\n'
        b"Content-Length: 0\r\nConnection: close\r\n\r\n" % evil.url.encode()
    )
    assert client.get(f"{hub.url}/start").status_code == 401
    assert len(hub.requests) == 1
    assert evil.requests == []


def test_a_header_of_the_caller_is_removed_where_no_token_belongs(make) -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("Authorization"))
        return httpx.Response(200)

    with httpx.Client(auth=make("https://h"), transport=httpx.MockTransport(answer)) as client:
        client.get("https://other/", headers={"Authorization": "Bearer mine"})
        client.get("https://h/", headers={"authorization": "Bearer mine"})
    assert sent == [None, f"Bearer {TOKEN}"]


@pytest.mark.parametrize("url", ["http://ex%0aample.com/", "http://u:p@h/", "https://h/%00", "https://h/a%2f..%2fb"])
def test_c1_nothing_is_sent_to_an_address_that_is_refused(tmp_path, url: str) -> None:
    spy = SpyBackend()
    auth = CredentialAuth(Credentials(tmp_path, environ={}, directory=tmp_path, backends={"keyring": spy}))
    transport = httpx.MockTransport(lambda request: pytest.fail("sent"))
    with httpx.Client(auth=auth, transport=transport) as client, pytest.raises(InvalidURL):
        client.get(url)
    assert spy.calls == 0


def test_n6_nothing_is_sent_over_http_to_another_computer(tmp_path) -> None:
    (tmp_path / "config.toml").write_text('[credential."http://example.test"]\nusername = "alice"\n')
    auth = CredentialAuth(Credentials(tmp_path, environ={}, directory=tmp_path))
    transport = httpx.MockTransport(lambda request: pytest.fail("sent"))
    with httpx.Client(auth=auth, transport=transport) as client, pytest.raises(InsecureTransport):
        client.get("http://example.test/")


def test_a_token_for_writing_needs_its_own_auth(make) -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("Authorization"))
        return httpx.Response(200)

    writing = make("https://h", purpose=Purpose.WRITE)
    reading = CredentialAuth(writing._credentials)
    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        client.get("https://h/", auth=writing)
        client.get("https://h/", auth=reading)
    assert sent == [f"Bearer {TOKEN}", None]


def test_c4_the_headers_of_a_request_do_not_print_the_token(make) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert TOKEN not in repr(request.headers)
        assert TOKEN not in repr(httpx.Headers(request.headers).raw)
        return httpx.Response(200 if request.headers["authorization"] == f"Bearer {TOKEN}" else 401)

    with httpx.Client(auth=make("https://h"), transport=httpx.MockTransport(answer)) as client:
        assert client.get("https://h/").status_code == 200


def test_an_asynchronous_client_is_served_too(make) -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("Authorization"))
        if request.url.path == "/old":
            return httpx.Response(302, headers={"Location": "https://evil/"})
        return httpx.Response(200)

    async def get() -> int:
        transport = httpx.MockTransport(answer)
        async with httpx.AsyncClient(auth=make("https://h"), transport=transport, follow_redirects=True) as client:
            return (await client.get("https://h/old")).status_code

    assert asyncio.run(get()) == 200
    assert sent == [f"Bearer {TOKEN}", None]
