"""Crash states of a pull by an ordering model: a simulated power failure. Usage: power.py FOLDER SEED RANDOM STEP.

Every call that changes the disk is recorded. For each point between two calls, states are built in which what was not
synchronised is lost or torn: all of it, none of it, the data but not the names, and `RANDOM` mixtures, in which each
folder keeps some first part of its changes and each file some part of its data. In each of them no name among the
blobs that a snapshot gives may have other bytes, no half model may be listed, and the next pull must complete.
Prints one JSON line. What the model promises is less than what ext4, XFS or APFS do; it is not a power cut.
"""

# ruff: noqa: PTH100, PTH115, PTH116, PTH118 - functions of os are what is recorded, and pathlib would call them

import hashlib
import json
import os
import random
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from _common import half_models, leftovers, model, report
from metalchat_store import Store, _publish
from metalchat_store.testing import MemoryRemote

URL = "memory://host/org/m"
_GONE = 4999999  # no process has that number: the one that wrote does not survive a power failure
Change = tuple[str, int, str, int]  # what, in which folder, under which name, which file or folder


@dataclass(slots=True)
class Operation:
    """One recorded call: changes of names that belong together, bytes of a file, or a synchronisation."""

    changes: tuple[Change, ...] = ()
    file: int = -1
    offset: int = 0
    data: bytes = b""
    synced: int = -1

    def folders(self) -> set[int]:
        return {folder for _, folder, _, _ in self.changes}


@dataclass(slots=True)
class State:
    """Folders by number: name to file or folder. Files by number: their bytes."""

    folders: dict[int, dict[str, int]]
    files: dict[int, bytes]

    def build(self, number: int, path: Path, made: dict[int, Path]) -> None:
        path.mkdir()
        for written, item in self.folders[number].items():
            name = written.replace(f"~{os.getpid()}-", f"~{_GONE}-")
            if item in self.folders:
                self.build(item, path / name, made)
            elif item in made:
                os.link(made[item], path / name)
            else:
                (path / name).write_bytes(self.files[item])
                made[item] = path / name


@dataclass
class Recorder:
    """Takes the place of functions of `os` and writes down what they do below `root`."""

    root: Path
    log: list[Operation] = field(default_factory=list)
    _numbers: dict[int, int] = field(default_factory=dict)
    _next: int = 1
    _real: dict[str, Callable[..., object]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._numbers[os.stat(self.root).st_ino] = 0
        for name in ("open", "pwrite", "fsync", "rename", "replace", "link", "unlink", "mkdir", "rmdir"):
            self._real[name] = getattr(os, name)
            setattr(os, name, self._wrapped(name, getattr(self, f"_{name}")))
        self._exchange, _publish.exchange = _publish.exchange, self._exchanged

    def restore(self) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)
        _publish.exchange = self._exchange

    def _wrapped(self, name: str, act: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            with self._lock:
                return act(self._real[name], *args, **options)

        return call

    def _place(self, path: object, dir_fd: int | None = None) -> tuple[int, str] | None:
        """The number of the folder that a path is in, and the name there; None outside."""
        text = os.fsdecode(path) if not isinstance(path, int) else os.readlink(f"/proc/self/fd/{path}")
        if dir_fd is not None:
            text = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), text)
        folder, name = os.path.split(os.path.abspath(text))
        try:
            number = self._numbers.get(os.stat(folder).st_ino)
        except OSError:
            return None
        inside = os.path.abspath(text).startswith(f"{self.root}/")
        return (number, name) if inside and number is not None else None

    def _new(self, inode: int) -> int:
        self._numbers[inode] = self._next
        self._next += 1
        return self._next - 1

    def _named(self, path: object, dir_fd: int | None = None) -> int:
        return self._numbers.get(os.lstat(path, dir_fd=dir_fd).st_ino, -1)  # type: ignore[arg-type]

    def _note(self, *changes: Change) -> None:
        self.log.append(Operation(changes=changes))

    def _open(self, real: Callable[..., int], path: object, flags: int, *rest: object, **options: object) -> int:
        creates = flags & os.O_CREAT and not os.path.lexists(path)  # type: ignore[arg-type]
        descriptor = real(path, flags, *rest, **options)
        place = self._place(path) if creates else None
        if place is not None:
            self._note(("add", *place, self._new(os.fstat(descriptor).st_ino)))
        return descriptor

    def _pwrite(self, real: Callable[..., int], descriptor: int, data: bytes, offset: int) -> int:
        count = real(descriptor, data, offset)
        number = self._numbers.get(os.fstat(descriptor).st_ino)
        if number is not None:
            self.log.append(Operation(file=number, offset=offset, data=bytes(data)[:count]))
        return count

    def _fsync(self, _real: Callable[..., None], descriptor: int) -> None:
        number = self._numbers.get(os.fstat(descriptor).st_ino)
        if number is not None:
            self.log.append(Operation(synced=number))

    def _rename(self, real: Callable[..., None], source: object, target: object) -> None:
        before, after, number = self._place(source), self._place(target), self._named(source)
        real(source, target)
        if before is not None and after is not None:
            self._note(("remove", *before, -1), ("add", *after, number))

    _replace = _rename

    def _link(self, real: Callable[..., None], source: object, target: object, **options: object) -> None:
        real(source, target, **options)
        place = self._place(target)
        if place is not None:
            self._note(("add", *place, self._named(target)))

    def _unlink(self, real: Callable[..., None], path: object, *, dir_fd: int | None = None) -> None:
        place = self._place(path, dir_fd)
        real(path, dir_fd=dir_fd)
        if place is not None:
            self._note(("remove", *place, -1))

    _rmdir = _unlink

    def _mkdir(self, real: Callable[..., None], path: object, *rest: object, **options: object) -> None:
        real(path, *rest, **options)
        place = self._place(path)
        if place is not None:
            self._note(("add", *place, self._new(os.lstat(path).st_ino)))  # type: ignore[arg-type]

    def _exchanged(self, one: Path, other: Path) -> bool:
        with self._lock:
            left, right = self._place(one), self._place(other)
            numbers = (self._named(one), self._named(other))
            if not self._exchange(one, other) or left is None or right is None:
                return False
            self._note(("add", *left, numbers[1]), ("add", *right, numbers[0]))
            return True


