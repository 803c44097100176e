"""Redirects: what is followed, and what never travels along (threats N-1, N-2)."""

import contextlib
from collections.abc import Iterator

import httpx
import pytest
from metalchat_store._address import Origin, origin_of
from metalchat_store._http import Http
from metalchat_store.errors import NetworkError, StoreError
from metalchat_store.remote import Body, Listing, RemoteContext
from metalchat_store.remotes.huggingface import HuggingFaceRemote
from metalchat_store.testing import FakeHub

TOKEN = "hf_canaryCANARYcanaryCANARYcanary12"
FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 20}
STAGES = {
    "revision": ("hub", "/revision/"),
    "tree": ("hub", "/tree/"),
    "resolve of a git file": ("hub", r"/resolve/.*config\.json"),
    "second hop of a git file": ("hub", "/resolve-cache/"),
    "resolve of a large file": ("hub", r"/resolve/.*safetensors"),
    "content network": ("cdn", "/blob/"),
}
LOCATIONS = {
    "same origin": "/api/models/alice/m/elsewhere",
    "relative": "elsewhere",
    "other host": "{evil}/steal",
    "other port": "http://localhost:{evil_port}/steal",
    "to https": "https://localhost:1/steal",
    "without scheme": "//127.0.0.1:{evil_port}/steal",
    "userinfo": "http://u:p@127.0.0.1:{evil_port}/steal",
    "userinfo of the hub": "http://localhost:{hub_port}@127.0.0.1:{evil_port}/steal",
    "backslash": "http://127.0.0.1:{evil_port}\\@localhost:{hub_port}/steal",
    "another computer over http": "http://192.0.2.1/steal",
    "file": "file:///etc/passwd",
    "ftp": "ftp://127.0.0.1/x",
    "javascript": "javascript:alert(1)",
    "empty": "",
    "malformed": "http://[::1/steal",
    "malformed port": "http://localhost:port/steal",
    "70 kB": "{evil}/" + "a" * 70_000,
    "line break": "{evil}/steal\r\nX-Injected: yes",
    "not ASCII": "{evil}/stéal",
}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add_token(TOKEN, user="alice")
        hub.add_repo("alice/m", files=FILES, private=True)
        yield hub


@pytest.fixture
def remote() -> Iterator[HuggingFaceRemote]:
    remote = HuggingFaceRemote()
    yield remote
    remote.close()


def careless(url: str) -> str:
    """An authorizer that would give the token to anybody."""
    return f"Bearer {TOKEN}"


def everything(remote: HuggingFaceRemote, hub: FakeHub) -> dict[str, bytes]:
    context = RemoteContext(authorize=careless)
    listing = remote.list(f"{hub.url}/alice/m", revision=None, context=context)
    return {file.path: content(remote, listing, file.path, context) for file in listing.files}


def content(remote: HuggingFaceRemote, listing: Listing, path: str, context: RemoteContext) -> bytes:
    file = next(file for file in listing.files if file.path == path)
    with remote.read(listing, file, offset=0, context=context) as body:
        assert isinstance(body, Body)
        return b"".join(body)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("stage", STAGES)
def test_n1_a_token_never_reaches_another_origin(
    hub: FakeHub, remote: HuggingFaceRemote, stage: str, status: int
) -> None:
    role, path = STAGES[stage]
    ports = {"evil": hub.evil_url, "evil_port": hub.evil_url.rpartition(":")[2], "hub_port": hub.url.rpartition(":")[2]}
    for name, location in LOCATIONS.items():
        hub.faults.clear()
        hub.fault(role=role, path=path, redirect=location.format(**ports), status=status, times=-1)
        with pytest.raises(StoreError) as caught:
            everything(remote, hub)
        assert caught.value.exit_code in (4, 5, 6), (name, caught.value)
        assert "\n" not in str(caught.value)
        assert TOKEN not in str(caught.value)
        if role == "hub" and stage in ("revision", "tree") and "evil" in location:
            assert isinstance(caught.value, NetworkError), name
    assert len(hub.requests) > len(LOCATIONS)
    assert hub.seen(TOKEN) == []
    assert not any(request.header("Authorization") for request in hub.of("cdn", "evil"))
    if stage in ("revision", "tree"):
        assert hub.of("evil") == []


@pytest.mark.parametrize("kind", ["file", "ftp", "javascript"])
def test_n1_a_redirect_of_another_type_says_which(hub: FakeHub, remote: HuggingFaceRemote, kind: str) -> None:
    hub.fault(path="/revision/", redirect=LOCATIONS[kind])
    with pytest.raises(NetworkError, match=f"a redirect that is not followed: the address is of type '{kind}'"):
        everything(remote, hub)


