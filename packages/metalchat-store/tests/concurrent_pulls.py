"""Many processes pull one model at once. Usage: concurrent_pulls.py locks|nolocks FOLDER COUNT. Prints one JSON line.

A program of its own, so that it can fork without threads.
"""

import fcntl
import json
import os
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from metalchat_store import Store
from metalchat_store.testing.memory import MemoryRemote, tiny_model

REPOSITORY = "memory://host/org/m"
WEIGHTS = "model.safetensors"


def child(home: Path, log: Path, go: Path, *, crowded: bool) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    until = time.monotonic() + 80  # on a busy machine the second process may take long to get there

    def chunk(name: str, position: int) -> None:
        if position == 0:
            os.write(descriptor, f"{name}\n".encode())
            if crowded and name == WEIGHTS:  # no process ends before another one is at the same point
                while log.read_text().split().count(WEIGHTS) < 2 and time.monotonic() < until:
                    time.sleep(0.01)
        time.sleep(0.002)

    remote = MemoryRemote(files=tiny_model(), chunk=20_000, on_chunk=chunk)
    store = Store(home, environ={}, remotes={"memory": lambda: remote})
    while not go.exists():
        time.sleep(0.001)
    entry = store.pull(REPOSITORY).entry
    assert store.verify(entry.id).ok
    assert store.path(entry.id) == entry.path


def main() -> None:
    kind, folder, count = sys.argv[1:]
    root = Path(folder)
    home, log, go = root / "home", root / "log", root / "go"
    if kind == "nolocks":
        fcntl.flock = lambda _descriptor, _operation: None
    children = []
    for _ in range(int(count)):
        pid = os.fork()
        if pid == 0:
            try:
                child(home, log, go, crowded=kind == "nolocks")
            except BaseException:  # noqa: BLE001 - the parent looks at the exit status
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(pid)
    go.touch()
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    store = Store(home, environ={})
    entries = store.list()
    print(
        json.dumps(
            {
                "statuses": statuses,
                "bodies": Counter(log.read_text().split()),
                "whole": [store.verify(entry.id).ok for entry in entries],
                "left": sorted(path.name for path in (home / "partial").iterdir()),
            }
        )
    )


main()