def states(log: list[Operation], start: State, dice: random.Random, count: int, step: int) -> Iterator[State]:
    """The states that a power failure after each `step`-th call may leave."""
    for end in range(1, len(log) + 1, step):
        done = log[:end]
        yield crashed(done, start, lambda _: 0.0, lambda _: 0.0)
        yield crashed(done, start, lambda _: 1.0, lambda _: 1.0)
        yield crashed(done, start, lambda _: 1.0, lambda _: 0.0)
        yield crashed(done, start, lambda _: 1.0, lambda _: 0.5)
        for _ in range(count):
            names: dict[int, float] = {}
            bytes_: dict[int, float] = {}
            yield crashed(
                done,
                start,
                lambda folder, kept=names: kept.setdefault(folder, dice.choice([0.0, dice.random(), 1.0])),
                lambda file, kept=bytes_: kept.setdefault(file, dice.choice([0.0, 0.5, 1.0])),
            )


def crashed(done: list[Operation], start: State, names: Callable[[int], float], data: Callable[[int], float]) -> State:
    """What is left when folders keep a share of their changes, and files one of their bytes, after the last sync."""
    synced = {operation.synced: at for at, operation in enumerate(done) if operation.synced >= 0}
    open_ends: dict[int, list[int]] = {}
    for at, operation in enumerate(done):
        for folder in operation.folders():
            if at > synced.get(folder, -1):
                open_ends.setdefault(folder, []).append(at)
    cuts = {
        folder: ends[int(len(ends) * names(folder)) - 1] if int(len(ends) * names(folder)) else -1
        for folder, ends in open_ends.items()
    }
    state = State({number: dict(entries) for number, entries in start.folders.items()}, dict(start.files))
    contents = {number: bytearray(content) for number, content in start.files.items()}
    for at, operation in enumerate(done):
        safe = any(at <= synced.get(folder, -1) for folder in operation.folders())
        kept = safe or all(at <= cuts.get(folder, -1) for folder in operation.folders())
        for what, folder, name, item in operation.changes:
            entries = state.folders.setdefault(folder, {})
            if kept and what == "add":
                entries[name] = item
            elif kept:
                entries.pop(name, None)
        if operation.file >= 0:
            _write(contents.setdefault(operation.file, bytearray()), operation, at, synced, data(operation.file))
    made = {item for entries in state.folders.values() for item in entries.values()}
    state.files = {number: bytes(contents.get(number, b"")) for number in made if number not in state.folders}
    return state


