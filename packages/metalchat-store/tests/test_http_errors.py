"""Errors of the HTTP library become one line of the store's own, without a secret in it (threats C-4, N-6)."""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from metalchat_store._address import origin_of
from metalchat_store._http import Http
from metalchat_store.errors import AccessDenied, NetworkError
from metalchat_store.remote import RemoteContext
from metalchat_store.remotes.huggingface import HuggingFaceRemote
from metalchat_store.testing import FakeHub

TOKEN = "hf_canaryCANARYcanaryCANARYcanary12"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add_repo("alice/m", files={"config.json": b"{}", "model.safetensors": bytes(5000)})
        yield hub


def ask(http: Http, url: str, value: str | None = f"Bearer {TOKEN}") -> bytes:
    try:
        return http.fetch(url, home=origin_of(url), authorize=lambda _: value).data
    finally:
        http.close()


def weights(hub: FakeHub) -> bytes:
    remote, context = HuggingFaceRemote(), RemoteContext()
    try:
        listing = remote.list(f"{hub.url}/alice/m", revision=None, context=context)
        with remote.read(listing, listing.files[1], offset=0, context=context) as body:
            return b"".join(body)
    finally:
        remote.close()


def test_every_error_of_the_library_becomes_one_line_that_names_the_host() -> None:
    request = httpx.Request("GET", "https://hub.test/")
    kinds: list[Exception] = [
        httpx.ConnectError(TOKEN),
        httpx.ConnectTimeout(TOKEN),
        httpx.ReadError(TOKEN),
        httpx.ReadTimeout(TOKEN),
        httpx.WriteError(TOKEN),
        httpx.WriteTimeout(TOKEN),
        httpx.CloseError(TOKEN),
        httpx.PoolTimeout(TOKEN),
        httpx.ProxyError(TOKEN),
        httpx.LocalProtocolError(TOKEN),
        httpx.RemoteProtocolError(TOKEN),
        httpx.UnsupportedProtocol(TOKEN),
        httpx.DecodingError(TOKEN, request=request),
        httpx.TooManyRedirects(TOKEN),
        httpx.InvalidURL(TOKEN),
        OSError(5, TOKEN),
        ssl.SSLError(1, TOKEN),
        UnicodeEncodeError("ascii", TOKEN, 0, 1, TOKEN),
        ValueError(TOKEN),
        ImportError(TOKEN),
    ]
    for kind in kinds:

        def fail(request: httpx.Request, error: Exception = kind) -> httpx.Response:
            raise error

        with pytest.raises(NetworkError) as caught:
            ask(Http(transport=httpx.MockTransport(fail)), "https://hub.test/")
        text = str(caught.value)
        assert "hub.test" in text, kind
        assert TOKEN not in text, kind
        assert "\n" not in text
        assert caught.value.__cause__ is kind


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        (ssl.SSLCertVerificationError("self-signed"), "hub.test cannot be reached: its certificate is not trusted"),
        (socket.gaierror(-2, "Name or service not known"), "hub.test cannot be reached: its name is not known"),
        (ConnectionRefusedError(111, "Connection refused"), "hub.test cannot be reached: connection refused"),
        (ssl.SSLError(1, "wrong version number"), "hub.test cannot be reached: no secure connection is possible"),
    ],
)
def test_a_failed_connection_says_why(cause: OSError, text: str) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("") from cause

    with pytest.raises(NetworkError, match=text) as caught:
        ask(Http(transport=httpx.MockTransport(fail)), "https://hub.test/")
    assert not caught.value.transient


def test_a_server_that_answered_before_may_come_back() -> None:
    answers = iter([httpx.Response(200, stream=httpx.ByteStream(b"{}"))])

    def answer(request: httpx.Request) -> httpx.Response:
        for response in answers:
            return response
        raise httpx.ConnectError("") from ConnectionRefusedError(111, "Connection refused")

    http = Http(transport=httpx.MockTransport(answer))
    assert ask(http, "https://hub.test/") == b"{}"
    with pytest.raises(NetworkError) as caught:
        ask(http, "https://hub.test/")
    assert caught.value.transient


def test_nobody_listening_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(NetworkError, match=rf"^127\.0\.0\.1:{port} cannot be reached: connection refused$"):
        ask(Http(), f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    "value", [f"Bearer {TOKEN}\r\nHost: evil", f"Bearer {TOKEN}\n", f"Bearer {TOKEN}\0", "Bearer é", ""]
)
def test_c4_a_credential_that_is_no_header_is_refused_without_being_shown(hub: FakeHub, value: str) -> None:
    with pytest.raises(AccessDenied, match="holds a line break or another character") as caught:
        ask(Http(), f"{hub.url}/api/models/alice/m", value)
    assert TOKEN not in str(caught.value)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("fault", "transient", "text"),
    [
        ({"close": True}, True, "ended the connection early"),
        ({"cut": 10}, True, "ended the connection early"),
        ({"cut": 10, "rst": True}, True, "was lost"),
        ({"garbage": b"\x00\x01\x02 garbage\r\n\r\n"}, False, "does not speak HTTP as it should"),
        ({"badchunk": True}, False, "does not speak HTTP as it should"),
        ({"set": {"Content-Length": ("5", "6")}}, False, "does not speak HTTP as it should"),
        ({"set": {"X-Long": "a" * 1_000_000}}, False, "does not speak HTTP as it should"),
        ({"set": {"X-Many": ("a",) * 20_000}}, False, "does not speak HTTP as it should"),
    ],
)
@pytest.mark.parametrize("path", ["/revision/", "/blob/"])
def test_a_broken_answer_is_one_line_that_says_if_trying_again_helps(
    hub: FakeHub, path: str, fault: dict[str, object], transient: bool, text: str
) -> None:
    hub.fault(path=path, **fault)
    with pytest.raises(NetworkError, match=text) as caught:
        weights(hub)
    assert caught.value.transient is transient


def test_n6_this_computer_is_asked_without_a_proxy(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, hub.evil_url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert b"alice/m" in ask(Http(), f"{hub.url}/api/models/alice/m", None)
    assert hub.of("evil") == []


def test_n6_another_computer_is_asked_through_the_proxy_of_the_environment(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", hub.evil_url.replace("http://", "http://user:" + TOKEN + "@"))
    monkeypatch.setenv("https_proxy", hub.evil_url.replace("http://", "http://user:" + TOKEN + "@"))
    monkeypatch.setenv("NO_PROXY", "localhost")
    hub.fault(role="evil", method="CONNECT", status=407)
    with pytest.raises(NetworkError, match=r"^the proxy does not let hub\.test be reached: check HTTPS_PROXY$"):
        ask(Http(), "https://hub.test/api", "Bearer secret-of-the-hub")
    (request,) = hub.of("evil")
    assert (request.method, request.target) == ("CONNECT", "hub.test:443")
    assert b"secret-of-the-hub" not in request.dump()


def test_n6_netrc_is_not_read(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine localhost login alice password {TOKEN}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    ask(Http(), f"{hub.url}/api/models/alice/m", None)
    assert not any(request.header("Authorization") for request in hub.requests)
