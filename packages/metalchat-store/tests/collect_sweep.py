"""Collections that are killed, fail, or run beside pulls. Prints one JSON line.

Usage: collect_sweep.py kill|errno FOLDER START STEP, or collect_sweep.py beside FOLDER GRACE SECONDS SEED.
A program of its own, so that it can fork without threads and replace functions of `os`.
"""

import errno
import json
import os
import random
import shutil
import sys
import time
import traceback
from pathlib import Path

from metalchat_store import Lock, Store, StoreError
from metalchat_store.testing.faults import FaultyOs, die, fail
from metalchat_store.testing.memory import MemoryRemote, tiny_model

BASE = "memory://host/org/"
MAX_SIZE = 65_000  # three of the four contents of 20,000 bytes


def make_store(home: Path, version: int = 1) -> Store:
    files = tiny_model(seed=version, size=20_000)
    files["README.md"] = b"the same in all versions\n"
    remote = MemoryRemote(files=files, chunk=4096, identities="git")
    return Store(home, environ={}, remotes={"memory": lambda: remote}, sleep=lambda seconds: time.sleep(seconds / 50))


def prepare(home: Path) -> None:
    """Four models, one with two earlier states of which one is locked, one to be evicted; content without a name."""
    for version, name in ((1, "a"), (2, "b"), (1, "c"), (3, "d")):
        make_store(home, version).pull(BASE + name)
    project = home.parent / "project"
    project.mkdir()
    store = make_store(home)
    (project / "metalchat.toml").write_text((store.find("org/a").path / "metalchat.toml").read_text())
    store.register(project / "metalchat.toml", store.find("org/a").id)
    store.lock("org/a").write(project / "metalchat.lock")
    for version in (4, 5):
        make_store(home, version).update("org/a", consent=True)
    for name in ("a", "b", "c"):
        store.path(f"org/{name}")
    shard = home / "blobs" / "sha256" / "00"
    shard.mkdir(exist_ok=True)
    (shard / ("0" * 62)).write_bytes(bytes(100))
    (home / "quarantine").mkdir()
    (home / "quarantine" / "x.bad").write_bytes(bytes(100))
    store.pin("org/b")


def problems(home: Path) -> list[str]:
    """What must hold at every moment: whole models, and the locked state within reach, without a remote."""
    store = Store(home, environ={}, remotes={"memory": lambda: MemoryRemote(files={})})
    entries = store.list()
    found = [f"{entry.id} is damaged" for entry in entries if entry.damaged or not store.verify(entry.id).ok]
    names = {entry.spec.repository.rpartition("/")[2] for entry in entries if entry.spec}
    if not {"a", "b", "c"} <= names:
        found.append(f"models are left: {names}")
    lock = Lock.read(home.parent / "project" / "metalchat.lock")
    assert lock is not None
    copy = home.with_name(home.name + "-copy")
    shutil.copytree(home, copy, symlinks=True)
    try:
        Store(copy, environ={}, remotes={"memory": lambda: MemoryRemote(files={})}).restore(lock)
    except StoreError as error:
        found.append(f"the locked state is lost: {error}")
    finally:
        shutil.rmtree(copy)
    return found


def state(home: Path) -> list[str]:
    """Every file, but for what this very process may still be deleting in another thread."""
    return sorted(
        str(path.relative_to(home))
        for name in ("blobs", "models", "snapshots", "partial", "quarantine", "used")
        for path in (home / name).rglob("*")
        if path.is_file() and f"~{os.getpid()}-" not in str(path)
    )


def collect(home: Path) -> None:
    """Three hours from now, when every use is long ago."""
    Store(home, environ={}, now=lambda: time.time() + 10_800).gc(grace=-1, max_size=MAX_SIZE)


def sweep(kind: str, root: Path, start: int, step: int) -> dict[str, object]:
    os.fsync = lambda _descriptor: None
    prepare(root / "prepared")
    shutil.copytree(root / "prepared", root / "done", symlinks=True)
    collect(root / "done")
    wanted = state(root / "done")
    reached, wrong = 0, problems(root / "done")
    k, reaching = start, True
    while reaching:
        home = root / f"at-{k}"
        shutil.copytree(root / "prepared", home, symlinks=True)
        if kind == "kill":
            child = os.fork()
            if child == 0:
                FaultyOs(k, die)
                collect(home)
                os._exit(0)
            reaching = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
            acted = "kill"
        else:
            system = FaultyOs(k, fail((errno.ENOSPC, errno.EIO, errno.EACCES)[k % 3]))
            try:
                collect(home)
            except StoreError as error:
                wrong += [f"k={k}: not one line"] if "\n" in str(error) else []
            except BaseException as error:  # noqa: BLE001 - reported as what must not happen
                wrong.append(f"k={k} {system.acted}: {type(error).__name__}: {error}")
            finally:
                system.restore()
            reaching, acted = bool(system.acted), system.acted
        reached += reaching
        wrong += [f"k={k} {acted}: {text}" for text in problems(home)]
        collect(home)
        if state(home) != wanted:
            wrong.append(f"k={k} {acted}: the next collection leaves {set(state(home)) ^ set(wanted)}")
        shutil.rmtree(home)
        k += step
    return {"reached": reached, "wrong": wrong}


def puller(home: Path, number: int, until: float, seed: int, grace: float) -> None:
    """Pulls, updates and opens its own model, and content that it shares with the others."""
    noise = random.Random(seed * 100 + number)
    name = f"{BASE}m{number}"
    while time.monotonic() < until:
        version = noise.randrange(3)
        try:
            entry = make_store(home, version).pull(name).entry
        except StoreError:
            if grace:
                raise
            continue  # what a collection without grace takes away, the next pull brings
        store = make_store(home)
        assert store.path(entry.id) == entry.path
        if noise.random() < 0.3:
            assert store.verify(entry.id).ok
        if noise.random() < 0.1:
            store.remove(entry.id)


def beside(home: Path, grace: float, seconds: float, seed: int) -> dict[str, object]:
    until = time.monotonic() + seconds
    children = []
    for number in range(3):
        pid = os.fork()
        if pid == 0:
            try:
                puller(home, number, until, seed, grace)
            except BaseException:  # noqa: BLE001 - the parent looks at the exit status
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(pid)
    rounds = 0
    while time.monotonic() < until:
        make_store(home).gc(grace=grace)
        rounds += 1
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    store = make_store(home)
    whole = [store.verify(entry.id).ok and entry.damaged is None for entry in store.list()]
    store.gc(grace=-1)
    again = [store.verify(entry.id).ok for entry in store.list()]
    wanted = {file.digest.hex for entry in store.list() for file in store.lock(entry.id).files}
    blobs = {path.parent.name + path.name for path in (home / "blobs").rglob("*") if path.is_file()}
    return {
        "statuses": statuses,
        "rounds": rounds,
        "whole": whole,
        "again": again,
        "left": sorted(path.name for path in (home / "partial").iterdir()),
        "blobs": sorted(blobs ^ wanted),
    }


def main() -> None:
    kind, folder, *rest = sys.argv[1:]
    root = Path(folder)
    if kind == "beside":
        result = beside(root / "home", float(rest[0]), float(rest[1]), int(rest[2]))
    else:
        result = sweep(kind, root, int(rest[0]), int(rest[1]))
    print(json.dumps(result))


main()
