"""The fake hub itself: what it records, what it holds, and that each fault does what it says."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from metalchat_store.testing import FakeHub
from metalchat_store.testing.hub_server import WEATHER, Weather
from metalchat_store.testing.hub_state import git_sha1, sha256

WEIGHTS = bytes(range(256)) * 20
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(clock=lambda: 1_000_000.0) as hub:
        hub.add_token("hf_alice", user="alice", role="write")
        hub.add_token("hf_bob", user="bob")
        hub.add_repo("alice/m", files=FILES)
        yield hub


@pytest.fixture
def client(hub: FakeHub) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hub.url, trust_env=False) as client:
        yield client


def address(client: httpx.Client) -> str:
    return client.get("/alice/m/resolve/main/model.safetensors").headers["Location"]


def error(response: httpx.Response) -> tuple[int, str | None, str]:
    assert response.json()["error"] == response.headers["X-Error-Message"]
    return response.status_code, response.headers.get("X-Error-Code"), response.headers["X-Error-Message"]


def test_a_hub_that_nobody_uses_has_no_connections() -> None:
    before = threading.active_count()
    with FakeHub() as hub:
        assert hub.connections == 0
        assert hub.requests == []
    assert threading.active_count() == before


def test_closing_ends_connections_that_are_still_open() -> None:
    with FakeHub() as hub:
        parts = urlsplit(hub.url)
        idle = socket.create_connection(("127.0.0.1", parts.port or 0))
        assert hub.url != hub.cdn_url != hub.evil_url
    with idle:
        assert idle.recv(1) == b""


def test_the_three_servers_have_the_names_that_tell_them_apart(hub: FakeHub) -> None:
    assert [urlsplit(url).hostname for url in (hub.url, hub.cdn_url, hub.evil_url)] == [
        "localhost",
        "127.0.0.1",
        "127.0.0.1",
    ]


def test_every_request_is_recorded_as_it_came(hub: FakeHub, client: httpx.Client) -> None:
    client.post("/api/x%20y?a=1", content=b"body", headers={"X-Canary": "secret"})
    (request,) = hub.requests
    assert (request.role, request.method, request.target, request.body) == ("hub", "POST", "/api/x%20y?a=1", b"body")
    assert (request.path, request.query, request.status) == ("/api/x%20y", {"a": "1"}, 404)
    assert request.header("x-canary") == "secret"
    assert hub.seen("secret", roles=("hub",)) == [request]
    assert hub.seen("secret") == []
    assert hub.connections == 1


def test_large_files_are_redirected_and_small_ones_are_cached(hub: FakeHub, client: httpx.Client) -> None:
    commit = hub.state.repos["models", "alice/m"].refs["refs/heads/main"]
    large = client.head("/alice/m/resolve/main/model.safetensors")
    assert large.status_code == 302
    assert large.headers["X-Repo-Commit"] == commit
    assert (large.headers["X-Linked-Etag"], large.headers["X-Linked-Size"]) == (f'"{sha256(WEIGHTS)}"', "5120")
    assert httpx.get(large.headers["Location"], trust_env=False).content == WEIGHTS
    small = client.head(f"/alice/m/resolve/{commit}/config.json")
    assert small.status_code == 307
    assert small.headers["Location"].startswith("/api/resolve-cache/models/alice/m/")
    cached = client.get(small.headers["Location"])
    assert (cached.content, cached.headers["ETag"]) == (b"{}", f'"{git_sha1(b"{}")}"')
    assert cached.headers["X-Repo-Commit"] == commit


def test_a_signed_address_is_refused_when_changed_expired_or_late(hub: FakeHub, client: httpx.Client) -> None:
    good = address(client)
    assert client.get(good).status_code == 200
    for bad in (
        good.replace("Signature=", "Signature=0"),
        good.replace("Expires=1", "Expires=2"),
        good.partition("?")[0],
    ):
        assert client.get(bad).status_code == 403
    hub.expire()
    assert b"Request has expired" in client.get(good).content
    fresh = address(client)
    assert client.get(fresh).status_code == 200
    hub.state.clock = lambda: 1_000_000.0 + 3601
    assert client.get(fresh).status_code == 403


@pytest.mark.parametrize(
    ("asked", "status", "span", "data"),
    [
        ({}, 200, None, WEIGHTS),
        ({"Range": "bytes=10-"}, 206, "bytes 10-5119/5120", WEIGHTS[10:]),
        ({"Range": "bytes=10-19"}, 206, "bytes 10-19/5120", WEIGHTS[10:20]),
        ({"Range": "bytes=5120-"}, 416, "bytes */5120", b""),
        ({"Range": "bytes=10-", "If-Range": f'"{sha256(WEIGHTS)}"'}, 206, "bytes 10-5119/5120", WEIGHTS[10:]),
        ({"Range": "bytes=10-", "If-Range": '"other"'}, 200, None, WEIGHTS),
    ],
)
def test_ranges(
    hub: FakeHub, client: httpx.Client, asked: dict[str, str], status: int, span: str | None, data: bytes
) -> None:
    answer = client.get(address(client), headers=asked)
    assert (answer.status_code, answer.headers.get("Content-Range"), answer.content) == (status, span, data)


def test_the_errors_of_a_hub(hub: FakeHub, client: httpx.Client) -> None:
    hub.add_repo("alice/p", files=FILES, private=True)
    hub.add_repo("alice/g", files=FILES, gated="auto")
    bob = {"Authorization": "Bearer hf_bob"}
    gated = "Access to model alice/g is restricted"
    nobody, nothing = (
        (401, "RepoNotFound", "Invalid username or password."),
        (404, "RepoNotFound", "Repository not found"),
    )
    wrong = {"Authorization": "Bearer hf_no"}
    assert error(client.get("/api/models/alice/none")) == nobody
    assert error(client.get("/api/models/alice/p")) == nobody
    assert error(client.get("/api/models/alice/none", headers=bob)) == nothing
    assert error(client.get("/api/models/alice/p", headers=bob)) == nothing
    assert error(client.get("/api/models/alice/m", headers=wrong))[::2] == (
        401,
        "Invalid credentials in Authorization header",
    )
    assert error(client.get("/api/models/alice/m/revision/v9")) == (404, "RevisionNotFound", "Invalid rev id: v9")
    missing = client.get("/alice/m/resolve/main/none")
    assert error(missing) == (404, "EntryNotFound", "Entry not found")
    assert len(missing.headers["X-Repo-Commit"]) == 40
    assert error(client.get("/alice/g/resolve/main/config.json"))[:2] == (401, "GatedRepo")
    refused = error(client.get("/alice/g/resolve/main/config.json", headers=bob))
    assert refused[:2] == (403, "GatedRepo")
    assert refused[2].startswith(gated)
    assert error(client.get("/api/models/alice/m/auth-check/write", headers=bob))[0] == 403
    assert client.get("/api/models/alice/m/auth-check/write", headers={"Authorization": "Bearer hf_alice"}).is_success
    assert client.get("/api/models/alice/m/unknown").status_code == 404


def test_trees_have_folders_pages_and_the_commit(hub: FakeHub, client: httpx.Client) -> None:
    hub.commit("alice/m", {"a/b/c.txt": b"1", "a/d.txt": b"2", "e.txt": b"3"})
    flat = client.get("/api/models/alice/m/tree/main").json()
    assert [(item["type"], item["path"]) for item in flat] == [("directory", "a"), ("file", "e.txt")]
    inside = client.get("/api/models/alice/m/tree/main/a").json()
    assert [item["path"] for item in inside] == ["a/b", "a/d.txt"]
    hub.state.page_size = 2
    url, paths = "/api/models/alice/m/tree/main?recursive=true", []
    while url:
        page = client.get(url)
        assert len(page.headers["X-Repo-Commit"]) == 40
        paths += [item["path"] for item in page.json()]
        following = re.fullmatch('<(.*)>; rel="next"', page.headers.get("Link", ""))
        url = following[1] if following else ""
    assert paths == ["a", "a/b", "a/b/c.txt", "a/d.txt", "e.txt"]


def test_datasets_and_spaces_have_the_same_routes(hub: FakeHub, client: httpx.Client) -> None:
    for kind in ("datasets", "spaces"):
        hub.add_repo("alice/x", kind=kind, files={"a.txt": b"1"})
        assert client.get(f"/api/{kind}/alice/x").json()["id"] == "alice/x"
        moved = client.get(f"/{kind}/alice/x/resolve/main/a.txt")
        assert client.get(moved.headers["Location"]).content == b"1"
    assert client.get("/api/models/alice/x").status_code == 401


def test_a_renamed_repository_redirects(hub: FakeHub, client: httpx.Client) -> None:
    hub.rename("alice/m", "alice/n")
    moved = client.get("/alice/m/resolve/main/config.json")
    assert (moved.status_code, moved.headers["Location"]) == (307, "/alice/n/resolve/main/config.json")
    assert client.get("/api/models/alice/m").headers["Location"] == "/api/models/alice/n"


def test_a_fault_skips_and_counts(hub: FakeHub, client: httpx.Client) -> None:
    hub.fault(
        path="/api/models/alice/m$", skip=1, times=2, status=503, body=b"no", set={"X-A": ("1", "2")}, drop=("Date",)
    )
    answers = [client.get("/api/models/alice/m") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 503, 503, 200, 200]
    assert answers[1].content == b"no"
    assert answers[1].headers.get_list("X-A") == ["1", "2"]
    assert "Date" not in answers[1].headers
    assert client.get("/api/models/alice/m/revision/main").status_code == 200
    hub.fault(status=500, times=-1)
    hub.faults.clear()
    assert client.get("/api/models/alice/m").status_code == 200


@pytest.mark.parametrize(
    ("fault", "data"),
    [
        ({"flip": 0}, bytes([0x20]) + WEIGHTS[1:]),
        ({"flip": -1}, WEIGHTS[:-1] + bytes([0xFF ^ 0x20])),
        ({"swap": b"other"}, b"other" + WEIGHTS[5:]),
        ({"extra": b"more"}, WEIGHTS + b"more"),
        ({"body": b"another"}, b"another"),
        ({"gzip": True}, WEIGHTS),
        ({"bomb": 1000}, bytes(1000)),
        ({"drip": (1000, 0.0)}, WEIGHTS),
        ({"sleep": 0.001}, WEIGHTS),
        ({"lie": True, "extra": b"more"}, WEIGHTS),
    ],
)
def test_faults_of_a_body(hub: FakeHub, client: httpx.Client, fault: dict[str, object], data: bytes) -> None:
    hub.fault(role="cdn", **fault)
    assert client.get(address(client)).content == data


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"close": True}, httpx.RemoteProtocolError),
        ({"garbage": b"junk\r\n\r\n"}, httpx.RemoteProtocolError),
        ({"badchunk": True}, httpx.RemoteProtocolError),
        ({"cut": 5}, httpx.RemoteProtocolError),
        ({"cut": 5, "rst": True}, httpx.ReadError),
        ({"stall_at": 5}, httpx.ReadTimeout),
    ],
)
def test_faults_of_a_connection(
    hub: FakeHub, client: httpx.Client, fault: dict[str, object], kind: type[Exception]
) -> None:
    hub.fault(role="cdn", **fault)
    with pytest.raises(kind):
        client.get(address(client), timeout=0.1)


def test_a_fault_commits_between_two_requests(hub: FakeHub, client: httpx.Client) -> None:
    first = client.get("/api/models/alice/m").json()["sha"]
    hub.fault(path="/api/models/alice/m$", commit=("alice/m", {"new.txt": b"1"}))
    second = client.get("/api/models/alice/m").json()
    assert second["sha"] != first
    assert [item["rfilename"] for item in second["siblings"]] == ["new.txt"]


def test_heavy_weather_drops_the_same_requests_for_the_same_seed(hub: FakeHub, client: httpx.Client) -> None:
    def outcomes() -> list[bool]:
        hub.weather(Weather(drop=0.3), seed=7)
        found = []
        for _ in range(20):
            try:
                found.append(client.get("/api/models/alice/m").is_success)
            except httpx.RemoteProtocolError:
                found.append(False)
        return found

    first = outcomes()
    assert outcomes() == first
    assert {True, False} == set(first)
    assert WEATHER["heavy"].drop > WEATHER["light"].drop


def test_models_are_searched_by_name_and_owner(hub: FakeHub, client: httpx.Client) -> None:
    hub.add_repo("bob/other", files=FILES, private=True)
    names = [model["id"] for model in client.get("/api/models").json()]
    assert names == ["alice/m"]
    mine = client.get("/api/models?author=bob", headers={"Authorization": "Bearer hf_bob"})
    assert [model["id"] for model in json.loads(mine.content)] == ["bob/other"]
    assert client.get("/api/models?search=zzz").json() == []


@pytest.mark.parametrize(
    "request_",
    [
        b"G\xc3\x8bT / HTTP/1.1\r\n\r\n",
        b"GET /api/models/\xff HTTP/1.1\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    ],
)
def test_a_request_that_is_none_is_answered_with_400(hub: FakeHub, request_: bytes) -> None:
    parts = urlsplit(hub.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
        connection.sendall(request_)
        with connection.makefile("rb") as answer:
            assert answer.read().startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize("query", ["cursor=x", "cursor=-1", "limit=%C2%B2", "limit=0", "cursor=1e3"])
def test_a_page_that_is_no_number_is_answered_with_400(client: httpx.Client, query: str) -> None:
    assert client.get(f"/api/models/alice/m/tree/main?{query}").status_code == 400
    assert client.get("/api/models/alice/m/tree/main?limit=1").status_code == 200
