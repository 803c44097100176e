"""Locks save work; without them everything is still right."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from metalchat_store import Store, _locks
from metalchat_store.testing import MemoryRemote
from metalchat_store.testing.memory import tiny_model

PROGRAM = Path(__file__).with_name("concurrent_pulls.py")


def together(kind: str, folder: Path, count: int) -> dict:
    done = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM, kind, folder, str(count)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["statuses"] == [0] * count, done.stderr
    return result


def test_S_8_processes_that_pull_together_transfer_each_file_once(tmp_path: Path) -> None:
    result = together("locks", tmp_path, 10)
    assert result["whole"] == [True]
    assert set(result["bodies"].values()) == {1}
    assert result["left"] == []


def test_S_8_nothing_breaks_where_locks_do_not_work(tmp_path: Path) -> None:
    result = together("nolocks", tmp_path, 10)
    assert result["whole"] == [True]
    assert result["bodies"]["model.safetensors"] > 1


@pytest.fixture
def lock(tmp_path: Path):
    """A lock file that another process holds."""
    path = tmp_path / "x.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield path
    os.close(descriptor)


def test_S_8_a_holder_that_does_nothing_is_not_waited_for_forever(lock: Path) -> None:
    now, waits, sleeps = [0.0], [], []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        now[0] += 10

    with _locks.exclusive(
        lock, waiting=lambda: waits.append(1), activity=lambda: 7, clock=lambda: now[0], sleep=sleep
    ) as held:
        assert not held
    assert waits == [1]
    assert 120 <= now[0] <= 150
    assert lock.exists()


def test_a_holder_that_works_is_waited_for(lock: Path) -> None:
    now, grown = [0.0], [0]

    def sleep(_seconds: float) -> None:
        now[0] += 100
        grown[0] += 1
        if grown[0] == 50:
            fcntl.flock(os.open(lock, os.O_RDWR), fcntl.LOCK_UN)
            lock.unlink()

    with _locks.exclusive(
        lock, waiting=lambda: None, activity=lambda: grown[0], clock=lambda: now[0], sleep=sleep
    ) as held:
        assert held
    assert grown[0] == 50


def test_a_lock_file_that_is_removed_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real, calls = tmp_path / "x.lock", fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        calls.append(operation)
        if len(calls) == 1:
            path.unlink()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with _locks.exclusive(
        path, waiting=lambda: None, activity=lambda: 0, clock=lambda: 0.0, sleep=lambda _: None
    ) as held:
        assert held
        assert path.exists()
    assert not path.exists()


def test_a_lock_that_somebody_holds_is_not_tidied_away(lock: Path) -> None:
    free = lock.with_name("free.lock")
    free.touch()
    for path in (lock, free, lock.with_name("missing.lock")):
        _locks.discard(path)
    assert (lock.exists(), free.exists()) == (True, False)


@pytest.mark.parametrize("error", [OSError(95, "Operation not supported"), NotImplementedError("no flock here")])
def test_a_file_system_without_locks_goes_on_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error) -> None:
    def flock(_descriptor: int, _operation: int) -> None:
        raise error

    monkeypatch.setattr(fcntl, "flock", flock)
    with _locks.exclusive(
        tmp_path / "y.lock", waiting=lambda: None, activity=lambda: 0, clock=lambda: 0.0, sleep=lambda _: None
    ) as held:
        assert not held


def test_S_8_the_waiting_pull_says_for_whom(home: Path, make_store: Callable[[MemoryRemote], Store], listener) -> None:
    """The holder is this very process, with a lock file of its own and a partial file of its name."""
    import hashlib

    files = tiny_model()
    key = hashlib.sha256(files["model.safetensors"]).hexdigest()
    partial = home / "partial"
    partial.mkdir(parents=True)
    (partial / f"{key}~4711-abcd.part").write_bytes(b"12345")
    descriptor = os.open(partial / f"{key}.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    remote = MemoryRemote(files=files)

    def release(_seconds: float) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)

    store = Store(home, environ={}, remotes={"memory": lambda: remote}, sleep=release)
    try:
        store.pull("memory://host/org/m", progress=listener)
    finally:
        os.close(descriptor)
    assert listener.messages[0] == "waiting for another pull of 'model.safetensors' (process 4711)"


def test_a_live_partial_file_is_left_alone_without_a_lock(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metalchat_store import _partials
    from metalchat_store._layout import Layout

    layout = Layout(home)
    layout.prepare()
    mine = _partials.begin(layout, "k")
    mine.note({}, None)
    mine.close()
    assert _partials.resume(layout, "k", alone=False) is None
    monkeypatch.setattr(_partials, "is_running", lambda _pid: False)
    taken = _partials.resume(layout, "k", alone=False)
    assert taken is not None
    taken.discard()
    assert list(layout.partial.iterdir()) == []


def test_unfinished_files_of_other_pulls_stay_for_a_week(home: Path) -> None:
    from metalchat_store import _partials
    from metalchat_store._layout import Layout

    layout = Layout(home)
    layout.prepare()
    dead = 2**22 + 1
    for name in ("a", "b"):
        (layout.partial / f"{name}~{dead}-0000.part").touch()
    (layout.partial / f"entry~{dead}-0000.entry").mkdir()
    (layout.partial / f"x~{os.getppid()}-0000.tmp").touch()
    os.utime(layout.partial / f"b~{dead}-0000.part", (1, 1))
    _partials.tidy(layout, frozenset())
    assert sorted(path.name for path in layout.partial.iterdir()) == [
        f"a~{dead}-0000.part",
        f"x~{os.getppid()}-0000.tmp",
    ]
