"""A store of many models, and how long it takes to list them and to collect what nothing refers to."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

BLOBS = 10  # of each model
_UNUSED = 10  # every so many-th model is one whose entry is gone
_PROGRAM = """
import json, sys, time
from pathlib import Path
from metalchat_store import Store
home, count = Path(sys.argv[1]), int(sys.argv[2])
store = Store(home, environ={}, now=lambda: time.time() + 1e7)
def now():
    return time.perf_counter(), time.process_time()
def since(began):
    return [after - before for before, after in zip(began, now())]
began = now()
listed = store.list()
listing = since(began)
if len(listed) != count or any(entry.damaged for entry in listed):
    raise SystemExit(f"{len(listed)} models are listed")
began = now()
collected = store.gc(dry_run=True)
print(json.dumps([listing, since(began), collected.blobs]))
"""


class Times(NamedTuple):
    """Seconds that passed, and seconds of the processor."""

    wall: float
    processor: float


def many_models(home: Path, count: int) -> int:
    """Fill `home` with `count` models of ten files each, and as many more as nothing refers to; how many blobs.

    The files are written as the store lays them out, since a million fsyncs would measure the disk.
    """
    from metalchat_manifest import ModelSpec
    from metalchat_store import _publish
    from metalchat_store._layout import Layout
    from metalchat_store.blobs import Stamp
    from metalchat_store.digest import Digest
    from metalchat_store.snapshots import Snapshot, SnapshotFile, Snapshots

    layout = Layout(home)
    layout.prepare()
    real, os.fsync = os.fsync, lambda _descriptor: None
    try:
        for number in range(count + count // _UNUSED):
            repository = f"https://huggingface.co/org/model-{number}"
            spec = ModelSpec(repository=repository, architecture="llama3", partitioning="single", variant="huggingface")
            files = []
            for index in range(BLOBS):
                data = json.dumps([number, index]).encode()
                digest = Digest(hashlib.sha256(data).hexdigest())
                path = layout.blobs / digest.hex[:2] / digest.hex[2:]
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
                name = "config.json" if index == 0 else f"file-{index}.json"
                stamp = Stamp.of(path.stat())
                files.append(SnapshotFile(path=name, size=len(data), digest=digest, stamp=stamp))
            if number < count:
                snapshot = Snapshot(id=spec.id, repository=repository, commit="1" * 40, files=tuple(files))
                Snapshots(layout).write(snapshot)
                _publish.publish(layout, spec, snapshot, before=None)
    finally:
        os.fsync = real
    return BLOBS * (count + count // _UNUSED)


def timed(home: Path, count: int) -> tuple[Times, Times]:
    """A listing, and a collection that only counts, in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(home), str(count)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-1000:])
    listing, collection, unused = json.loads(done.stdout)
    if unused != BLOBS * (count // _UNUSED):
        raise RuntimeError(f"{unused} contents without a model were found")
    return Times(*listing), Times(*collection)
