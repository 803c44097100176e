"""Damage on the disk. Usage: flips.py FOLDER SEED COUNT. Prints one JSON line.

`COUNT` single bytes of a model, at random places, are changed one at a time, with size and time as they were; each
must be found by `verify`. So must files that are shorter, longer, swapped, missing, links or folders.
"""

import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from _common import model, no_sync, report
from metalchat_store import Store
from metalchat_store.testing import MemoryRemote


def flip(path: Path, place: int, mask: int) -> None:
    facts = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ mask]))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _extend(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _link(path: Path) -> None:
    kept = path.with_name("kept")
    path.rename(kept)
    path.symlink_to(kept)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _zeroes(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES: tuple[Callable[[Path], None], ...] = (_truncate, _extend, _empty, Path.unlink, _link, _folder, _zeroes)


def main() -> None:
    folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    no_sync()
    dice = random.Random(seed)
    files = model(3_000, shards=3)
    store = Store(folder / "home", environ={}, remotes={"memory": lambda: MemoryRemote(files=files)})
    entry = store.pull("memory://host/org/m").entry
    names = [name for name, data in files.items() for _ in range(max(1, len(data) // 100))]
    missed: list[str] = []
    for _ in range(count):
        name = dice.choice(names)
        place, mask = dice.randrange(len(files[name])), 1 << dice.randrange(8)
        flip(entry.path / name, place, mask)
        bad = {check.path for check in store.verify(entry.id).files if not check.ok}
        if bad != {name}:
            missed.append(f"bit {mask} of byte {place} of {name}: found {sorted(bad)}")
        flip(entry.path / name, place, mask)
    if not store.verify(entry.id).ok:
        missed.append("what was put right is still called damaged")
    structural = 0
    for name in files:
        for damage in DAMAGES:
            home = folder / "damaged"
            shutil.copytree(folder / "home", home, symlinks=True)
            damaged = Store(home, environ={}, remotes={"memory": lambda: MemoryRemote(files=files)})
            path = home / "models" / entry.id / name
            path.chmod(0o600)
            damage(path)
            structural += 1
            if damaged.verify(entry.id).ok:
                missed.append(f"{damage.__name__} of {name} was not found")
            pulled = damaged.pull("memory://host/org/m")
            if not damaged.verify(pulled.entry.id).ok:
                missed.append(f"{damage.__name__} of {name} was not repaired")
            shutil.rmtree(home)
    report(flips=count, structural=structural, wrong=missed)


if __name__ == "__main__":
    main()
