"""Damage is found, whatever it is, and undone by fetching nothing else."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from metalchat_store import Corrupted, Entry, IntegrityError, NetworkError, RepositoryNotFound, Store
from metalchat_store._layout import Layout
from metalchat_store.checks import examine
from metalchat_store.snapshots import Snapshots
from metalchat_store.testing import MemoryRemote
from metalchat_store.testing.memory import tiny_model

Make = Callable[[MemoryRemote], Store]
URL = "memory://host/org/m"
SEED = 20_261_121
FLIPS = 10_000


@pytest.fixture(params=["sha256", "git", "none"])
def remote(request: pytest.FixtureRequest) -> MemoryRemote:
    return MemoryRemote(files=tiny_model(shards=2), identities=request.param)


@pytest.fixture
def store(make_store: Make, remote: MemoryRemote) -> Store:
    return make_store(remote)


@pytest.fixture
def entry(store: Store, remote: MemoryRemote) -> Entry:
    entry = store.pull(URL).entry
    remote.reads.clear()
    return entry


def shard(entry: Entry, number: int = 1) -> Path:
    path = entry.path / f"model-{number:05}-of-00002.safetensors"
    path.chmod(0o600)
    return path


def test_S_5_ten_thousand_flipped_bytes_are_all_found(make_store: Make) -> None:
    """One bit anywhere in any file, found without help from size, time or inode."""
    files = {name: content[:4000] for name, content in tiny_model(size=4000).items()}
    store = make_store(MemoryRemote(files=files))
    entry = store.pull(URL).entry
    snapshot = Snapshots(Layout(store.home)).read(entry.id, entry.commit)
    assert snapshot is not None
    noise = random.Random(SEED)
    descriptors = {}
    for file in snapshot.files:
        (entry.path / file.path).chmod(0o600)
        descriptors[file.path] = os.open(entry.path / file.path, os.O_RDWR)
    places = [(file.path, place) for file in snapshot.files for place in range(file.size)]
    found = 0
    for path, place in noise.choices(places, k=FLIPS):
        descriptor = descriptors[path]
        byte = os.pread(descriptor, 1, place)
        os.pwrite(descriptor, bytes([byte[0] ^ 1 << noise.randrange(8)]), place)
        found += examine(entry.path, snapshot, everything=True).damaged == (path,)
        os.pwrite(descriptor, byte, place)
    for descriptor in descriptors.values():
        os.close(descriptor)
    assert found == FLIPS
    assert store.verify(entry.id).ok


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def swap(path: Path) -> None:
    other = path.with_name(path.name.replace("00001-of", "00002-of"))
    path.rename(path.with_suffix(".x"))
    other.rename(path)
    path.with_suffix(".x").rename(other)


def linked(path: Path) -> None:
    copy = path.parents[2] / "copy"
    shutil.copyfile(path, copy)
    path.unlink()
    path.symlink_to(copy)


def replaced(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(bytes(len(data)))


HARMS = {
    "flipped": flip,
    "truncated": lambda path: os.truncate(path, 7),
    "empty": lambda path: os.truncate(path, 0),
    "extended": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "swapped": swap,
    "missing": Path.unlink,
    "a link": linked,
    "replaced": replaced,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("harm", HARMS)
def test_S_5_every_damage_is_found_and_only_it_is_repaired(
    store: Store, entry: Entry, remote: MemoryRemote, harm: str
) -> None:
    HARMS[harm](shard(entry))
    bad = {check.path for check in store.verify(entry.id).files if not check.ok}
    assert "model-00001-of-00002.safetensors" in bad
    assert len(bad) == (2 if harm == "swapped" else 1)
    with pytest.raises(Corrupted):
        store.path(entry.id)
    repaired = store.repair(entry.id)
    assert repaired.verification.ok
    assert set(repaired.files) == bad
    assert {path for path, _ in remote.reads} <= bad
    assert store.path(entry.id) == entry.path
    assert store.verify(entry.id).ok
    assert store.list()[0].damaged is None
    assert repaired.fetched_bytes == (200_000 if remote.reads else 0)


def test_what_the_blobs_have_whole_is_not_fetched(store: Store, entry: Entry, remote: MemoryRemote) -> None:
    for harm in (Path.unlink, replaced, linked):
        harm(shard(entry))
        assert store.repair(entry.id).fetched_bytes == 0
    assert remote.reads == []
    assert not (store.home / "quarantine").exists()


def test_damaged_content_waits_in_quarantine(store: Store, entry: Entry) -> None:
    flip(shard(entry))
    repaired = store.repair(entry.id)
    assert repaired.quarantined == 200_000
    (bad,) = (store.home / "quarantine").iterdir()
    assert bad.stat().st_size == 200_000
    assert store.usage().quarantine == 200_000


def test_a_whole_model_costs_nothing(store: Store, entry: Entry, remote: MemoryRemote) -> None:
    repaired = store.repair(entry.id)
    assert repaired.verification.ok
    assert (repaired.files, repaired.fetched_bytes, remote.reads, remote.lists) == ((), 0, [], 1)


def test_another_model_with_the_same_content_repairs_itself_without_network(make_store: Make) -> None:
    remote = MemoryRemote(files=tiny_model(shards=2))
    store = make_store(remote)
    entry = store.pull(URL).entry
    other = store.pull("memory://host/org/other").entry
    flip(shard(entry))
    assert store.repair(entry.id).fetched_bytes == 200_000
    remote.reads.clear()
    assert not store.verify(other.id).ok
    assert store.repair(other.id).fetched_bytes == 0
    assert store.verify(other.id).ok
    assert remote.reads == []


def test_the_source_must_have_the_same_content(store: Store, entry: Entry, remote: MemoryRemote) -> None:
    commit = entry.commit
    flip(shard(entry))
    remote.commit = commit
    remote.files = tiny_model(seed=2, shards=2)
    with pytest.raises(IntegrityError, match="is not at 'memory://host/org/m' any more as it was pulled"):
        store.repair(entry.id)
    assert not store.verify(entry.id).ok
    remote.files = tiny_model(shards=2)
    assert store.repair(entry.id).verification.ok


def test_the_source_must_have_the_commit(store: Store, entry: Entry, remote: MemoryRemote) -> None:
    flip(shard(entry))
    remote.files = tiny_model(seed=2, shards=2)
    with pytest.raises(RepositoryNotFound):
        store.repair(entry.id)


def test_a_repair_that_fails_can_be_repeated(store: Store, entry: Entry, remote: MemoryRemote) -> None:
    flip(shard(entry))
    remote.listing_faults = [NetworkError("no way")]
    with pytest.raises(NetworkError):
        store.repair(entry.id)
    assert store.repair(entry.id).verification.ok


def test_what_the_user_wrote_stays(store: Store, entry: Entry) -> None:
    manifest = entry.path / "metalchat.toml"
    manifest.write_text(manifest.read_text() + "\n# mine\n[inference]\nmax_sequence_length = 7\n")
    (entry.path / "system.md").write_text("Be brief.")
    flip(shard(entry))
    assert store.repair(entry.id).verification.ok
    assert manifest.read_text().endswith("# mine\n[inference]\nmax_sequence_length = 7\n")
    assert (entry.path / "system.md").read_text() == "Be brief."


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: (path / "metalchat.toml").unlink(),
        lambda path: (path / "metalchat.toml").write_text("a = 1\n"),
        lambda path: (shutil.rmtree(path), path.write_text("what")),
        lambda path: [(inner.chmod(0o600), inner.unlink()) for inner in path.iterdir()],
    ],
)
def test_an_entry_that_does_not_say_what_it_is_says_it_again(
    store: Store, entry: Entry, remote: MemoryRemote, harm
) -> None:
    harm(entry.path)
    assert store.list()[0].spec is None
    repaired = store.repair(entry.id)
    assert repaired.verification.ok
    assert (repaired.entry.spec, repaired.entry.commit) == (entry.spec, entry.commit)
    assert remote.reads == []


def test_a_lost_record_is_made_again(store: Store, entry: Entry, remote: MemoryRemote) -> None:
    (store.home / "snapshots" / f"{entry.id}@{entry.commit}.json").unlink()
    flip(shard(entry))
    repaired = store.repair(entry.id)
    assert repaired.verification.ok
    assert store.path(entry.id) == entry.path
    assert store.plan_update(entry.id).up_to_date


def test_a_folder_repairs_what_it_still_has(tmp_path: Path, make_store: Make) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in tiny_model().items():
        (folder / name).write_bytes(content)
    store = make_store(MemoryRemote(files={}))
    entry = store.pull(folder.as_uri()).entry
    config = entry.path / "config.json"
    config.unlink()
    blob = next(path for path in (store.home / "blobs").rglob("*") if path.is_file() and path.stat().st_size < 100)
    blob.unlink()
    assert store.repair(entry.id).verification.ok
    (folder / "model.safetensors").write_bytes(bytes(200_000))
    if not store.verify(entry.id).ok:  # a hard link; a clone does not change
        with pytest.raises(IntegrityError, match="Pull it again"):
            store.repair(entry.id)
