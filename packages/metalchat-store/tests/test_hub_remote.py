"""The Hugging Face remote against a hub that behaves: what is listed, what is read, what a person is told."""

from collections.abc import Iterator

import pytest
from metalchat_store.errors import AccessDenied, InvalidRepository, NetworkError, Refused, RepositoryNotFound
from metalchat_store.remote import Listing, Remote, RemoteContext
from metalchat_store.remotes.huggingface import HuggingFaceRemote
from metalchat_store.testing import FakeHub
from metalchat_store.testing.hub_state import git_sha1, sha256

TOKEN = "hf_canaryCANARYcanaryCANARYcanary12"
WEIGHTS = bytes(range(256)) * 20
FILES = {"config.json": b"{}", "empty": b"", "model.safetensors": WEIGHTS, "a b/ü#?%.txt": b"odd name"}
OWNER = RemoteContext(authorize=lambda _: f"Bearer {TOKEN}")
NOBODY = RemoteContext()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add_token(TOKEN, user="alice")
        hub.add_repo("alice/m", files=FILES, license="apache-2.0")
        yield hub


@pytest.fixture
def remote() -> Iterator[HuggingFaceRemote]:
    remote = HuggingFaceRemote()
    yield remote
    remote.close()


def listed(remote: Remote, hub: FakeHub, revision: str | None = None, *, context: RemoteContext = NOBODY) -> Listing:
    return remote.list(f"{hub.url}/alice/m", revision=revision, context=context)


def read(
    remote: Remote,
    listing: Listing,
    path: str,
    *,
    offset: int = 0,
    validator: str | None = None,
    context: RemoteContext = NOBODY,
) -> tuple[int, bytes, str | None]:
    (file,) = (file for file in listing.files if file.path == path)
    with remote.read(listing, file, offset=offset, context=context, validator=validator) as body:
        return body.offset, b"".join(body), body.validator


def test_a_listing_has_size_and_identity_of_every_file(remote: Remote, hub: FakeHub) -> None:
    listing = listed(remote, hub)
    assert listing.repository == f"{hub.url}/alice/m"
    assert listing.commit == hub.state.repos["models", "alice/m"].refs["refs/heads/main"]
    assert listing.license == "apache-2.0"
    assert {file.path: (file.size, file.sha256, file.git_sha1) for file in listing.files} == {
        "config.json": (2, None, git_sha1(b"{}")),
        "empty": (0, None, git_sha1(b"")),
        "model.safetensors": (5120, sha256(WEIGHTS), None),
        "a b/ü#?%.txt": (8, None, git_sha1(b"odd name")),
    }


def test_every_file_is_read_from_its_first_byte(remote: Remote, hub: FakeHub) -> None:
    listing = listed(remote, hub)
    for path, data in FILES.items():
        assert read(remote, listing, path)[:2] == (0, data)


def test_a_pull_asks_for_the_commit_once_and_then_for_that_commit_only(remote: Remote, hub: FakeHub) -> None:
    listing = listed(remote, hub)
    for path in ("config.json", "model.safetensors"):
        read(remote, listing, path)
    sha, blob = listing.commit, sha256(WEIGHTS)
    assert [(request.role, request.method, request.path, request.status) for request in hub.requests] == [
        ("hub", "GET", "/api/models/alice/m/revision/main", 200),
        ("hub", "GET", f"/api/models/alice/m/tree/{sha}", 200),
        ("hub", "GET", f"/alice/m/resolve/{sha}/config.json", 307),
        ("hub", "GET", f"/api/resolve-cache/models/alice/m/{sha}/config.json", 200),
        ("hub", "GET", f"/alice/m/resolve/{sha}/model.safetensors", 302),
        ("cdn", "GET", f"/blob/{blob}", 200),
    ]
    assert hub.connections == 2


@pytest.mark.parametrize("revision", ["v1", "refs/pr/1", "feature/x"])
def test_a_revision_may_be_a_branch_a_tag_or_a_pull_request(remote: Remote, hub: FakeHub, revision: str) -> None:
    main = listed(remote, hub).commit
    names = {"v1": "refs/tags/v1", "refs/pr/1": "refs/pr/1", "feature/x": "refs/heads/feature/x"}
    other = hub.commit("alice/m", {"only.txt": b"1"}, ref=names[revision])
    assert other != main
    assert listed(remote, hub, revision).commit == other
    for address in (f"{hub.url}/alice/m@{revision}", f"{hub.url}/alice/m/tree/{revision}"):
        listing = remote.list(address, revision=None, context=NOBODY)
        assert (listing.commit, [file.path for file in listing.files]) == (other, ["only.txt"])
        assert read(remote, listing, "only.txt")[1] == b"1"
    assert listed(remote, hub, main).commit == main


def test_two_different_revisions_are_an_error_before_any_connection(remote: Remote, hub: FakeHub) -> None:
    with pytest.raises(InvalidRepository, match="the address names the revision 'v1', the option 'v2'"):
        remote.list(f"{hub.url}/alice/m@v1", revision="v2", context=NOBODY)
    assert hub.connections == 0


