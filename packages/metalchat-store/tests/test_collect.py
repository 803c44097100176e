"""What `gc` deletes, and what it never does."""

import errno
import fcntl
import os
import time
from pathlib import Path

import pytest
from metalchat_store import DiskError, Entry, NetworkError, Store, roots
from metalchat_store.testing import MemoryRemote
from metalchat_store.testing.memory import Fault, tiny_model

BASE = "memory://host/"
URL = BASE + "org/m"
HOUR = 3600.0


class Clock:
    """Hours that pass when a test says so, for files whose times are real."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def remote() -> MemoryRemote:
    return MemoryRemote(files=tiny_model())


@pytest.fixture
def store(home: Path, remote: MemoryRemote, clock: Clock) -> Store:
    return Store(home, environ={}, remotes={"memory": lambda: remote}, sleep=lambda _: None, now=clock)


@pytest.fixture
def entry(store: Store) -> Entry:
    return store.pull(URL).entry


def blobs(store: Store) -> set[str]:
    return {path.parent.name + path.name for path in (store.home / "blobs").rglob("*") if path.is_file()}


def use(store: Store, entry: Entry, when: float) -> None:
    store.path(entry.id)
    os.utime(store.home / "used" / entry.id, (when, when))


def test_a_model_is_a_root_itself(store: Store, entry: Entry, clock: Clock) -> None:
    clock.ahead = 1000 * HOUR
    before = blobs(store)
    collected = store.gc()
    assert (collected.models, collected.snapshots, collected.blobs, collected.bytes) == ((), 0, 0, 0)
    assert blobs(store) == before
    assert store.verify(entry.id).ok


def test_earlier_states_go_after_the_grace_period(
    store: Store, entry: Entry, remote: MemoryRemote, clock: Clock
) -> None:
    remote.files = tiny_model(seed=2)
    store.update(entry.id)
    assert store.gc().snapshots == 0
    clock.ahead = 2 * HOUR
    would = store.gc(dry_run=True)
    assert store.history(entry.id) == (entry.commit,)
    did = store.gc()
    assert would == did
    assert (did.snapshots, did.blobs) == (1, 3)
    assert did.bytes > 200_000
    assert store.history(entry.id) == ()
    assert len(blobs(store)) == 7
    assert store.verify(entry.id).ok


def test_a_locked_state_stays(store: Store, entry: Entry, remote: MemoryRemote, clock: Clock, tmp_path: Path) -> None:
    lock = store.lock(entry.id)
    lock.write(tmp_path / "metalchat.lock")
    (tmp_path / "metalchat.toml").write_text("")
    store.register(tmp_path / "metalchat.toml", entry.id)
    remote.files = tiny_model(seed=2)
    store.update(entry.id, consent=True)
    clock.ahead = 1000 * HOUR
    assert store.gc().snapshots == 0
    assert store.restore(lock).fetched_bytes == 0
    (tmp_path / "metalchat.lock").unlink()
    clock.ahead = 2000 * HOUR
    assert store.gc().snapshots == 1


@pytest.mark.parametrize("damage", ["no lock", "a link"])
def test_S_7_a_lock_that_cannot_be_read_keeps_every_state(
    store: Store, entry: Entry, remote: MemoryRemote, clock: Clock, tmp_path: Path, damage: str
) -> None:
    file = tmp_path / "metalchat.lock"
    lock = store.lock(entry.id)
    (tmp_path / "metalchat.toml").write_text("")
    store.register(tmp_path / "metalchat.toml", entry.id)
    remote.files = tiny_model(seed=2)
    store.update(entry.id, consent=True)
    if damage == "a link":
        file.symlink_to(tmp_path / "nowhere")
    else:
        file.write_text("version = 7")
    clock.ahead = 1000 * HOUR
    other = store.pull(BASE + "org/other").entry  # what is only kept to be sure makes no room by taking others away
    assert store.gc(max_size=250_000).models == ()
    assert store.gc().snapshots == 0
    assert store.path(other.id) == other.path
    assert store.restore(lock).fetched_bytes == 0


def test_S_7_a_root_that_cannot_be_read_now_ends_the_collection(
    store: Store, entry: Entry, remote: MemoryRemote, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metalchat.toml").write_text("")
    store.lock(entry.id).write(tmp_path / "metalchat.lock")
    store.register(tmp_path / "metalchat.toml", entry.id)
    remote.files = tiny_model(seed=2)
    store.update(entry.id, consent=True)
    clock.ahead = 1000 * HOUR

    def read(path: Path, _limit: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(roots, "read_file", read)
        with pytest.raises(DiskError, match="input/output error"):
            store.gc()
    assert store.gc().snapshots == 0


def test_hints_and_locks_that_nobody_holds_go_after_the_grace_period(store: Store, entry: Entry, clock: Clock) -> None:
    partial = store.home / "partial"
    known = next(name for name in blobs(store))
    (partial / "g-1.hint").write_text(known)
    (partial / "a.lock").touch()
    (partial / "b.lock").touch()
    with (partial / "b.lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        store.gc()
        assert {path.name for path in partial.iterdir()} == {"g-1.hint", "a.lock", "b.lock"}
        clock.ahead = 2 * HOUR
        store.gc()
        assert [path.name for path in partial.iterdir()] == ["b.lock"]


def test_content_without_a_name_goes_after_the_grace_period(store: Store, entry: Entry, clock: Clock) -> None:
    stray = store.home / "blobs" / "sha256" / "00" / ("0" * 62)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(bytes(1000))
    foreign = store.home / "blobs" / "sha256" / "00" / "readme"
    foreign.write_text("not ours")
    assert store.gc().blobs == 0
    clock.ahead = 2 * HOUR
    assert store.gc().bytes == 1000
    assert not stray.exists()
    assert foreign.exists()


def test_the_content_of_a_model_whose_record_is_lost_stays(store: Store, entry: Entry, clock: Clock) -> None:
    (record,) = (store.home / "snapshots").iterdir()
    record.unlink()
    clock.ahead = 1000 * HOUR
    assert store.gc().blobs == 0
    assert store.repair(entry.id).fetched_bytes == 0


def test_content_that_lost_its_name_gets_it_back(store: Store, entry: Entry) -> None:
    before = blobs(store)
    for path in (store.home / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    store.gc()
    assert blobs(store) == before
    assert store.path(entry.id) == entry.path


def interrupted(store: Store, remote: MemoryRemote, url: str) -> None:
    remote.faults = {"model.safetensors": [Fault(cut=100_000), Fault(error=NetworkError("gone"))]}
    with pytest.raises(NetworkError):
        store.pull(url)


def test_whole_files_of_a_pull_that_is_not_over_stay(store: Store, remote: MemoryRemote, clock: Clock) -> None:
    interrupted(store, remote, URL)
    came = blobs(store)
    assert came
    clock.ahead = 48 * HOUR
    assert store.gc().blobs == 0
    assert blobs(store) == came
    remote.reads.clear()
    store.pull(URL)
    assert remote.reads == [("model.safetensors", 100_000)]


def test_what_earlier_states_had_goes_while_a_pull_is_not_over(
    store: Store, entry: Entry, remote: MemoryRemote, clock: Clock
) -> None:
    remote.files = tiny_model(seed=2)
    store.update(entry.id)
    remote.files = tiny_model(seed=3)
    interrupted(store, remote, f"{BASE}org/other")
    clock.ahead = 48 * HOUR
    collected = store.gc()
    assert collected.snapshots == 1
    assert collected.bytes > 200_000
    left = blobs(store)
    assert store.gc(partials=True).bytes > 100_000
    assert blobs(store) < left
    assert store.verify(entry.id).ok


@pytest.mark.parametrize("later", [True, False], ids=["after a week", "on request"])
def test_what_dead_pulls_left_and_damaged_content_goes(
    store: Store, entry: Entry, clock: Clock, *, later: bool
) -> None:
    partial = store.home / "partial"
    dead = 2**22 + 1
    resumable = partial / f"{'a' * 64}~{dead}-00000000.part"
    for path in (resumable, partial / f"x~{dead}-00000000.tmp"):
        path.write_bytes(bytes(500))
    (store.home / "quarantine").mkdir()
    (store.home / "quarantine" / "x.bad").write_bytes(bytes(70))
    assert store.usage().quarantine == 70
    assert store.usage().partials == 1000
    assert store.gc().bytes == 500
    assert [path.name for path in partial.iterdir()] == [resumable.name]
    clock.ahead = 2 * HOUR
    assert store.gc().bytes == 70
    assert store.gc(partials=True, dry_run=True).bytes == 500
    running = partial / f"{'b' * 64}~{os.getppid()}-00000000.part"
    running.write_bytes(bytes(7))
    clock.ahead = 200 * HOUR if later else 0
    assert store.gc(partials=not later).bytes == 500
    assert list(partial.iterdir()) == [running]


def test_an_unused_model_is_evicted_before_a_used_one(store: Store, remote: MemoryRemote, clock: Clock) -> None:
    made = []
    for number in range(5):
        remote.files = tiny_model(seed=number)
        made.append(store.pull(f"{BASE}org/m{number}").entry)
    now = time.time()
    for age, entry in zip((50, 10, 40, 20, 30), made, strict=True):
        use(store, entry, now - age * HOUR)
    clock.ahead = 2 * HOUR
    would = store.gc(max_size=450_000, dry_run=True)
    assert len(store.list()) == 5
    did = store.gc(max_size=450_000)
    assert would == did
    assert [entry.id for entry in did.models] == [made[0].id, made[2].id, made[4].id]
    assert {entry.id for entry in store.list()} == {made[1].id, made[3].id}
    assert all(store.verify(entry.id).ok for entry in store.list())
    assert did.bytes > 600_000
    assert did.too_large == 0
    assert store.usage().blobs <= 450_000
    assert {path.name for path in (store.home / "used").iterdir()} == {made[1].id, made[3].id}


def test_eviction_spares_what_is_pinned_selected_locked_or_in_use(
    store: Store, remote: MemoryRemote, clock: Clock, tmp_path: Path
) -> None:
    made = []
    for number in range(6):
        remote.files = tiny_model(seed=number)
        made.append(store.pull(f"{BASE}org/m{number}").entry)
        use(store, made[-1], time.time() - (100 - number) * HOUR)
    pinned, selected, everywhere, locked, used, spare = made
    store.pin(pinned.id)
    project = tmp_path / "project"
    project.mkdir()
    (project / "metalchat.toml").write_text((selected.path / "metalchat.toml").read_text())
    store.register(project / "metalchat.toml", selected.id)
    (store.home / "metalchat.toml").write_text((everywhere.path / "metalchat.toml").read_text())
    other = tmp_path / "other"
    other.mkdir()
    store.lock(locked.id).write(other / "metalchat.lock")
    store.register(other / "metalchat.toml", "")
    clock.ahead = 2 * HOUR
    use(store, used, clock())
    collected = store.gc(max_size=0)
    assert collected.models == (spare,)
    assert collected.too_large == pytest.approx(5 * 200_000, rel=0.01)
    store.unpin(pinned.id)
    (project / "metalchat.toml").write_text("")
    assert {entry.id for entry in store.gc(max_size=0).models} == {pinned.id, selected.id}


def test_a_manifest_that_cannot_be_read_keeps_what_it_last_selected(
    store: Store, entry: Entry, clock: Clock, tmp_path: Path
) -> None:
    away = tmp_path / "away"
    away.mkdir()
    (away / "metalchat.toml").write_text("[model")
    store.register(away / "metalchat.toml", entry.id)
    clock.ahead = 10 * HOUR
    assert store.gc(max_size=0).models == ()
    (away / "metalchat.toml").unlink()
    away.rmdir()
    assert store.gc(max_size=0).models == ()
    clock.ahead = 31 * 24 * HOUR
    store.gc()
    assert not list((store.home / "roots").iterdir())
    assert len(store.gc(max_size=0).models) == 1


def test_a_deleted_manifest_is_forgotten(store: Store, entry: Entry, clock: Clock, tmp_path: Path) -> None:
    manifest = tmp_path / "metalchat.toml"
    manifest.write_text((entry.path / "metalchat.toml").read_text())
    store.register(manifest, entry.id)
    manifest.unlink()
    clock.ahead = 10 * HOUR
    store.gc()
    assert not list((store.home / "roots").iterdir())


def test_a_collection_of_nothing_does_nothing(store: Store) -> None:
    assert store.gc(dry_run=True).bytes == 0
    assert not store.home.exists()
    assert store.usage().total == 0


def test_without_grace_only_what_was_used_within_the_minute_stays(store: Store, entry: Entry, clock: Clock) -> None:
    store.path(entry.id)
    assert store.gc(max_size=0, grace=0).models == ()
    clock.ahead = 120
    assert store.gc(max_size=0, grace=HOUR).models == ()
    assert store.gc(max_size=0, grace=0).models == (entry,)


def test_what_an_eviction_frees_is_freed_at_once(
    store: Store, entry: Entry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taking a model away changes the time of its content, which is no sign of a pull in flight."""
    monkeypatch.setattr("metalchat_store._used.EVERY", -HOUR)
    latest = max(path.stat().st_ctime for path in store.home.rglob("*"))
    clock.ahead = latest + 0.001 - time.time()
    would = store.gc(max_size=0, grace=0, dry_run=True)
    did = store.gc(max_size=0, grace=0)
    assert did == would
    assert did.models == (entry,)
    assert did.bytes > 200_000
    assert store.usage().blobs == 0


