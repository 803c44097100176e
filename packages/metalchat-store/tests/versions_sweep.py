"""Repairs, rollbacks and restores that are killed at the k-th call of the operating system. Prints one JSON line.

Usage: versions_sweep.py repair|rollback|restore FOLDER START STEP. A program of its own, so that it can fork.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from metalchat_store import Lock, Store, StoreError, _publish
from metalchat_store.testing.faults import FaultyOs, die
from metalchat_store.testing.memory import MemoryRemote, tiny_model

URL = "memory://host/org/m"
USER_LINE = "\n# mine\n"


def make_store(home: Path, version: int = 2) -> Store:
    remote = MemoryRemote(files=tiny_model(seed=version, size=30_000), chunk=8192)
    return Store(home, environ={}, remotes={"memory": lambda: remote}, sleep=lambda _seconds: None)


def prepare(home: Path, kind: str) -> None:
    first = make_store(home, 1)
    entry = first.pull(URL).entry
    first.lock(entry.id).write(home.parent / "metalchat.lock")
    make_store(home).pull(URL)
    manifest = entry.path / "metalchat.toml"
    manifest.write_text(manifest.read_text() + USER_LINE)
    if kind == "repair":
        for name in ("model.safetensors", "config.json"):
            (entry.path / name).chmod(0o600)
            (entry.path / name).write_bytes(b"damaged")


def act(home: Path, kind: str) -> None:
    store = make_store(home)
    if kind == "repair":
        store.repair("org/m")
    elif kind == "rollback":
        store.rollback("org/m")
    else:
        lock = Lock.read(home.parent / "metalchat.lock")
        assert lock is not None
        store.restore(lock)


def problems(home: Path, kind: str) -> list[str]:
    """Right after the kill: one entry, the user's words in it, old or new but never half; then all ways lead on."""
    found = []
    store = make_store(home)
    (entry,) = store.list()
    if USER_LINE not in (entry.path / "metalchat.toml").read_text():
        found.append("the user's edit is lost")
    if kind != "repair" and not store.verify(entry.id).ok:
        found.append("half a model")
    try:
        if not store.repair(entry.id).verification.ok:
            found.append("not repaired")
        lock = Lock.read(home.parent / "metalchat.lock")
        assert lock is not None
        if not make_store(home, 1).restore(lock).entry or not store.verify(entry.id).ok:
            found.append("not restored")
        store.update(entry.id)
        store.rollback(entry.id)
    except StoreError as error:
        found.append(f"afterwards {type(error).__name__}: {error}")
    store.gc(grace=-1)
    if left := sorted(path.name for path in (home / "partial").iterdir()):
        found.append(f"left in partial: {left}")
    return found


def main() -> None:
    kind, folder, start, step = sys.argv[1:]
    root = Path(folder)
    os.fsync = lambda _descriptor: None
    _publish.exchange = lambda *_: False  # the swap in one call is not one of `os`; its replacement is swept
    prepare(root / "prepared", kind)
    k, reached, wrong, reaching = int(start), 0, [], True
    while reaching:
        home = root / f"at-{k}"
        shutil.copytree(root / "prepared", home, symlinks=True)
        child = os.fork()
        if child == 0:
            FaultyOs(k, die)
            act(home, kind)
            os._exit(0)
        reaching = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        reached += reaching
        wrong += [f"k={k}: {text}" for text in problems(home, kind)]
        shutil.rmtree(home)
        k += int(step)
    print(json.dumps({"reached": reached, "wrong": wrong}))


main()
