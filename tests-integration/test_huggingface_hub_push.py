"""The genuine client of the Hugging Face hub reads what we pushed, and we read what it pushed, on the fake hub."""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from metalchat_store import push
from metalchat_store.remote import RemoteContext
from metalchat_store.remotes.huggingface import HuggingFaceRemote
from metalchat_store.testing import FakeHub

huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
errors = pytest.importorskip("huggingface_hub.errors", reason="huggingface_hub has no module of errors")

# How the genuine client hands parts to its own HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TOKEN = "hf_canaryCANARYcanaryCANARYcanary12"
FILES = {
    "README.md": b"---\nlicense: mit\n---\n# m\n",
    "config.json": b'{"model_type": "llama"}',
    "empty.txt": b"",
    "data/deep/er/table.csv": bytes(range(256)) * 40,
    "model.safetensors": bytes(range(256)) * 400,
    "name with space.bin": b"\x00\x01\x02",
}
KINDS = ["model", "dataset", "space"]
PAGES = {"model": "", "dataset": "datasets/", "space": "spaces/"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr(importlib.import_module("huggingface_hub.constants"), "HF_HUB_DISABLE_XET", True)
    with FakeHub() as hub:
        hub.add_token(TOKEN, user="alice", role="write")
        hub.routes.chunk_size = 30_000
        yield hub
        huggingface_hub.close_session()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "folder"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def address(hub: FakeHub, kind: str) -> str:
    return f"{hub.url}/{PAGES[kind]}alice/new"


def authorize(_url: str) -> str:
    return f"Bearer {TOKEN}"


def theirs(hub: FakeHub, kind: str, cache: Path, revision: str = "main") -> dict[str, bytes]:
    """All files of the repository, as the genuine client gets them."""
    found = huggingface_hub.snapshot_download(
        "alice/new", repo_type=kind, revision=revision, endpoint=hub.url, cache_dir=cache, token=TOKEN, max_workers=1
    )
    root = Path(found)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def ours(hub: FakeHub, kind: str) -> dict[str, bytes]:
    """All files of the repository, as we get them."""
    remote, context = HuggingFaceRemote(), RemoteContext(authorize=authorize, kind=kind)
    try:
        listing = remote.list(address(hub, kind), revision=None, context=context)
        contents = {}
        for file in listing.files:
            with remote.read(listing, file, offset=0, context=context) as body:
                contents[file.path] = b"".join(body)
        return contents
    finally:
        remote.close()


def api(hub: FakeHub) -> "huggingface_hub.HfApi":
    return huggingface_hub.HfApi(endpoint=hub.url, token=TOKEN)


def sdk_of(kind: str) -> str | None:
    return "static" if kind == "space" else None


def pushed(hub: FakeHub, folder: Path, kind: str):
    return push(folder, address(hub, kind), kind=kind, authorize=authorize, create=True, sdk=sdk_of(kind), environ={})


def uploads(hub: FakeHub) -> list[tuple[str, str]]:
    """Method and kind of address of every request that sends something."""
    kinds = ("repos/create", "validate-yaml", "preupload", "objects/batch", "/upload/", "/part/", "complete_multipart")
    kinds += ("objects/verify", "/commit/")
    found = [
        (request.method, next((kind for kind in kinds if kind in request.path), request.path))
        for request in hub.requests
        if request.method in ("POST", "PUT")
    ]
    return [step for step in found if step[1] != "validate-yaml"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_genuine_client_reads_what_we_pushed(hub: FakeHub, folder: Path, tmp_path: Path, kind: str) -> None:
    result = pushed(hub, folder, kind)
    got = theirs(hub, kind, tmp_path / "cache")
    del got[".gitattributes"]
    assert got == FILES
    assert api(hub).repo_info("alice/new", repo_type=kind).sha == result.commit
    assert hub.seen(TOKEN) == []


@pytest.mark.parametrize("kind", KINDS)
def test_we_read_what_the_genuine_client_pushed(hub: FakeHub, folder: Path, kind: str) -> None:
    api(hub).create_repo("alice/new", repo_type=kind, space_sdk=sdk_of(kind))
    api(hub).upload_folder(repo_id="alice/new", repo_type=kind, folder_path=folder)
    got = ours(hub, kind)
    del got[".gitattributes"]
    assert got == FILES


def test_both_clients_send_the_same_requests_and_leave_the_same_files(hub: FakeHub, folder: Path) -> None:
    pushed(hub, folder, "model")
    own = uploads(hub)
    own_files = hub.contents("alice/new")
    del hub.state.repos["models", "alice/new"]
    hub.state.blobs.clear()
    hub.requests.clear()
    api(hub).create_repo("alice/new")
    api(hub).upload_folder(repo_id="alice/new", folder_path=folder)
    genuine = uploads(hub)
    assert hub.contents("alice/new") == own_files
    assert own[0] == ("POST", "preupload")  # for the plan, before the repository is there
    assert sorted(own[1:]) == sorted(genuine)
    assert [step for step, _ in zip(own[1:], genuine, strict=True)][-1] == genuine[-1] == ("POST", "/commit/")


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_what_one_client_pushed_is_nothing_new_to_the_other(hub: FakeHub, folder: Path, first: str) -> None:
    if first == "ours":
        pushed(hub, folder, "model")
    else:
        api(hub).create_repo("alice/new")
        api(hub).upload_folder(repo_id="alice/new", folder_path=folder)
    hub.requests.clear()
    if first == "ours":
        api(hub).upload_folder(repo_id="alice/new", folder_path=folder)
    else:
        assert pushed(hub, folder, "model").already
    assert not any(request.method == "PUT" or "/commit/" in request.path for request in hub.requests)


def test_the_genuine_client_sees_our_pull_request(hub: FakeHub, folder: Path, tmp_path: Path) -> None:
    api(hub).create_repo("alice/new")
    result = push(folder, address(hub, "model"), authorize=authorize, pull_request=True, environ={})
    assert result.pull_request == f"{hub.url}/alice/new/discussions/1"
    refs = api(hub).list_repo_refs("alice/new", include_pull_requests=True)
    assert [(ref.ref, ref.target_commit) for ref in refs.pull_requests] == [("refs/pr/1", result.commit)]
    assert theirs(hub, "model", tmp_path, "refs/pr/1").keys() >= FILES.keys()
    assert hub.contents("alice/new").keys() == {".gitattributes"}


def test_the_genuine_client_meets_the_errors_that_it_knows(hub: FakeHub, folder: Path) -> None:
    hub.add_token("hf_reads", user="alice", role="read")
    reader = huggingface_hub.HfApi(endpoint=hub.url, token="hf_reads")
    with pytest.raises(errors.HfHubHTTPError, match="403"):
        reader.create_repo("alice/new")
    api(hub).create_repo("alice/new")
    with pytest.raises(errors.HfHubHTTPError, match="409"):
        api(hub).create_repo("alice/new")
    api(hub).create_repo("alice/new", exist_ok=True)
    with pytest.raises(errors.HfHubHTTPError, match="403"):
        reader.upload_folder(repo_id="alice/new", folder_path=folder)
    head = hub.state.repos["models", "alice/new"].refs["refs/heads/main"]
    hub.commit("alice/new", {"other.txt": b"1"})
    with pytest.raises(errors.HfHubHTTPError, match="412"):
        api(hub).upload_folder(repo_id="alice/new", folder_path=folder, parent_commit=head)
    api(hub).delete_file("other.txt", repo_id="alice/new")
    assert hub.contents("alice/new") == {}
