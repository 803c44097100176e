"""A search asks the hub once, believes nothing without looking at it, and sends a credential nowhere else."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from metalchat_store import AccessDenied, Hit, InvalidRepository, NetworkError, Store
from metalchat_store.testing import FakeHub


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add_repo("org/small-llama", files={"a": b""}, license="apache-2.0", downloads=7)
        hub.add_repo("meta/Llama-1B", files={"a": b""}, license="llama3.2", gated="manual", downloads=12_345)
        hub.add_repo("org/qwen", files={"a": b""}, downloads=99_999)
        hub.add_repo("alice/llama-secret", files={"a": b""}, private=True, downloads=1)
        hub.add_token("hf_alice", user="alice")
        yield hub


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home, environ={}, sleep=lambda _: None)


def test_the_most_downloaded_models_come_first(store: Store, hub: FakeHub, home: Path) -> None:
    first, second = store.search("llama", hub=hub.url)
    assert first == Hit(
        repository=f"{hub.url}/meta/Llama-1B",
        name="meta/Llama-1B",
        downloads=12_345,
        license="llama3.2",
        gated=True,
        updated="2026-01-01T00:00:00.000Z",
    )
    assert (second.name, second.license, second.gated) == ("org/small-llama", "apache-2.0", False)
    assert not home.exists()
    assert len(hub.requests) == 1


def test_a_limit_is_asked_for_and_kept(store: Store, hub: FakeHub) -> None:
    assert [hit.name for hit in store.search("a", hub=hub.url, limit=1)] == ["meta/Llama-1B"]
    assert hub.requests[0].query["limit"] == "1"
    hub.fault(body=json.dumps([{"id": f"org/{number}"} for number in range(50)]).encode(), status=200)
    assert len(store.search("a", hub=hub.url, limit=3)) == 3


def test_a_credential_shows_what_is_private(store: Store, hub: FakeHub) -> None:
    assert "alice/llama-secret" not in [hit.name for hit in store.search("llama", hub=hub.url)]
    found = store.search("llama", hub=hub.url, authorize=lambda _: "Bearer hf_alice")
    assert "alice/llama-secret" in [hit.name for hit in found]


def test_the_hub_of_the_environment_is_asked(home: Path, hub: FakeHub) -> None:
    assert len(Store(home, environ={"HF_ENDPOINT": hub.url}).search("qwen")) == 1


def test_nothing_found_is_no_error(store: Store, hub: FakeHub) -> None:
    assert store.search("nothing like it", hub=hub.url) == ()


def test_a_query_cannot_add_parameters(store: Store, hub: FakeHub) -> None:
    store.search("a&limit=1000#x?y/../z", hub=hub.url)
    assert hub.requests[0].query["search"] == "a&limit=1000#x?y/../z"
    assert hub.requests[0].query["limit"] == "20"


@pytest.mark.parametrize("query", ["", "  ", "a\nb", "\x1b[2J", "a" * 201, "\u202e"])
def test_a_query_that_cannot_be_seen_is_refused(store: Store, hub: FakeHub, query: str) -> None:
    with pytest.raises(InvalidRepository, match="a search is for visible characters"):
        store.search(query, hub=hub.url)
    assert hub.requests == []


@pytest.mark.parametrize("limit", [0, -1, 101])
def test_a_limit_has_limits(store: Store, hub: FakeHub, limit: int) -> None:
    with pytest.raises(InvalidRepository, match="1 to 100 models"):
        store.search("a", hub=hub.url, limit=limit)


@pytest.mark.parametrize("address", ["ftp://x", "http://example.test", "https://u:CANARY@x", "https:///x", "x"])
def test_what_is_no_hub_is_refused(store: Store, address: str) -> None:
    with pytest.raises(InvalidRepository, match="the address of the hub is not valid") as caught:
        store.search("a", hub=address)
    assert "CANARY" not in str(caught.value)


def test_a_redirect_to_another_server_is_not_followed(store: Store, hub: FakeHub) -> None:
    hub.fault(redirect=f"{hub.evil_url}/api/models", times=-1)
    with pytest.raises(NetworkError, match="which is not followed"):
        store.search("a", hub=hub.url, authorize=lambda _: "Bearer hf_alice")
    assert hub.of("evil") == []


def test_a_busy_hub_is_asked_again(store: Store, hub: FakeHub) -> None:
    hub.fault(status=503, times=2)
    assert store.search("qwen", hub=hub.url)
    hub.fault(status=429, set={"Retry-After": "86400"}, times=-1)
    with pytest.raises(NetworkError, match="asks to wait 24 h"):
        store.search("qwen", hub=hub.url)


def test_a_refused_credential_says_so(store: Store, hub: FakeHub) -> None:
    with pytest.raises(AccessDenied, match="refused the search"):
        store.search("a", hub=hub.url, authorize=lambda _: "Bearer hf_wrong")


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"{}",
        b"null",
        b"1",
        b"[1]",
        b"[{}]",
        b'[{"id": 5}]',
        b'[{"id": "' + b"a" * 300 + b'"}]',
        b'[{"id": "\\ud800"}]',
        b'[{"id": "a", "id": "b"}]',
        b"[NaN]",
        b"[" * 100_000,
        b"",
    ],
)
def test_an_answer_that_no_hub_gives_is_an_error_of_one_line(store: Store, hub: FakeHub, body: bytes) -> None:
    hub.fault(status=200, body=body)
    with pytest.raises(NetworkError, match="did not answer like a Hugging Face hub") as caught:
        store.search("a", hub=hub.url)
    assert str(caught.value).isprintable()


def test_what_is_said_of_a_model_is_checked(store: Store, hub: FakeHub) -> None:
    lies = {"id": "org/m", "downloads": True, "gated": 5, "tags": ["license:\x1b[2J", 5], "lastModified": "now"}
    hub.fault(status=200, body=json.dumps([lies]).encode())
    assert store.search("a", hub=hub.url) == (Hit(repository=f"{hub.url}/org/m", name="org/m"),)
