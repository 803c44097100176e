"""Lists of addresses: each file is what the list says, and a credential goes to its own address."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from metalchat_store import (
    AccessDenied,
    DiskError,
    IntegrityError,
    InvalidRepository,
    NetworkError,
    NotAModel,
    RemoteContext,
    RepositoryNotFound,
    Store,
    StoreError,
)
from metalchat_store.remotes._manifest_file import parse
from metalchat_store.remotes.manifest import ManifestRemote
from metalchat_store.testing import FakeFiles, RemoteContract
from metalchat_store.testing.memory import tiny_model

MODEL = {name: content for name, content in tiny_model(size=50_000).items() if name != "pytorch_model.bin"}


@pytest.fixture
def server() -> Iterator[FakeFiles]:
    with FakeFiles() as files:
        yield files


def store(home: Path, now: float = 0.0) -> Store:
    return Store(home, environ={}, remotes={"manifest": lambda: ManifestRemote(now=lambda: now)}, sleep=lambda _: None)


class TestManifestRemote(RemoteContract):
    @pytest.fixture
    def files(self) -> Mapping[str, bytes]:
        return MODEL

    @pytest.fixture
    def remote(self) -> Iterator[ManifestRemote]:
        remote = ManifestRemote()
        yield remote
        remote.close()

    @pytest.fixture
    def repository(self, server: FakeFiles, files: Mapping[str, bytes]) -> str:
        return server.add_list(server.add_model(files))

    @pytest.fixture
    def missing(self, server: FakeFiles) -> str:
        return f"manifest:{server.url}/nothing.toml"


def test_a_model_is_pulled_from_a_list_in_toml_on_this_computer(home: Path, tmp_path: Path, server: FakeFiles) -> None:
    value = server.add_model(MODEL)
    lines = ["version = 1", 'license = "apache-2.0"', "expires = 2100-01-01T00:00:00Z"]
    for entry in value["file"]:
        lines += ["[[file]]", *(f"{key} = {json.dumps(item)}" for key, item in entry.items())]
    path = tmp_path / "model.toml"
    path.write_text("\n".join(lines))
    for repository in (f"manifest:{path}", f"manifest:{path.as_uri()}"):
        assert store(home).plan(repository).license == "apache-2.0"
    pulled = store(home).pull(f"manifest:{path}")
    assert (pulled.entry.path / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert pulled.entry.spec is not None
    assert pulled.entry.spec.repository == f"manifest:{path}"


def test_addresses_may_be_relative_to_a_list_from_a_server(home: Path, server: FakeFiles) -> None:
    value = server.add_model(MODEL)
    for entry in value["file"]:
        entry["url"] = "m/" + entry["path"]
    assert not store(home).pull(server.add_list(value)).already
    with pytest.raises(NotAModel, match="'url' is not an https address"):
        parse(json.dumps(value).encode(), where="'x'", base=None)


def test_a_list_with_new_addresses_for_the_same_files_is_the_same_state(home: Path, server: FakeFiles) -> None:
    value = server.add_model(MODEL)
    repository = server.add_list(value)
    assert not store(home).pull(repository).already
    for entry in value["file"]:
        entry["url"] += "?signature=other"
    server.add_list(value)
    assert store(home).pull(repository).already


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_is_not_what_the_list_says_is_refused(home: Path, server: FakeFiles, name: str) -> None:
    repository = server.add_list(server.add_model(MODEL))
    content = MODEL[name]
    for other in (content[:-1] + bytes([content[-1] ^ 1]), content + b"x", content[:-1]):
        server.files[f"/m/{name}"] = other
        with pytest.raises((IntegrityError, NetworkError)):
            store(home).pull(repository)
    assert not list((home / "models").iterdir())


def test_a_broken_transfer_goes_on_where_it_stopped(home: Path, server: FakeFiles) -> None:
    repository = server.add_list(server.add_model(MODEL))
    server.fault(path="model.safetensors", cut=20_000)
    pulled = store(home).pull(repository)
    asked = [request.header("Range") for request in server.requests if request.path == "/m/model.safetensors"]
    assert asked == [None, "bytes=20000-"]
    assert not pulled.already


def test_a_credential_goes_to_its_own_address_only(home: Path, server: FakeFiles) -> None:
    value = server.add_model(MODEL)
    server.secrets["/m/model.safetensors"] = "Bearer CANARY"
    for entry in value["file"]:
        if entry["path"] == "config.json":
            entry["url"] = entry["url"].replace(server.url, server.mirror_url)
    own = f"{server.url}/m/model.safetensors"
    server.fault(role="files", path="tokenizer.json", redirect=f"{server.mirror_url}/m/tokenizer.json", times=-1)
    store(home).pull(server.add_list(value), authorize=lambda url: "Bearer CANARY" if url == own else None)
    holders = {request.target for request in server.requests if b"CANARY" in request.dump()}
    assert holders == {"/m/model.safetensors"}
    assert server.of("mirror")


def test_a_file_that_needs_a_credential_says_how_to_add_one(home: Path, server: FakeFiles) -> None:
    repository = server.add_list(server.add_model(MODEL))
    server.secrets["/m/config.json"] = "Bearer CANARY"
    with pytest.raises(AccessDenied, match=rf"metalchat credential add --host {server.url}"):
        store(home).pull(repository)
    with pytest.raises(AccessDenied, match=r"refused the credential for 'config.json'"):
        store(home).pull(repository, authorize=lambda _: "Bearer wrong")


@pytest.mark.parametrize("place", ["list", "file"])
def test_an_address_that_has_expired_is_not_asked(home: Path, server: FakeFiles, place: str) -> None:
    value = server.add_model(MODEL)
    moment = "2026-01-01T00:00:00+01:00"  # 1767222000
    if place == "list":
        value["expires"] = moment
    else:
        value["file"][0]["expires"] = moment
    repository = server.add_list(value)
    assert not store(home / "before", now=1767221999).pull(repository).already
    server.requests.clear()
    with pytest.raises(AccessDenied, match="has expired: get a new list from whoever made it") as caught:
        store(home / "after", now=1767222000).pull(repository)
    assert caught.value.exit_code == 3
    assert f"/m/{value['file'][0]['path']}" not in [request.path for request in server.requests]


def test_signed_addresses_are_in_no_error_and_in_no_file(home: Path, server: FakeFiles) -> None:
    value = server.add_model(MODEL)
    for entry in value["file"]:
        entry["url"] += "?signature=CANARY"
    repository = server.add_list(value)
    for status in (403, 404, 418, 503):
        server.faults.clear()
        server.fault(path="/m/", status=status, times=-1)
        with pytest.raises(StoreError) as caught:
            store(home).pull(repository)
        assert "CANARY" not in str(caught.value)
    server.faults.clear()
    store(home).pull(repository)
    assert not [path for path in home.rglob("*") if path.is_file() and b"CANARY" in path.read_bytes()]


@pytest.mark.parametrize(
    "repository",
    [
        "manifest:relative/model.toml",
        "manifest:model.toml",
        "manifest:http://example.test/model.toml",
        "manifest:ftp://example.test/model.toml",
        "manifest:https://user:CANARY@example.test/model.toml",
        "manifest:https://example.test/model.toml?signature=CANARY",
        "manifest:https://example.test/model.toml#CANARY",
        "manifest:/home/me/model.toml?signature=CANARY",
        "manifest:file://host/model.toml",
        "manifest:https:///model.toml",
    ],
)
def test_what_is_no_address_of_a_list_is_refused(home: Path, repository: str) -> None:
    with pytest.raises(InvalidRepository) as caught:
        store(home).pull(repository)
    assert "CANARY" not in str(caught.value)


def test_a_list_that_is_not_there_is_not_found(home: Path, tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFound, match="does not exist"):
        store(home).pull(f"manifest:{tmp_path / 'nothing.toml'}")
    with pytest.raises(DiskError, match="cannot read"):
        store(home).pull(f"manifest:{tmp_path}")


def test_the_only_revision_of_a_list_is_its_commit(home: Path, server: FakeFiles) -> None:
    repository = server.add_list(server.add_model(MODEL))
    with pytest.raises(RepositoryNotFound, match="has no other revision"):
        store(home).pull(repository, revision="main")
    commit = store(home).plan(repository).commit
    assert store(home).pull(repository, revision=commit).entry.commit == commit


def test_a_pickle_is_refused_and_the_safe_alternative_is_named(home: Path, server: FakeFiles) -> None:
    files = {"config.json": b'{"model_type": "llama"}', "pytorch_model.bin": b"\x80\x02."}
    with pytest.raises(NotAModel, match=r"which can run code and is not read.*metalchat model search"):
        store(home).pull(server.add_list(server.add_model(files)))
    files = {"params.json": b"{}", "consolidated.00.pth": b"\x80\x02."}
    with pytest.raises(NotAModel, match="'metalchat model pull meta:NAME' converts"):
        store(home).pull(server.add_list(server.add_model(files)))


ENTRY = {"path": "a", "url": "https://x.test/a", "size": 1, "sha256": "0" * 64}
BAD: dict[str, Any] = {
    "no version": {"file": [ENTRY]},
    "version 2": {"version": 2, "file": [ENTRY]},
    "version true": {"version": True, "file": [ENTRY]},
    "no files": {"version": 1},
    "an empty list": {"version": 1, "file": []},
    "a table of files": {"version": 1, "file": {}},
    "another key": {"version": 1, "file": [ENTRY], "files": []},
    "a bad licence": {"version": 1, "file": [ENTRY], "license": "\x1b[2J"},
    "a date without zone": {"version": 1, "file": [ENTRY], "expires": "2026-01-01T00:00:00"},
    "no date": {"version": 1, "file": [ENTRY], "expires": "tomorrow"},
    "a number as date": {"version": 1, "file": [ENTRY], "expires": 5},
    "a file that is text": {"version": 1, "file": ["a"]},
    "another key of a file": {"version": 1, "file": [ENTRY | {"mode": 7}]},
    **{f"no {key}": {"version": 1, "file": [{k: v for k, v in ENTRY.items() if k != key}]} for key in ENTRY},
    "a size below": {"version": 1, "file": [ENTRY | {"size": -1}]},
    "a size of text": {"version": 1, "file": [ENTRY | {"size": "1"}]},
    "a size of truth": {"version": 1, "file": [ENTRY | {"size": True}]},
    "a huge size": {"version": 1, "file": [ENTRY | {"size": 1 << 60}]},
    "a short digest": {"version": 1, "file": [ENTRY | {"sha256": "0" * 63}]},
    "a loud digest": {"version": 1, "file": [ENTRY | {"sha256": "A" * 64}]},
    "a file address": {"version": 1, "file": [ENTRY | {"url": "file:///etc/passwd"}]},
    "http": {"version": 1, "file": [ENTRY | {"url": "http://x.test/a"}]},
    "a login": {"version": 1, "file": [ENTRY | {"url": "https://u:CANARY@x.test/a"}]},
    "a fragment": {"version": 1, "file": [ENTRY | {"url": "https://x.test/a#CANARY"}]},
    "a control character": {"version": 1, "file": [ENTRY | {"url": "https://x.test/a\nCANARY"}]},
    "a climbing name": {"version": 1, "file": [ENTRY | {"path": "../a"}]},
    "an absolute name": {"version": 1, "file": [ENTRY | {"path": "/etc/passwd"}]},
    "a name with an escape": {"version": 1, "file": [ENTRY | {"path": "a\x1bb"}]},
    "the same name twice": {"version": 1, "file": [ENTRY, ENTRY]},
    "names that fall together": {"version": 1, "file": [ENTRY, ENTRY | {"path": "A"}]},
}


@pytest.mark.parametrize("name", BAD)
def test_a_list_that_is_not_as_it_should_be_is_refused(name: str) -> None:
    with pytest.raises((NotAModel, IntegrityError)) as caught:
        parse(json.dumps(BAD[name]).encode(), where="'x'", base=None)
    assert caught.value.exit_code == 6
    assert str(caught.value).isprintable()
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\xff", b"[", b"{", b"a = [" + b"[" * 5000, b'{"a":' * 100_000, b"version = 1"])
def test_what_is_neither_toml_nor_json_is_refused(data: bytes) -> None:
    with pytest.raises(NotAModel):
        parse(data, where="'x'", base=None)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/x", "https://localhost/x", "http://[::1]/x"])
def test_a_list_from_another_server_does_not_lead_to_this_computer(url: str) -> None:
    data = json.dumps({"version": 1, "file": [ENTRY | {"url": url}]}).encode()
    with pytest.raises(NotAModel, match="leads from another server to this computer"):
        parse(data, where="'x'", base="https://x.test/list.json")
    for base in (None, "http://localhost:1/list.json"):
        assert parse(data, where="'x'", base=base).files[0].url == url


def test_a_huge_list_is_not_read(home: Path, server: FakeFiles) -> None:
    server.files["/model.json"] = bytes(5 << 20)
    with pytest.raises(NotAModel, match="larger than 4 MiB"):
        store(home).pull(f"manifest:{server.url}/model.json")


def test_a_list_that_changes_during_a_pull_gives_no_mixture(server: FakeFiles) -> None:
    repository = server.add_list(server.add_model(MODEL))
    remote, context = ManifestRemote(), RemoteContext()
    listing = remote.list(repository, revision=None, context=context)
    server.add_list(server.add_model({"config.json": b"other"}, folder="n"))
    remote.list(repository, revision=None, context=context)
    with pytest.raises(NetworkError, match="the list of files has changed: pull again"):
        remote.read(listing, listing.files[0], offset=0, context=context).__enter__()
    remote.close()
