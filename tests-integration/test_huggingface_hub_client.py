"""The genuine client of the Hugging Face hub pulls from the fake hub, and gets what we get.

What it asks for and how it takes the answers is what keeps the fake hub honest.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from metalchat_store import Store
from metalchat_store.remote import RemoteContext
from metalchat_store.remotes.huggingface import HuggingFaceRemote
from metalchat_store.testing import FakeHub
from metalchat_store.testing.hub_state import git_sha1, sha256

huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
errors = pytest.importorskip("huggingface_hub.errors", reason="huggingface_hub has no module of errors")

TOKEN = "hf_canaryCANARYcanaryCANARYcanary12"
WEIGHTS = bytes(range(256)) * 400
FILES = {
    "README.md": b"---\nlicense: mit\n---\n# m\n",
    "config.json": b'{"model_type": "llama"}',
    "empty.txt": b"",
    "model.safetensors": WEIGHTS,
    "tokenizer/special tokens.json": b"[]",
}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add_token(TOKEN, user="alice", role="write")
        hub.add_repo("alice/m", files=FILES, private=True, license="mit")
        yield hub
        huggingface_hub.close_session()


def theirs(hub: FakeHub, cache: Path) -> dict[str, bytes]:
    folder = huggingface_hub.snapshot_download(
        "alice/m", revision="main", endpoint=hub.url, cache_dir=cache, token=TOKEN, max_workers=1
    )
    root = Path(folder)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def ours(hub: FakeHub) -> dict[str, bytes]:
    remote, context = HuggingFaceRemote(), RemoteContext(authorize=lambda _: f"Bearer {TOKEN}")
    try:
        listing = remote.list(f"{hub.url}/alice/m", revision=None, context=context)
        contents = {}
        for file in listing.files:
            with remote.read(listing, file, offset=0, context=context) as body:
                contents[file.path] = b"".join(body)
        return contents
    finally:
        remote.close()


def test_the_store_holds_the_bytes_that_the_genuine_client_got(hub: FakeHub, tmp_path: Path) -> None:
    genuine = theirs(hub, tmp_path / "cache")
    store = Store(tmp_path / "home", environ={})
    pulled = store.pull(f"{hub.url}/alice/m", authorize=lambda _: f"Bearer {TOKEN}")
    folder = store.path(pulled.entry.id)
    held = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "metalchat.toml"}
    assert {"config.json", "model.safetensors"} <= held.keys()
    assert held == {name: genuine[name] for name in held}


def api(hub: FakeHub, token: str | bool = TOKEN) -> "huggingface_hub.HfApi":
    return huggingface_hub.HfApi(endpoint=hub.url, token=token)


def steps(hub: FakeHub) -> list[tuple[str, str, str, int, bool]]:
    """Server, method, kind of address, status, and whether a credential was sent."""
    kinds = ("/resolve-cache/", "/resolve/", "/revision/", "/tree/", "/blob/")
    return [
        (
            request.role,
            request.method,
            next(kind for kind in kinds if kind in request.path),
            request.status,
            request.header("Authorization") is not None,
        )
        for request in hub.requests
    ]


def test_both_clients_get_the_same_bytes(hub: FakeHub, tmp_path: Path) -> None:
    assert theirs(hub, tmp_path) == FILES
    assert ours(hub) == FILES
    assert hub.seen(TOKEN) == []


def test_the_order_of_the_clients_does_not_matter(hub: FakeHub, tmp_path: Path) -> None:
    assert ours(hub) == FILES
    assert theirs(hub, tmp_path) == FILES


def test_both_clients_ask_the_same_routes(hub: FakeHub, tmp_path: Path) -> None:
    theirs(hub, tmp_path)
    genuine = steps(hub)
    hub.requests.clear()
    ours(hub)
    own = steps(hub)
    assert (
        genuine[:2]
        == own[:2]
        == [
            ("hub", "GET", "/revision/", 200, True),
            ("hub", "GET", "/tree/", 200, True),
        ]
    )
    assert {step for step in genuine if step[1] == "GET"} <= set(own) | {("hub", "GET", "/resolve-cache/", 200, True)}
    assert ("hub", "HEAD", "/resolve/", 302, True) in genuine
    assert ("hub", "HEAD", "/resolve/", 307, True) in genuine
    assert ("cdn", "GET", "/blob/", 200, False) in genuine
    assert ("cdn", "GET", "/blob/", 200, False) in own
    assert not any(authorized for role, *_, authorized in genuine + own if role == "cdn")


def test_the_genuine_client_asks_for_the_pull_as_it_was_observed(hub: FakeHub, tmp_path: Path) -> None:
    hub.commit("alice/m", {"config.json": b"{}", "model.safetensors": WEIGHTS})
    theirs(hub, tmp_path)
    assert steps(hub) == [
        ("hub", "GET", "/revision/", 200, True),
        ("hub", "GET", "/tree/", 200, True),
        ("hub", "HEAD", "/resolve/", 307, True),
        ("hub", "HEAD", "/resolve-cache/", 200, True),
        ("hub", "GET", "/resolve-cache/", 200, True),
        ("hub", "HEAD", "/resolve/", 302, True),
        ("cdn", "GET", "/blob/", 200, False),
    ]


def test_the_second_pull_of_the_genuine_client_is_one_request(hub: FakeHub, tmp_path: Path) -> None:
    theirs(hub, tmp_path)
    hub.requests.clear()
    assert theirs(hub, tmp_path) == FILES
    assert steps(hub) == [("hub", "GET", "/revision/", 200, True)]


def test_the_genuine_client_follows_the_pages_of_a_list(hub: FakeHub, tmp_path: Path) -> None:
    hub.state.page_size = 2
    assert theirs(hub, tmp_path) == FILES
    assert sum("/tree/" in request.target for request in hub.requests) == 3


def test_the_genuine_client_resumes_at_the_content_network(hub: FakeHub, tmp_path: Path) -> None:
    hub.fault(role="cdn", cut=50_000)
    assert theirs(hub, tmp_path) == FILES


def test_the_genuine_client_reads_identities_as_we_do(hub: FakeHub) -> None:
    info = api(hub).model_info("alice/m", files_metadata=True)
    assert {file.rfilename: file.size for file in info.siblings} == {path: len(data) for path, data in FILES.items()}
    entries = {item.path: item for item in api(hub).list_repo_tree("alice/m", recursive=True)}
    assert entries["model.safetensors"].lfs.sha256 == sha256(WEIGHTS) == hashlib.sha256(WEIGHTS).hexdigest()
    assert entries["config.json"].blob_id == git_sha1(FILES["config.json"])
    assert entries["tokenizer"].path == "tokenizer"
    assert info.sha == hub.state.repos["models", "alice/m"].refs["refs/heads/main"]
    assert info.card_data.license == "mit"


def test_the_genuine_client_reads_the_metadata_of_both_kinds_of_files(hub: FakeHub) -> None:
    for path, identity in (("model.safetensors", sha256(WEIGHTS)), ("config.json", git_sha1(FILES["config.json"]))):
        url = huggingface_hub.hf_hub_url("alice/m", path, endpoint=hub.url)
        found = huggingface_hub.get_hf_file_metadata(url, token=TOKEN)
        assert (found.etag, found.size) == (identity, len(FILES[path]))
        assert found.commit_hash == hub.state.repos["models", "alice/m"].refs["refs/heads/main"]


def test_the_genuine_client_understands_the_other_routes(hub: FakeHub) -> None:
    first = hub.state.repos["models", "alice/m"].refs["refs/heads/main"]
    second = hub.commit("alice/m", FILES | {"new.txt": b"1"})
    hub.set_ref("alice/m", "refs/tags/v1", first)
    hub.set_ref("alice/m", "refs/pr/1", second)
    refs = api(hub).list_repo_refs("alice/m", include_pull_requests=True)
    assert [(ref.name, ref.target_commit) for ref in refs.branches] == [("main", second)]
    assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1", first)]
    assert [ref.target_commit for ref in refs.pull_requests] == [second]
    assert [commit.commit_id for commit in api(hub).list_repo_commits("alice/m")] == [second, first]
    assert api(hub).whoami()["name"] == "alice"
    assert [item.path for item in api(hub).get_paths_info("alice/m", ["new.txt", "none"])] == ["new.txt"]
    assert [model.id for model in api(hub).list_models(author="alice")] == ["alice/m"]
    api(hub).auth_check("alice/m")
    assert api(hub).model_info("alice/m", revision="refs/pr/1").sha == second


@pytest.mark.parametrize(
    ("repo", "revision", "token", "error"),
    [
        ("alice/none", "main", TOKEN, "RepositoryNotFoundError"),
        ("alice/none", "main", False, "RepositoryNotFoundError"),
        ("alice/m", "main", False, "RepositoryNotFoundError"),
        ("alice/m", "v9", TOKEN, "RevisionNotFoundError"),
        ("alice/disabled", "main", TOKEN, "DisabledRepoError"),
        ("alice/m", "main", "hf_wrong", "HfHubHTTPError"),
    ],
)
def test_the_genuine_client_names_each_error_as_the_hub_means_it(
    hub: FakeHub, repo: str, revision: str, token: str | bool, error: str
) -> None:
    hub.add_repo("alice/disabled", files=FILES)
    hub.state.repos["models", "alice/disabled"].disabled = True
    with pytest.raises(errors.HfHubHTTPError) as caught:
        api(hub, token).model_info(repo, revision=revision)
    assert type(caught.value).__name__ == error


@pytest.mark.parametrize(("token", "granted"), [(False, False), ("hf_bob", False), ("hf_bob", True)])
def test_the_genuine_client_knows_a_gated_model(hub: FakeHub, token: str | bool, granted: bool) -> None:
    hub.add_token("hf_bob", user="bob")
    hub.add_repo("alice/g", files=FILES, gated="auto")
    url = huggingface_hub.hf_hub_url("alice/g", "config.json", endpoint=hub.url)
    if granted:
        hub.grant("alice/g", "bob")
        assert huggingface_hub.get_hf_file_metadata(url, token=token).size == len(FILES["config.json"])
        return
    with pytest.raises(errors.GatedRepoError):
        huggingface_hub.get_hf_file_metadata(url, token=token)


def test_the_genuine_client_knows_a_file_that_does_not_exist(hub: FakeHub) -> None:
    url = huggingface_hub.hf_hub_url("alice/m", "none.json", endpoint=hub.url)
    with pytest.raises(errors.EntryNotFoundError):
        huggingface_hub.get_hf_file_metadata(url, token=TOKEN)
