"""Content that models, datasets and spaces have in common is on the disk once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from metalchat_store import Corrupted, Repositories, Store, copy_repository
from metalchat_store.testing import FakeHub, MemoryRemote
from metalchat_store.testing.memory import tiny_model

WEIGHTS = "model.safetensors"
# What a pull of a model would leave out has no place here.
FILES = {name: content for name, content in tiny_model().items() if name in ("config.json", "tokenizer.json", WEIGHTS)}
KINDS = {"model": "", "dataset": "datasets/", "space": "spaces/"}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        for kind in KINDS:
            hub.add_repo("alice/x", kind=f"{kind}s", files=FILES)
        yield hub


def pulled(hub: FakeHub, home: Path, kind: str) -> Path:
    """The folder of the repository that has the content of a model, pulled as that kind."""
    address = f"{hub.url}/{KINDS[kind]}alice/x"
    if kind == "model":
        return Store(home, environ={}).pull(address).entry.path
    return Repositories(home, kind, environ={}).pull(address).kept.path


def bodies(hub: FakeHub) -> list[str]:
    """The requests for content since the last look."""
    found = [request.path for request in hub.requests if "/resolve/" in request.path]
    hub.requests.clear()
    return found


def inodes(*folders: Path) -> list[set[int]]:
    return [{path.stat().st_ino for path in folder.rglob("*") if path.name != "metalchat.toml"} for folder in folders]


def flip(path: Path) -> None:
    """Another byte in the middle, and the same times: what a failing disk does."""
    facts = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(facts.st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    path.chmod(0o444)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


@pytest.mark.parametrize("first", KINDS)
def test_what_one_kind_has_the_others_neither_fetch_nor_copy(hub: FakeHub, home: Path, first: str) -> None:
    folders = [pulled(hub, home, first)]
    assert bodies(hub)
    folders += [pulled(hub, home, kind) for kind in KINDS if kind != first]
    assert bodies(hub) == []
    one, *others = inodes(*folders)
    assert all(one == other for other in others)
    usage = Store(home, environ={}).usage()
    assert usage.datasets + usage.spaces < 10_000 < usage.blobs


def test_a_plan_knows_what_another_kind_has(hub: FakeHub, home: Path) -> None:
    pulled(hub, home, "dataset")
    before = sorted(home.rglob("*"))
    plan = Store(home, environ={}).plan(f"{hub.url}/alice/x")
    assert plan.download_bytes == 0
    assert sorted(home.rglob("*")) == before


def test_content_whose_digest_nobody_tells_is_shared_too(hub: FakeHub, home: Path) -> None:
    folder = pulled(hub, home, "model")
    remote = MemoryRemote(files=FILES, identities="none")
    store = Repositories(home, "dataset", environ={}, remotes={"memory": lambda: remote})
    kept = store.pull("memory://host/org/d").kept
    assert inodes(folder) == inodes(kept.path)


def test_a_file_of_this_computer_that_a_dataset_has_is_not_taken_again(hub: FakeHub, home: Path) -> None:
    dataset = pulled(hub, home, "dataset")
    folder = home.parent / "plain"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    model = Store(home, environ={}).pull(folder.as_uri()).entry
    assert inodes(model.path) == inodes(dataset)


def test_each_kind_is_removed_and_collected_by_itself(hub: FakeHub, home: Path) -> None:
    model, dataset = pulled(hub, home, "model"), pulled(hub, home, "dataset")
    store, datasets = Store(home, environ={}), Repositories(home, "dataset", environ={})
    store.remove(model.name)
    assert store.gc(grace=-1).bytes == 0
    assert datasets.verify(dataset.name).ok
    datasets.remove(dataset.name)
    assert not [path for path in home.rglob("sha256/*/*") if path.is_file()]


def test_what_a_collection_frees_is_told_before(hub: FakeHub, home: Path) -> None:
    folders = {kind: pulled(hub, home, kind) for kind in ("model", "dataset")}
    for kind, folder in folders.items():
        root = home if kind == "model" else home / "datasets" / ".store"
        for record in (root / "snapshots").iterdir():
            record.unlink()
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    store = Store(home, environ={})
    planned = store.gc(grace=-1, dry_run=True)
    assert store.gc(grace=-1) == planned
    assert planned.bytes == sum(map(len, FILES.values()))


def test_S_5_damage_that_keeps_its_times_is_trusted_by_no_kind(hub: FakeHub, home: Path) -> None:
    model, dataset = pulled(hub, home, "model"), pulled(hub, home, "dataset")
    store, datasets = Store(home, environ={}), Repositories(home, "dataset", environ={})
    flip(model / WEIGHTS)
    bodies(hub)
    assert [check.path for check in store.verify(model.name).files if not check.ok] == [WEIGHTS]
    with pytest.raises(Corrupted):
        datasets.path(dataset.name)
    assert pulled(hub, home, "model")
    assert [path.rpartition("/")[2] for path in bodies(hub)] == [WEIGHTS]
    assert store.verify(model.name).ok
    pulled(hub, home, "dataset")
    assert datasets.verify(dataset.name).ok
    assert bodies(hub) == []
    assert inodes(model) == inodes(dataset)


def test_S_5_damage_that_keeps_its_times_is_trusted_by_no_other_model(home: Path) -> None:
    remote = MemoryRemote(files=FILES)
    store = Store(home, environ={}, remotes={"memory": lambda: remote})
    one, two = (store.pull(f"memory://host/org/{name}").entry for name in ("one", "two"))
    flip(one.path / WEIGHTS)
    assert not store.verify(one.id).ok
    with pytest.raises(Corrupted):
        store.path(two.id)
    for name, entry in (("one", one), ("two", two)):
        store.pull(f"memory://host/org/{name}")
        assert store.verify(entry.id).ok
    assert inodes(one.path) == inodes(two.path)


def test_a_repair_does_not_bring_the_same_damage_back(hub: FakeHub, home: Path) -> None:
    model, dataset = pulled(hub, home, "model"), pulled(hub, home, "dataset")
    flip(dataset / WEIGHTS)
    store = Store(home, environ={})
    assert not store.verify(model.name).ok
    repaired = store.repair(model.name)
    assert repaired.verification.ok
    assert repaired.files == (WEIGHTS,)
    assert store.verify(model.name).ok


def test_a_copy_for_the_user_is_never_the_file_of_the_store(hub: FakeHub, home: Path, tmp_path: Path) -> None:
    model = pulled(hub, home, "model")
    copy_repository(home, f"{hub.url}/datasets/alice/x", tmp_path / "mine", kind="dataset", environ={})
    assert inodes(model)[0].isdisjoint(inodes(tmp_path / "mine")[0])
    assert (model / WEIGHTS).stat().st_mode & 0o222 == 0