def test_n1_an_api_redirect_to_another_server_names_it(hub: FakeHub, remote: HuggingFaceRemote) -> None:
    hub.fault(path="/tree/", redirect=f"{hub.evil_url}/api")
    evil = hub.evil_url.removeprefix("http://")
    with pytest.raises(NetworkError, match=rf"a redirect to another server \({evil}\), which is not followed"):
        everything(remote, hub)


def test_bytes_may_come_from_any_server_and_the_digest_decides(hub: FakeHub, remote: HuggingFaceRemote) -> None:
    digest = next(iter(hub.state.blobs))
    hub.fault(role="cdn", redirect=f"{hub.evil_url}/blob/{digest}")
    assert everything(remote, hub) == FILES
    assert len(hub.of("evil")) == 1


def test_n1_a_way_back_to_the_hub_carries_no_token_any_more(hub: FakeHub, remote: HuggingFaceRemote) -> None:
    hub.fault(role="cdn", redirect=f"{hub.url}/api/whoami-v2")
    with pytest.raises(StoreError):
        everything(remote, hub)
    last = hub.requests[-1]
    assert (last.role, last.path, last.header("Authorization")) == ("hub", "/api/whoami-v2", None)


def test_n2_another_server_sees_none_but_the_plain_headers(hub: FakeHub, remote: HuggingFaceRemote) -> None:
    digest = next(iter(hub.state.blobs))
    hub.fault(
        role="hub", times=-1, path="/(revision|tree|resolve)/.*(main|true|config)", set={"Set-Cookie": "c=secret"}
    )
    hub.fault(
        role="hub", path="/resolve/.*safetensors", redirect=f"{hub.evil_url}/blob/{digest}", set={"Set-Cookie": "c=s"}
    )
    assert everything(remote, hub) == FILES
    (request,) = hub.of("evil")
    assert {name.lower() for name, _ in request.headers} <= {
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "range",
        "connection",
    }
    assert not any(request.header("Cookie") for request in hub.requests)


def test_ten_redirects_are_followed_and_the_eleventh_is_not(hub: FakeHub, remote: HuggingFaceRemote) -> None:
    hub.fault(path="/revision/", redirect="/api/models/alice/m/revision/main", times=10)
    assert everything(remote, hub) == FILES
    hub.faults.clear()
    hub.requests.clear()
    hub.fault(path="/revision/", redirect="/api/models/alice/m/revision/main", times=-1)
    with pytest.raises(NetworkError, match="more than 10 redirects"):
        everything(remote, hub)
    assert len(hub.requests) == 11


def answering(replies: dict[str, httpx.Response], log: list[httpx.Request]) -> Http:
    def handle(request: httpx.Request) -> httpx.Response:
        log.append(request)
        return replies[str(request.url)]

    return Http(transport=httpx.MockTransport(handle))


def test_n1_a_redirect_from_https_to_http_is_not_followed() -> None:
    log: list[httpx.Request] = []
    to = {"Location": "http://localhost:9/x"}
    http = answering({"https://hub.test/a": httpx.Response(302, headers=to)}, log)
    with pytest.raises(NetworkError, match="leads from https to http"), opened(http, "https://hub.test/a"):
        pass
    assert len(log) == 1


@pytest.mark.parametrize(
    ("first", "second", "authorized"),
    [
        ("https://hub.test/a", "https://hub.test/b", True),
        ("https://hub.test/a", "https://hub.test:443/b", True),
        ("https://hub.test/a", "https://hub.test:444/b", False),
        ("https://hub.test/a", "https://sub.hub.test/b", False),
        ("https://hub.test/a", "https://hub.test.evil.test/b", False),
        ("http://localhost:80/a", "https://localhost/b", False),
    ],
)
def test_n1_authorization_needs_scheme_host_and_port_to_be_equal(first: str, second: str, authorized: bool) -> None:
    log: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        log.append(request)
        return (
            httpx.Response(302, headers={"Location": second})
            if request.url.path == "/a"
            else httpx.Response(200, stream=httpx.ByteStream(b""))
        )

    with opened(Http(transport=httpx.MockTransport(handle)), first) as origin:
        assert origin == origin_of(second)
    assert [("authorization" in request.headers) for request in log] == [True, authorized]


@contextlib.contextmanager
def opened(http: Http, url: str) -> Iterator[Origin]:
    try:
        with http.open(url, home=origin_of(url), authorize=careless) as stream:
            assert b"".join(stream.chunks) == b""
            yield stream.origin
    finally:
        http.close()
