"""A variant that was made here: an id of its own, verified like any model, and never fetched from anywhere."""

from collections.abc import Callable
from pathlib import Path

import pytest
from metalchat_store import Entry, NotAModel, Refused, Store
from metalchat_store.testing.memory import tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    for name, content in tiny_model(size=20_000, seed=1).items():
        (path / name).write_bytes(content)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home", environ={})


@pytest.fixture
def entry(store: Store, folder: Path) -> Entry:
    return store.pull(folder.as_uri()).entry


def writing(seed: int = 2) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, content in tiny_model(size=9_000, seed=seed).items():
            (folder / name).write_bytes(content)

    return write


def test_a_variant_has_the_id_of_its_own_name(store: Store, entry: Entry) -> None:
    from metalchat_manifest import ModelSpec

    made = store.derive(entry, "4bit-g64", writing())
    assert entry.spec is not None
    spec = ModelSpec(
        repository=entry.spec.repository,
        architecture=entry.spec.architecture,
        partitioning=entry.spec.partitioning,
        variant="huggingface-4bit-g64",
    )
    assert (made.id, made.spec) == (spec.id, spec)
    assert {one.id for one in store.list()} == {entry.id, made.id}
    assert (store.path(made.id) / "config.json").read_bytes() == tiny_model(size=9_000, seed=2)["config.json"]
    assert store.verify(made.id).ok
    assert store.derived(entry, "4bit-g64") == store.find(made.id)
    assert store.derived(entry, "8bit-g64") is None
    assert list((store.home / "partial").iterdir()) == []


def test_a_variant_is_not_what_its_repository_is_asked_for(store: Store, entry: Entry, folder: Path) -> None:
    made = store.derive(entry, "4bit-g64", writing())
    assert store.lookup(folder.as_uri()) == store.find(entry.id)
    again = store.pull(folder.as_uri())
    assert (again.already, again.entry.id) == (True, entry.id)
    assert store.find("model").id == entry.id
    store.remove(entry.id)
    assert store.find("model").id == made.id
    assert store.lookup(folder.as_uri()) is None
    assert store.pull(folder.as_uri()).entry.id == entry.id
    assert store.verify(made.id).ok
    adoptable = store.adoptable([folder])
    assert [adoption.entry.id for adoption in adoptable if adoption.entry] == [entry.id]


def test_a_variant_that_is_made_again_takes_the_place_of_the_first(store: Store, entry: Entry) -> None:
    first = store.derive(entry, "4bit-g64", writing(2))
    weights = store.path(first.id) / "model.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    assert store.derived(entry, "4bit-g64") is None
    second = store.derive(entry, "4bit-g64", writing(3))
    assert second.id == first.id
    assert weights.read_bytes() != before
    assert store.verify(second.id).ok


def test_nothing_is_left_of_one_that_fails(store: Store, entry: Entry) -> None:
    def fail(folder: Path) -> None:
        writing()(folder)
        raise RuntimeError("half way")

    blobs = sorted((store.home / "blobs").rglob("*"))
    with pytest.raises(RuntimeError, match="half way"):
        store.derive(entry, "4bit-g64", fail)
    with pytest.raises(NotAModel):
        store.derive(entry, "4bit-g64", lambda folder: (folder / "notes.txt").write_text("x"))
    assert [one.id for one in store.list()] == [entry.id]
    assert sorted((store.home / "blobs").rglob("*")) == blobs
    assert list((store.home / "partial").iterdir()) == []


def test_what_has_no_source_is_neither_updated_nor_fetched(store: Store, entry: Entry) -> None:
    made = store.derive(entry, "4bit-g64", writing())
    assert [one.entry.id for one in store.outdated()] == [entry.id]
    lock = store.lock(made.id)
    assert store.restore(lock).already
    for call in (store.update, store.plan_update):
        with pytest.raises(Refused, match="was made here"):
            call(made.id)
    weights = store.path(made.id) / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"damaged")
    with pytest.raises(Refused, match="make it again"):
        store.repair(made.id)
    with pytest.raises(Refused, match="make it again"):
        store.restore(lock)


def test_a_variant_of_a_variant_is_refused(store: Store, entry: Entry) -> None:
    made = store.derive(entry, "8bit-g64", writing())
    with pytest.raises(NotAModel, match="make a variant of what was pulled"):
        store.derive(made, "4bit-g64", writing())
