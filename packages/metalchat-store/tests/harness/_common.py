"""What the programs of the harness share: a model, a token that must show up nowhere, and what a whole store is."""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from metalchat_store import Store, StoreError
from metalchat_store.testing.memory import tiny_model

TOKEN = "hf_canaryCANARYcanaryCANARYcanary12"  # the value is what is looked for
NAME = "alice/m"
CODES = {1, 2, 3, 4, 5, 6, 7, 8}


def authorize(_url: str) -> str:
    return f"Bearer {TOKEN}"


def model(size: int, *, shards: int = 1, seed: int = 1) -> dict[str, bytes]:
    """A model without the files that no pull takes."""
    files = tiny_model(size=size, seed=seed, shards=shards)
    return {name: data for name, data in files.items() if not name.endswith((".bin", ".png"))}


def problem_of(error: BaseException) -> str | None:
    """What is wrong with an error, None if it is one line, has an exit code and holds no secret."""
    text = str(error)
    if not isinstance(error, StoreError):
        return f"{type(error).__name__}: {text[:200]}"
    if error.exit_code not in CODES or not text or not text.isprintable():
        return f"not one line: {text[:200]!r}"
    return "the token is in an error" if TOKEN in text else None


def half_models(store: Store) -> list[str]:
    """Every listed model that is not whole."""
    found = []
    for entry in store.list():
        if entry.damaged is not None or not store.verify(entry.id).ok:
            found.append(f"half a model: {entry.damaged}")
    return found


def differences(folder: Path, files: dict[str, bytes]) -> list[str]:
    """Files of an entry that are not the ones of the model."""
    return [f"{name} is another" for name, data in files.items() if (folder / name).read_bytes() != data]


def leftovers(home: Path) -> list[str]:
    """What a pull that succeeded must not leave: unfinished files, blobs that no snapshot names."""
    found = [f"left in partial: {path.name}" for path in (home / "partial").iterdir()]
    named = set()
    for path in (home / "snapshots").iterdir():
        named |= {file["sha256"] for file in json.loads(path.read_text())["files"]}
    blobs = {path.parent.name + path.name for path in (home / "blobs" / "sha256").rglob("*") if path.is_file()}
    return found + [f"blob without a name: {digest}" for digest in sorted(blobs - named)]


def holds_token(folders: Iterable[Path]) -> list[str]:
    """Files below the folders that hold the token, in their names or in their bytes."""
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            if TOKEN in path.name or (path.is_file() and not path.is_symlink() and TOKEN.encode() in path.read_bytes()):
                found.append(f"the token is in {path}")
    return found


def report(**facts: object) -> None:
    """The one line that every program prints; `wrong` lists what must not be."""
    wrong = facts.get("wrong")
    shown = facts | ({"wrong": wrong[:20], "wrong_count": len(wrong)} if isinstance(wrong, list) else {})
    sys.stdout.write(json.dumps(shown) + "\n")
    sys.stdout.flush()


def no_sync() -> None:
    """A killed process loses nothing that was written: the disk is not what is tested."""
    os.fsync = lambda _descriptor: None


def preload() -> None:
    """Import what a pull imports, so that forked processes begin at once."""
    import httpx  # noqa: F401 - for the effect
    import metalchat_manifest  # noqa: F401 - for the effect
    import metalchat_store.pull
    import metalchat_store.remotes.huggingface  # noqa: F401 - for the effect
