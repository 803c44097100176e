"""Who keeps what, where the bytes are, and what is pinned."""

import os
from pathlib import Path

import pytest
from metalchat_store import AmbiguousModel, Entry, ModelNotFound, NotFound, Store
from metalchat_store.testing import MemoryRemote
from metalchat_store.testing.memory import tiny_model

BASE = "memory://host/"
URL = BASE + "org/m"


@pytest.fixture
def remote() -> MemoryRemote:
    return MemoryRemote(files=tiny_model())


@pytest.fixture
def store(home: Path, remote: MemoryRemote) -> Store:
    return Store(home, environ={}, remotes={"memory": lambda: remote}, sleep=lambda _: None)


@pytest.fixture
def entry(store: Store) -> Entry:
    return store.pull(URL).entry


def test_why_names_models_states_manifests_locks_and_pins(
    store: Store, entry: Entry, remote: MemoryRemote, tmp_path: Path
) -> None:
    other = store.pull(BASE + "org/other").entry
    manifest = tmp_path / "metalchat.toml"
    manifest.write_text((entry.path / "metalchat.toml").read_text())
    store.register(manifest, entry.id)
    store.lock(entry.id).write(tmp_path / "metalchat.lock")
    store.pin(other.id)
    (digest,) = (file.digest for file in store.lock(entry.id).files if file.path == "model.safetensors")
    remote.files = tiny_model(seed=2)
    newer = store.update(entry.id, consent=True).entry
    found = store.why(digest.hex[:9])
    assert {(keeper.id, keeper.commit, keeper.path, keeper.current) for keeper in found} == {
        (entry.id, entry.commit, "model.safetensors", False),
        (other.id, other.commit, "model.safetensors", True),
    }
    roots = {(root.kind, root.path) for keeper in found for root in keeper.roots}
    assert roots == {("manifest", manifest), ("lock", tmp_path / "metalchat.lock"), ("pin", None)}
    assert {keeper.size for keeper in found} == {200_000}
    (by_entry,) = store.why(str(newer.path / "model.safetensors"))
    assert (by_entry.id, by_entry.commit, by_entry.current) == (entry.id, newer.commit, True)
    assert store.why(str(store.home / "blobs" / "sha256" / digest.hex[:2] / digest.hex[2:])) == found
    assert {str(root) for root in found[0].roots + found[1].roots} == {
        f"'{manifest}' selects it",
        f"'{tmp_path / 'metalchat.lock'}' locks it",
        "it is pinned",
    }


def test_why_of_what_nobody_keeps_is_empty_and_of_nothing_an_error(store: Store, entry: Entry) -> None:
    for tail in "01":
        stray = store.home / "blobs" / "sha256" / "00" / ("0" * 61 + tail)
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"x")
    assert store.why("0" * 64) == ()
    with pytest.raises(AmbiguousModel, match="'0000' is the beginning of 2 contents"):
        store.why("0000")
    with pytest.raises(NotFound, match="the store has no content with the sha256 ffff"):
        store.why("ffff")
    with pytest.raises(NotFound, match="there is no file 'nothing', and it is not the beginning of a sha256"):
        store.why("nothing")
    with pytest.raises(NotFound, match="is not in the store"):
        store.why(__file__)
    with pytest.raises(NotFound, match="is no file that a pull brought"):
        store.why(str(entry.path / "metalchat.toml"))


def test_usage_counts_every_byte_once(store: Store, entry: Entry, remote: MemoryRemote, tmp_path: Path) -> None:
    store.pull(BASE + "org/other")
    usage = store.usage()
    assert (usage.blob_count, usage.entry_count) == (7, 2)
    assert usage.models > 2 * usage.blobs > 400_000
    assert usage.shared == usage.blobs
    assert (usage.partials, usage.quarantine, usage.elsewhere, usage.reclaimable) == (0, 0, 0, 0)
    inodes = {(path.lstat().st_ino, path.lstat().st_size) for path in store.home.rglob("*") if path.is_file()}
    assert usage.total == sum(size for _, size in inodes)
    (store.home / "cache" / "prefixes").mkdir(parents=True)
    (store.home / "cache" / "prefixes" / "x").write_bytes(bytes(300))
    after = store.usage()
    assert (after.cache, after.other, after.total) == (300, usage.other, usage.total + 300)
    assert store.gc(grace=-1).bytes == 0
    assert (store.home / "cache" / "prefixes" / "x").exists()
    big = next(path for path in (store.home / "blobs").rglob("*") if path.is_file() and path.stat().st_size == 200_000)
    os.link(big, tmp_path / "elsewhere")
    assert store.usage().elsewhere == 200_000


def test_pins_can_be_set_listed_and_taken_away(store: Store, entry: Entry) -> None:
    assert store.pin("org/m") == entry
    store.pin(entry.id[:7])
    assert store.pinned() == {entry.id}
    assert store.unpin(entry.id)
    assert not store.unpin(entry.id)
    store.pin(entry.id)
    store.remove(entry.id)
    assert store.pinned() == frozenset()
    with pytest.raises(ModelNotFound):
        store.pin("nothing")
