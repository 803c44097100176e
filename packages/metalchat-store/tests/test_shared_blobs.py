"""Caches of Hugging Face libraries in which repositories share their large files."""

import hashlib
import os
from pathlib import Path

import pytest
from metalchat_store import Store
from metalchat_store.testing.memory import git_blob_id, tiny_model

COMMIT = "c" * 40
XET = "ab" + "7" * 62


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub"


@pytest.fixture
def store(home: Path, cache: Path) -> Store:
    return Store(home, environ={"HF_HUB_CACHE": str(cache), "HOME": str(home.parent)})


def repository(cache: Path, name: str, *, place: Path | None = None) -> Path:
    """A repository whose weights are a link to what the cache shares, under their Xet hash; the shared file."""
    shared = cache / "blobs" / XET[:2] / XET if place is None else place
    shared.parent.mkdir(parents=True, exist_ok=True)
    (cache / "blobs").mkdir(exist_ok=True)
    (cache / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
    folder = cache / f"models--org--{name}"
    for inner in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (folder / inner).mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for path, content in tiny_model().items():
        if path.endswith(".safetensors"):
            shared.write_bytes(content)
            blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
            blob.symlink_to(os.path.relpath(shared, blob.parent))
        else:
            blob = folder / "blobs" / git_blob_id(content)
            blob.write_bytes(content)
        link = folder / "snapshots" / COMMIT / path
        link.symlink_to(os.path.relpath(blob, link.parent))
    return shared


def test_what_repositories_share_is_taken_in_once(store: Store, cache: Path) -> None:
    shared = repository(cache, "one")
    before = (shared.read_bytes(), shared.stat().st_mtime_ns, shared.stat().st_mode)
    repository(cache, "two")
    os.utime(shared, ns=(before[1], before[1]))
    done = store.adopt(store.adoptable())
    assert [adoption.error for adoption in done] == [None, None]
    assert {adoption.how for adoption in done} <= {"clone", "hard link", None}  # None: it was there already
    assert all(store.verify(adoption.entry.id).ok for adoption in done)
    usage = store.usage()
    assert (usage.entry_count, usage.shared >= 200_000) == (2, True)
    assert (shared.read_bytes(), shared.stat().st_mtime_ns, shared.stat().st_mode) == before


def test_S_4_a_shared_file_is_what_the_link_to_it_says_or_refused(store: Store, cache: Path) -> None:
    shared = repository(cache, "one")
    shared.write_bytes(bytes(200_000))
    (adoption,) = store.adopt(store.adoptable())
    assert str(adoption.error).startswith(f"'{shared}' is damaged: expected sha256 ")


@pytest.mark.parametrize("where", ["blobs/zz/" + XET, "blobs/" + XET, "blobs/ab/short", "elsewhere/ab/" + XET])
def test_S_3_only_what_is_shared_may_lie_outside_of_the_repository(store: Store, cache: Path, where: str) -> None:
    repository(cache, "one", place=cache / where)
    (adoption,) = store.adoptable()
    assert str(adoption.error) == "'model.safetensors' is a link that leads out of the cache"


def test_S_3_a_shared_folder_that_is_a_link_is_not_followed(store: Store, cache: Path, tmp_path: Path) -> None:
    repository(cache, "one")
    (cache / "blobs").rename(tmp_path / "outside")
    (cache / "blobs").symlink_to(tmp_path / "outside")
    (adoption,) = store.adoptable()
    assert str(adoption.error) == "'model.safetensors' is a link that leads out of the cache"


def test_the_folder_of_a_commit_can_be_pulled_with_what_it_shares(store: Store, cache: Path) -> None:
    repository(cache, "one")
    pulled = store.pull((cache / "models--org--one" / "snapshots" / COMMIT).as_uri())
    assert store.verify(pulled.entry.id).ok
