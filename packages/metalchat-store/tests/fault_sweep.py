"""Runs pulls in which the k-th call of the operating system is the last one, or fails, for every k in a range.

Usage: fault_sweep.py kill|errno first|parts|update|folder|shared FOLDER START STEP.
Prints one JSON line: counts and problems. A program of its own, so that it can fork without threads and replace
functions of `os`.
"""

import errno
import json
import os
import shutil
import sys
from pathlib import Path

from metalchat_store import Repositories, Store, StoreError, _parts, _publish
from metalchat_store.testing.faults import FaultyOs, die, fail
from metalchat_store.testing.memory import MemoryRemote, tiny_model

MEMORY = "memory://host/org/m"
ERRNOS = (errno.ENOSPC, errno.EIO, errno.EINTR, errno.EROFS, errno.EMFILE, errno.EACCES)
USER_LINE = "[inference.sampling]\ntemperature = 0.25 # mine\n"


def make_remote(version: int) -> MemoryRemote:
    files = tiny_model(seed=version, shards=2, size=60_000)
    files["README.md"] = b"the same in both versions\n"
    return MemoryRemote(files=files, chunk=8192, identities="git" if version == 2 else "sha256")


def make_store(home: Path, remote: MemoryRemote) -> Store:
    return Store(home, environ={}, remotes={"memory": lambda: remote}, sleep=lambda _seconds: None)


def address(home: Path, scenario: str) -> str:
    return (home.parent / "folder").as_uri() if scenario == "folder" else MEMORY


def prepare(home: Path, scenario: str) -> None:
    """The state before the pull: nothing, an older version with a manifest that was edited, a folder, a dataset."""
    if scenario == "parts":
        _parts.PIECE = 17_000
    if scenario == "folder":
        (home.parent / "folder").mkdir()
        for name, content in make_remote(2).files.items():
            (home.parent / "folder" / name).write_bytes(content)
    if scenario == "shared":
        remote = make_remote(2)
        remote.files = {name: content for name, content in remote.files.items() if not name.endswith("2.safetensors")}
        Repositories(home, "dataset", environ={}, remotes={"memory": lambda: remote}).pull(MEMORY)
    if scenario == "update":
        _publish.exchange = lambda *_: False  # the swap in one call is not one of `os`; its replacement is swept
        entry = make_store(home, make_remote(1)).pull(MEMORY).entry
        manifest = entry.path / "metalchat.toml"
        manifest.write_text(manifest.read_text() + "\n" + USER_LINE)
        (entry.path / "system.md").write_text("Be brief.")


def problems_now(home: Path, scenario: str) -> list[str]:
    """What is wrong with the store right after the fault."""
    store = make_store(home, make_remote(2))
    found = []
    entries = store.list()
    if scenario == "update" and len(entries) != 1:
        found.append(f"{len(entries)} entries instead of the old or the new one")
    for entry in entries:
        if entry.damaged is not None or not store.verify(entry.id).ok:
            found.append(f"half a model: {entry.damaged}")
        store.path(entry.id)
    return found


def problems_after(home: Path, scenario: str) -> tuple[list[str], int]:
    """What is wrong after the next pull, and the bytes that it fetched."""
    remote = make_remote(2)
    store = make_store(home, remote)
    pulled = store.pull(address(home, scenario))
    found = []
    if not store.verify(pulled.entry.id).ok or pulled.entry.damaged is not None:
        found.append("the next pull is not whole")
    if left := sorted(path.name for path in (home / "partial").iterdir()):
        found.append(f"left in partial: {left}")
    states = 2 if scenario == "update" else 1  # what an update replaces stays until a collection
    for name, count in (("snapshots", states), ("models", 1)):
        if len(list((home / name).iterdir())) != count:
            found.append(f"not {count} in {name}")
    wanted = {file.digest for snapshot in _snapshots(store, pulled.entry.id) for file in snapshot.files}
    blobs = [path for path in (home / "blobs").rglob("*") if path.is_file()]
    if len(blobs) != len(wanted):
        found.append(f"{len(blobs)} blobs for {len(wanted)} contents")
    if scenario == "update":
        manifest = (pulled.entry.path / "metalchat.toml").read_text()
        if USER_LINE not in manifest or (pulled.entry.path / "system.md").read_text() != "Be brief.":
            found.append("the user's edits are lost")
    return found, pulled.fetched_bytes


def _snapshots(store: Store, id: str):
    from metalchat_store._layout import Layout
    from metalchat_store.snapshots import Snapshots

    return Snapshots(Layout(store.home)).of(id)


def run_killed(home: Path, scenario: str, k: int) -> int:
    """A pull in a child process; its exit status."""
    child = os.fork()
    if child == 0:
        try:
            FaultyOs(k, die)
            make_store(home, make_remote(2)).pull(address(home, scenario))
        except BaseException:  # noqa: BLE001 - the parent looks at the exit status
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_failing(home: Path, scenario: str, k: int, code: int) -> tuple[bool, list[str]]:
    """A pull in which one call fails: whether the fault was reached, and what was raised that must not be."""
    system = FaultyOs(k, fail(code))
    try:
        make_store(home, make_remote(2)).pull(address(home, scenario))
    except StoreError as error:
        text = str(error)
        found = [f"not one line: {text!r}"] if "\n" in text or not text else []
        if error.exit_code not in (6, 7):
            found.append(f"exit code {error.exit_code} for {text!r} in {system.acted}")
    except BaseException as error:  # noqa: BLE001 - reported as what must not happen
        found = [f"{type(error).__name__} in {system.acted}: {error}"]
    else:
        found = []
    finally:
        system.restore()
    return bool(system.acted), found


def main() -> None:
    kind, scenario, folder, start, step = sys.argv[1:]
    root = Path(folder)
    os.fsync = lambda _descriptor: None  # a killed process loses nothing that was written; the disk is not tested
    prepare(root / "prepared", scenario)
    reached, wrong, fetched = 0, [], []
    k, reaching = int(start), True
    while reaching:
        for code in (0,) if kind == "kill" else ERRNOS:
            home = root / f"{k}-{code}"
            if scenario in ("update", "shared"):
                shutil.copytree(root / "prepared", home, symlinks=True)
            if kind == "kill":
                reaching, found = run_killed(home, scenario, k) == 9, []
            else:
                reaching, found = run_failing(home, scenario, k, code)
            reached += reaching
            try:
                found += problems_now(home, scenario)
                more, count = problems_after(home, scenario)
                found += more
                fetched.append(count)
            except StoreError as error:
                found.append(f"afterwards {type(error).__name__}: {error}")
            wrong += [f"k={k} {errno.errorcode.get(code, '')}: {text}" for text in found]
            shutil.rmtree(home)
        k += int(step)
    print(json.dumps({"reached": reached, "wrong": wrong, "fetched": fetched}))


main()