def test_a_list_of_many_pages_is_read_to_its_end(remote: Remote, hub: FakeHub) -> None:
    hub.state.page_size = 7
    hub.commit("alice/m", {f"{number:03}.txt": b"x" for number in range(50)})
    listing = listed(remote, hub)
    assert [file.path for file in listing.files] == [f"{number:03}.txt" for number in range(50)]
    assert sum("/tree/" in request.target for request in hub.requests) == 8


def test_reading_goes_on_where_it_stopped(remote: Remote, hub: FakeHub) -> None:
    listing = listed(remote, hub)
    _, _, validator = read(remote, listing, "model.safetensors")
    assert validator == f'"{sha256(WEIGHTS)}"'
    assert read(remote, listing, "model.safetensors", offset=1000, validator=validator)[:2] == (1000, WEIGHTS[1000:])
    assert hub.requests[-1].header("Range") == "bytes=1000-"
    assert hub.requests[-1].header("If-Range") == validator
    assert read(remote, listing, "config.json", offset=1)[:2] == (1, b"}")
    count = len(hub.requests)
    assert read(remote, listing, "config.json", offset=2)[:2] == (2, b"")
    assert len(hub.requests) == count


def test_reading_starts_over_when_the_content_is_not_the_same_any_more(remote: Remote, hub: FakeHub) -> None:
    listing = listed(remote, hub)
    assert read(remote, listing, "model.safetensors", offset=1000, validator='"other"')[:2] == (0, WEIGHTS)


@pytest.mark.parametrize(
    "fault",
    [
        {"norange": True},
        {"range_lie": True},
        {"drop": ("Content-Range",)},
        {"set": {"Content-Range": "bytes 1000-5119/*"}},
        {"set": {"Content-Range": "bytes 1000-5118/5119"}},
        {"set": {"Content-Range": "junk"}},
        {"only_status": 206, "norange": True},
        {"status": 416},
    ],
)
def test_reading_starts_over_when_the_server_does_not_continue(
    remote: Remote, hub: FakeHub, fault: dict[str, object]
) -> None:
    listing = listed(remote, hub)
    hub.fault(role="cdn", **fault)
    assert read(remote, listing, "model.safetensors", offset=1000)[:2] == (0, WEIGHTS)


@pytest.mark.parametrize("offset", [0, 1000])
def test_an_expired_address_is_resolved_anew(remote: Remote, hub: FakeHub, offset: int) -> None:
    listing = listed(remote, hub)
    hub.fault(role="cdn", expire=True)
    assert read(remote, listing, "model.safetensors", offset=offset)[:2] == (offset, WEIGHTS[offset:])
    assert [request.status for request in hub.of("cdn")] == [403, 206 if offset else 200]


def test_an_address_that_stays_expired_is_for_later(remote: Remote, hub: FakeHub) -> None:
    listing = listed(remote, hub)
    hub.fault(role="cdn", expire=True, times=-1)
    with pytest.raises(NetworkError, match=r"does not give out 'model\.safetensors' \(403\)") as caught:
        read(remote, listing, "model.safetensors")
    assert caught.value.transient
    assert len(hub.of("cdn")) == 2


def test_a_body_that_ends_early_is_for_later_and_what_came_is_kept(remote: Remote, hub: FakeHub) -> None:
    listing = listed(remote, hub)
    hub.fault(role="cdn", cut=1234)
    (file,) = (file for file in listing.files if file.sha256)
    got = bytearray()

    def collect() -> None:
        with remote.read(listing, file, offset=0, context=NOBODY) as body:
            for chunk in body:
                got.extend(chunk)

    with pytest.raises(NetworkError) as caught:
        collect()
    assert caught.value.transient
    assert bytes(got) == WEIGHTS[:1234]
    assert read(remote, listing, "model.safetensors", offset=1234)[:2] == (1234, WEIGHTS[1234:])


def test_a_private_model_needs_its_token(remote: Remote, hub: FakeHub) -> None:
    hub.add_repo("alice/p", files=FILES, private=True)
    add = f"metalchat credential add --host {hub.url}"
    with pytest.raises(AccessDenied, match=f"'alice/p' does not exist at .* or needs a credential: {add}$"):
        remote.list(f"{hub.url}/alice/p", revision=None, context=NOBODY)
    listing = remote.list(f"{hub.url}/alice/p", revision=None, context=OWNER)
    assert read(remote, listing, "config.json", context=OWNER)[1] == b"{}"
    with pytest.raises(AccessDenied, match=add):
        read(remote, listing, "model.safetensors")


def test_a_gated_model_says_what_to_do(remote: Remote, hub: FakeHub) -> None:
    hub.add_token("hf_bob", user="bob")
    bob = RemoteContext(authorize=lambda _: "Bearer hf_bob")
    hub.add_repo("alice/g", files=FILES, gated="manual")
    listing = remote.list(f"{hub.url}/alice/g", revision=None, context=NOBODY)
    with pytest.raises(AccessDenied, match=f"licence accepted at {hub.url}/alice/g and a credential: metalchat"):
        read(remote, listing, "config.json")
    with pytest.raises(AccessDenied, match=f"ask for access at {hub.url}/alice/g"):
        read(remote, listing, "config.json", context=bob)
    hub.grant("alice/g", "bob")
    assert read(remote, listing, "config.json", context=bob)[1] == b"{}"