def test_the_use_of_a_model_is_noted_once_a_minute(store: Store, entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    store.path(entry.id)
    note = store.home / "used" / entry.id
    os.utime(note, (time.time() - 30, time.time() - 30))
    before = note.stat().st_mtime
    changes: list[str] = []
    monkeypatch.setattr(os, "utime", lambda *_args, **_options: changes.append("utime"))
    store.path(entry.id)
    assert (note.stat().st_mtime, changes) == (before, [])
    monkeypatch.undo()
    os.utime(note, (time.time() - 70, time.time() - 70))
    store.path(entry.id)
    assert time.time() - note.stat().st_mtime < 30


def test_a_disk_that_cannot_be_written_to_opens_models_all_the_same(
    store: Store, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*_: object) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("metalchat_store._used.create", no)
    assert store.path(entry.id) == entry.path


def test_a_model_that_is_used_while_the_collection_runs_stays(
    store: Store, entry: Entry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metalchat_store.collect import Collector

    use(store, entry, time.time() - 50 * HOUR)
    clock.ahead = 5 * HOUR
    remove = Collector._remove

    def use_and_remove(self: Collector, id: str, last: float) -> bool:
        store.path(entry.id)
        return remove(self, id, last)

    monkeypatch.setattr(Collector, "_remove", use_and_remove)
    assert store.gc(max_size=0).models == ()
    assert store.path(entry.id) == entry.path
