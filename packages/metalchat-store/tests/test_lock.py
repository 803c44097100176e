"""metalchat.lock: what it says, what it refuses, and how it is restored."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from metalchat_store import Corrupted, DiskError, Entry, InvalidLock, Lock, NetworkError, Refused, Store
from metalchat_store.testing import MemoryRemote
from metalchat_store.testing.memory import tiny_model

Make = Callable[[MemoryRemote], Store]
URL = "memory://host/org/m"


@pytest.fixture
def remote() -> MemoryRemote:
    return MemoryRemote(files=tiny_model(), identities="git")


@pytest.fixture
def store(make_store: Make, remote: MemoryRemote) -> Store:
    return make_store(remote)


@pytest.fixture
def entry(store: Store) -> Entry:
    return store.pull(URL).entry


@pytest.fixture
def lock(store: Store, entry: Entry) -> Lock:
    return store.lock(entry.id)


def test_a_lock_reads_back_as_it_was_written(lock: Lock, tmp_path: Path) -> None:
    path = tmp_path / "metalchat.lock"
    assert lock.write(path)
    assert Lock.read(path) == Lock.parse(lock.text().encode(), path)
    assert set(Lock.parse(lock.text().encode(), path).files) == set(lock.files)
    assert not lock.write(path)
    assert path.stat().st_mode & 0o777 == 0o644
    assert [inner.name for inner in tmp_path.iterdir() if inner.name != "home"] == ["metalchat.lock"]
    assert Lock.read(tmp_path / "nothing.lock") is None


def test_a_lock_says_what_a_reviewer_needs(lock: Lock, entry: Entry) -> None:
    text = lock.text()
    assert f'commit = "{entry.commit}"' in text
    assert f'id = "{entry.id}"' in text
    assert 'template_sha256 = "' in text
    assert 'tokenizer_sha256 = "' in text
    assert text.count("[[files]]") == 7
    assert 'path = "model.safetensors"\nsize = 200000\nsha256 = "' in text


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version = 1", "version = 2", "its version is not 1, the one that is known here"),
        ("[model]", "[model", "it is not valid TOML"),
        ('path = "config.json"', 'path = "../config.json"', "a file name that is not allowed"),
        ('path = "config.json"', 'path = "README.md"', "a file name that is not allowed"),
        ('sha256 = "', 'sha256 = "../', "identity that is not valid"),
        ("size = ", "size = -", "a value of the wrong type"),
        ("size = 200000", "size = true", "a value of the wrong type"),
        ('commit = "', 'commit = "../', "a commit that is not valid"),
        ('variant = "', 'variant = " ', "the variant of a model is a word"),
        ('variant = "', 'variant = "x', "its id is not that of its [model]"),
        ("[source]", "[sauce]", "a key is missing"),
        ("[[files]]", "[[fils]]", "a key is missing"),
    ],
)
def test_a_lock_that_says_something_else_is_refused(lock: Lock, old: str, new: str, words: str) -> None:
    text = lock.text().replace(old, new) if old == "[[files]]" else lock.text().replace(old, new, 1)
    with pytest.raises(InvalidLock) as caught:
        Lock.parse(text.encode(), Path("/p/metalchat.lock"))
    assert str(caught.value).startswith("'/p/metalchat.lock' cannot be used: ")
    assert words in str(caught.value)
    assert str(caught.value).endswith("Write it anew with 'metalchat lock'")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "data", [b"\xff", b"", b"a = 1", b"files = 1\nversion = 1\nmodel = 1\nsource = 1", b"[" * 9999]
)
def test_a_lock_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidLock):
        Lock.parse(data, Path("x"))


def test_a_lock_that_is_a_link_is_not_read_and_not_followed(lock: Lock, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text(lock.text())
    (tmp_path / "metalchat.lock").symlink_to(target)
    with pytest.raises(InvalidLock, match="cannot be read"):
        Lock.read(tmp_path / "metalchat.lock")
    target.write_text("mine")
    assert lock.write(tmp_path / "metalchat.lock")
    assert target.read_text() == "mine"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(bytes((16 << 20) + 1)), "larger than allowed"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.symlink_to("x"), "it is a link"),
        (lambda path: path.mkdir(), "not a regular file"),
    ],
)
def test_a_lock_that_cannot_be_read_says_so_once(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    path = tmp_path / "metalchat.lock"
    make(path)
    with pytest.raises(InvalidLock) as caught:
        Lock.read(path)
    assert str(caught.value) == f"'{path}' cannot be read: {reason}"


def test_a_write_that_fails_leaves_the_old_lock(lock: Lock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metalchat.lock"
    path.write_text("old")

    def no(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no)
    with pytest.raises(DiskError):
        lock.write(path)
    assert path.read_text() == "old"
    assert [inner.name for inner in tmp_path.iterdir() if inner.name != "home"] == ["metalchat.lock"]


def test_what_is_locked_and_whole_needs_no_network(
    store: Store, entry: Entry, lock: Lock, remote: MemoryRemote
) -> None:
    lists = remote.lists
    assert store.check_lock(lock) == entry
    assert store.restore(lock).already
    assert (remote.lists, store.restore(lock).fetched_bytes) == (lists, 0)


def test_another_commit_is_refused_and_the_locked_one_comes_back_offline(
    store: Store, entry: Entry, lock: Lock, remote: MemoryRemote
) -> None:
    remote.files = tiny_model(seed=2)
    newer = store.update(entry.id).entry
    with pytest.raises(Refused) as caught:
        store.check_lock(lock)
    assert str(caught.value) == (
        f"'memory://host/org/m' is at {newer.commit[:7]}, the lock pins {lock.commit[:7]}: "
        "'metalchat model pull --frozen' brings that back, 'metalchat lock' locks what is here"
    )
    assert caught.value.exit_code == 8
    lists = remote.lists
    restored = store.restore(lock)
    assert (restored.entry.commit, restored.already, restored.fetched_bytes) == (lock.commit, False, 0)
    assert remote.lists == lists
    assert store.check_lock(lock).commit == lock.commit
    assert store.rollback(entry.id).commit == newer.commit


def test_what_is_not_there_is_refused_and_fetched_exactly(
    make_store: Make, lock: Lock, store: Store, remote: MemoryRemote
) -> None:
    store.remove(lock.spec.id)
    with pytest.raises(Refused, match="is locked, but not in the store: 'metalchat model pull --frozen' fetches it"):
        store.check_lock(lock)
    remote.files = {**remote.files, "NOTICE.txt": b"new"}
    remote.commit = lock.commit
    restored = store.restore(lock)
    assert restored.fetched_bytes == lock.size
    assert store.check_lock(lock) == restored.entry
    assert not (restored.entry.path / "NOTICE.txt").exists()


def test_S_9_other_content_under_the_locked_commit_is_refused(store: Store, lock: Lock, remote: MemoryRemote) -> None:
    store.remove(lock.spec.id)
    remote.commit = lock.commit
    remote.files = {**remote.files, "tokenizer.json": b"{}"}
    with pytest.raises(Refused, match=r"^'tokenizer.json' has sha256 44136fa3…, the lock pins "):
        store.restore(lock)
    assert ("model.safetensors", 0) not in remote.reads[len(lock.files) :]
    assert store.list() == ()
    assert not [path for path in (store.home / "blobs").rglob("*") if path.is_file()]
    remote.files = {name: content for name, content in tiny_model().items() if name != "LICENSE"}
    with pytest.raises(Refused, match="the lock names 'LICENSE', which is not among the files"):
        store.restore(lock)


def test_the_locked_commit_with_another_digest_is_refused(store: Store, lock: Lock) -> None:
    digest = next(file.digest.hex for file in lock.files if file.path == "config.json")
    other = Lock.parse(lock.text().replace(digest, "0" * 64).encode(), Path("x"))
    with pytest.raises(
        Refused, match=r"^'config.json' of 'memory://host/org/m' has sha256 .*, the lock pins 00000000…"
    ):
        store.check_lock(other)
    with pytest.raises(Refused, match=r"^'config.json' has sha256 .*, the lock pins 00000000…\. Nothing was kept$"):
        store.restore(other)
    assert store.check_lock(lock).damaged is None


def test_a_damaged_model_is_not_locked_nor_accepted(
    store: Store, entry: Entry, lock: Lock, remote: MemoryRemote
) -> None:
    path = entry.path / "config.json"
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"64", b"65"))
    for act in (lambda: store.lock(entry.id), lambda: store.check_lock(lock)):
        with pytest.raises(Corrupted, match=f"^model '{entry.id}' is corrupted$"):
            act()
    assert store.restore(lock).fetched_bytes == path.stat().st_size
    assert store.check_lock(lock).id == entry.id


def test_a_restored_model_is_updated_from_where_it_was(store: Store, lock: Lock, remote: MemoryRemote) -> None:
    store.remove(lock.spec.id)
    entry = store.restore(lock).entry
    remote.files = tiny_model(seed=2)
    assert store.outdated()[0].outdated
    assert store.update(entry.id).entry.commit != lock.commit


def test_no_network_is_a_clear_end(store: Store, lock: Lock, remote: MemoryRemote) -> None:
    store.remove(lock.spec.id)
    remote.listing_faults = [NetworkError("no way")]
    with pytest.raises(NetworkError, match="no way"):
        store.restore(lock)


@pytest.mark.parametrize("what", ["template", "tokenizer"])
@pytest.mark.parametrize("change", [lambda _: "0" * 64, lambda _: None], ids=["another", "none"])
def test_F_6_a_lock_that_hides_a_change_of_the_template_is_refused(
    store: Store, lock: Lock, remote: MemoryRemote, what: str, change: Callable[[str], str | None]
) -> None:
    other = replace(lock, **{what: change(getattr(lock, what))})
    lists = remote.lists
    for act in (store.check_lock, store.restore):
        with pytest.raises(Refused, match=rf"^the lock pins the .*{what} of 'memory://host/org/m' with sha256 "):
            act(other)
    assert remote.lists == lists
    store.remove(lock.spec.id)
    remote.commit = lock.commit
    with pytest.raises(Refused, match="somebody has changed one of them"):
        store.restore(other)


def test_a_file_that_the_lock_does_not_name_is_refused_and_taken_away(
    store: Store, lock: Lock, remote: MemoryRemote
) -> None:
    less = replace(lock, files=tuple(file for file in lock.files if file.path != "LICENSE"))
    with pytest.raises(Refused, match=r"^'LICENSE' of 'memory://host/org/m' is not in the lock: "):
        store.check_lock(less)
    remote.commit = lock.commit
    restored = store.restore(less)
    assert restored.fetched_bytes == 0
    assert not (restored.entry.path / "LICENSE").exists()
    assert store.check_lock(less) == restored.entry
    with pytest.raises(Refused, match="'LICENSE' of 'memory://host/org/m' is missing"):
        store.check_lock(lock)