def _write(content: bytearray, operation: Operation, at: int, synced: dict[int, int], share: float) -> None:
    data, end = operation.data, operation.offset + len(operation.data)
    if at > synced.get(operation.file, -1):
        if share == 0.0:
            return
        data = data[: int(len(data) * share)].ljust(len(data), b"\0")
    content.extend(bytes(max(0, end - len(content))))
    content[operation.offset : end] = data


def folders_of(log: list[Operation], state: State) -> None:
    """Files that the log treats as folders are folders, empty ones too."""
    for operation in log:
        for folder in operation.folders():
            state.folders.setdefault(folder, {})


def remote(version: int) -> MemoryRemote:
    files = model(9_000, shards=2, seed=version)
    identities = "git" if version == 2 else "sha256"
    return MemoryRemote(files=files, chunk=3000, identities=identities)


def store_of(home: Path, version: int) -> Store:
    there = remote(version)
    return Store(home, environ={}, remotes={"memory": lambda: there}, sleep=lambda _: None)


def problems(home: Path, version: int) -> list[str]:
    """What is wrong with a state, and with the pull that follows."""
    found = named_but_wrong(home)
    store = store_of(home, version)
    for entry in store.list():
        if entry.damaged is None and not store.verify(entry.id).ok:
            found.append("a model that looks whole is not")
    pulled = store_of(home, version).pull(URL)
    found += [f"after the pull: {text}" for text in half_models(store)]
    for name, content in remote(version).files.items():
        if (pulled.entry.path / name).read_bytes() != content:
            found.append(f"{name} is another")
    found += [text for text in leftovers(home) if "blob" not in text]
    return found


def named_but_wrong(home: Path) -> list[str]:
    """Blobs that a snapshot gives and that hold other bytes."""
    found = []
    for path in (home / "snapshots").glob("*.json") if (home / "snapshots").is_dir() else ():
        try:
            record = json.loads(path.read_text())
        except ValueError:
            found.append("a snapshot is torn")
            continue
        for file in record["files"]:
            digest = file["sha256"]
            blob = home / "blobs" / "sha256" / digest[:2] / digest[2:]
            if not blob.exists() or hashlib.sha256(blob.read_bytes()).hexdigest() != digest:
                found.append(f"a snapshot names a blob that is not right: {file['path']}")
    return found


def recorded(folder: Path, versions: tuple[int, ...]) -> tuple[list[Operation], int]:
    """The calls of pulls of one version after the other, and where the last one begins."""
    home = folder / "recorded"
    home.mkdir()
    recorder, begins = Recorder(home), 0
    try:
        for version in versions:
            begins = len(recorder.log)
            store_of(home, version).pull(URL)
    finally:
        recorder.restore()
    shutil.rmtree(home)
    return recorder.log, begins


def main() -> None:
    folder, seed, count, step = Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    dice = random.Random(seed)
    wrong: list[str] = []
    built = calls = 0
    os_fsync = os.fsync
    for versions in ((1,), (2,), (1, 2)):
        os.fsync = os_fsync
        log, begins = recorded(folder, versions)
        os.fsync = lambda _descriptor: None
        calls += len(log) - begins
        empty = State({0: {}}, {})
        everything = crashed(log[:begins], empty, lambda _: 1.0, lambda _: 1.0)
        folders_of(log, everything)
        for state in states(log[begins:], everything, dice, count, step):
            folders_of(log, state)
            state.files = {number: data for number, data in state.files.items() if number not in state.folders}
            home = folder / "state"
            state.build(0, home, {})
            built += 1
            try:
                found = problems(home, versions[-1])
            except Exception as error:  # noqa: BLE001 - reported as what must not happen
                found = [f"{type(error).__name__}: {error}"]
            wrong += [f"versions {versions}, state {built}: {text}" for text in found]
            shutil.rmtree(home)
    report(calls=calls, states=built, wrong=wrong)


if __name__ == "__main__":
    main()