def test_a_refused_credential_is_said_to_be_refused(remote: Remote, hub: FakeHub) -> None:
    listing = listed(remote, hub)
    wrong = RemoteContext(authorize=lambda _: "Bearer hf_wrong")
    with pytest.raises(AccessDenied, match=r"refused the credential for 'alice/m' \(is it expired\?\)") as caught:
        listed(remote, hub, context=wrong)
    assert "hf_wrong" not in str(caught.value)
    with pytest.raises(AccessDenied, match="refused the credential for 'alice/m'"):
        read(remote, listing, "config.json", context=wrong)


@pytest.mark.parametrize(
    ("status", "code", "error", "text"),
    [
        (401, "", AccessDenied, "needs a credential"),
        (403, "", AccessDenied, "is denied without a credential"),
        (403, "GatedRepo", AccessDenied, "licence accepted"),
        (404, "RepoNotFound", RepositoryNotFound, "there is no model 'alice/m' at"),
        (404, "RevisionNotFound", RepositoryNotFound, "has no such revision: 'main'"),
        (404, "EntryNotFound", RepositoryNotFound, "has no such file"),
        (404, "", RepositoryNotFound, "there is no model"),
        (400, "", NetworkError, "answered 400"),
        (418, "", NetworkError, "answered 418"),
    ],
)
def test_the_status_and_the_code_decide_what_a_refusal_means(
    remote: Remote, hub: FakeHub, status: int, code: str, error: type[Exception], text: str
) -> None:
    spoiled = {"X-Error-Code": code, "X-Error-Message": "\x1b[31mlies"}
    hub.fault(path="/revision/", status=status, set=spoiled, body=b'{"error":"\x1b[31mlies"}')
    with pytest.raises(error, match=text) as caught:
        listed(remote, hub)
    assert "lies" not in str(caught.value)


def test_a_disabled_model_is_said_to_be_disabled(remote: Remote, hub: FakeHub) -> None:
    hub.state.repos["models", "alice/m"].disabled = True
    with pytest.raises(AccessDenied, match="has disabled 'alice/m'"):
        listed(remote, hub)


def test_unknown_names_are_not_found(remote: Remote, hub: FakeHub) -> None:
    with pytest.raises(RepositoryNotFound, match=f"there is no model 'alice/none' at {hub.url[7:]}$"):
        remote.list(f"{hub.url}/alice/none", revision=None, context=OWNER)
    with pytest.raises(RepositoryNotFound, match="has no such revision: 'v9'"):
        listed(remote, hub, "v9")


def test_s9_a_renamed_model_is_not_followed_by_itself(remote: Remote, hub: FakeHub) -> None:
    hub.rename("alice/m", "mallory/m")
    with pytest.raises(Refused, match=f"'alice/m' is now 'mallory/m': .*, use {hub.url}/mallory/m instead"):
        listed(remote, hub)
    assert len(hub.requests) == 1


def test_a_token_revoked_in_the_middle_denies_access(remote: Remote, hub: FakeHub) -> None:
    listing = listed(remote, hub, context=OWNER)
    hub.revoke_token(TOKEN)
    with pytest.raises(AccessDenied, match="refused the credential"):
        read(remote, listing, "model.safetensors", context=OWNER)


@pytest.mark.parametrize(
    ("info", "license_name"),
    [
        ({"cardData": {"license": "mit"}}, "mit"),
        ({"cardData": {"license": ["mit", "apache-2.0"]}}, "mit OR apache-2.0"),
        ({"cardData": {"license": "other", "license_name": "llama3.2"}}, "llama3.2"),
        ({"cardData": {}, "tags": ["x", "license:gemma"]}, "gemma"),
        ({"cardData": None, "tags": ["license:mit"]}, "mit"),
        ({"tags": []}, None),
        ({}, None),
        ({"cardData": {"license": "\x1b[31m"}}, None),
        ({"cardData": {"license": 5}, "tags": 7}, None),
    ],
)
def test_the_licence_is_what_the_model_declares(
    remote: Remote, hub: FakeHub, info: dict[str, object], license_name: str | None
) -> None:
    import json

    sha = hub.state.repos["models", "alice/m"].refs["refs/heads/main"]
    hub.fault(path="/revision/", body=json.dumps(info | {"sha": sha}).encode())
    assert listed(remote, hub).license == license_name


def test_a_remote_can_be_closed_twice_and_used_again(remote: HuggingFaceRemote, hub: FakeHub) -> None:
    first = listed(remote, hub)
    remote.close()
    remote.close()
    assert listed(remote, hub) == first


def test_files_are_read_from_several_threads(remote: Remote, hub: FakeHub) -> None:
    from concurrent.futures import ThreadPoolExecutor

    listing = listed(remote, hub)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda path: read(remote, listing, path)[1], list(FILES) * 10))
    assert found == list(FILES.values()) * 10
