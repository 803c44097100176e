"""What others remove or replace while it is looked at, or brought, is neither damage nor the end of a pull."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from metalchat_store import Corrupted, ModelNotFound, Repositories, Store, checks
from metalchat_store.pull import Pull
from metalchat_store.testing import MemoryRemote
from metalchat_store.testing.memory import tiny_model

URL = "memory://host/org/m"
WEIGHTS = "model.safetensors"
Make = Callable[[MemoryRemote], Store]
Look = Callable[[Store], object]
LOOKS = [lambda store: store.path("org/m"), lambda store: store.verify("org/m")]


@pytest.fixture
def store(make_store: Make) -> Store:
    store = make_store(MemoryRemote(files=tiny_model()))
    store.pull(URL)
    return store


def before_the_first(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do something once a look has found a model, and before it looks at the files."""
    real, left = checks.examine, [act]

    def examine(*arguments: object, **options: object) -> checks.Outcome:
        if left:
            left.pop()()
        return real(*arguments, **options)

    monkeypatch.setattr(checks, "examine", examine)


@pytest.mark.parametrize("look", LOOKS, ids=["path", "verify"])
def test_a_model_that_is_removed_is_not_a_damaged_one(
    store: Store, home: Path, monkeypatch: pytest.MonkeyPatch, look: Look
) -> None:
    before_the_first(monkeypatch, lambda: store.remove("org/m"))
    with pytest.raises(ModelNotFound):
        look(store)
    assert not list((home / "snapshots").iterdir())


@pytest.mark.parametrize("look", LOOKS, ids=["path", "verify"])
def test_a_model_that_is_replaced_is_looked_at_again(
    store: Store, make_store: Make, monkeypatch: pytest.MonkeyPatch, look: Look
) -> None:
    newer = make_store(MemoryRemote(files=tiny_model(seed=2)))
    before_the_first(monkeypatch, lambda: newer.pull(URL))
    look(store)
    assert store.verify("org/m").ok


def test_a_model_whose_record_is_lost_is_damaged(store: Store, home: Path) -> None:
    shutil.rmtree(home / "snapshots")
    with pytest.raises(Corrupted):
        store.path("org/m")
    assert not store.verify("org/m").ok


def test_a_dataset_that_is_removed_is_not_a_damaged_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = MemoryRemote(files=tiny_model())
    datasets = Repositories(home, "dataset", environ={}, remotes={"memory": lambda: remote})
    datasets.pull(URL)
    before_the_first(monkeypatch, lambda: datasets.remove("org/m"))
    with pytest.raises(ModelNotFound):
        datasets.path("org/m")


def test_a_pull_of_what_others_go_on_removing_ends_nevertheless(
    make_store: Make, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others cannot while the lock of the model is held."""
    real, removed = Pull._spec, []

    def spec(*arguments: object) -> object:
        found = real(*arguments)
        if not (home / "partial" / f"{found.id}.lock").exists():
            (weights,) = (
                path for path in (home / "blobs").rglob("*") if path.is_file() and path.stat().st_size > 90_000
            )
            weights.unlink()
            removed.append(weights)
        return found

    monkeypatch.setattr(Pull, "_spec", spec)
    store = make_store(MemoryRemote(files=tiny_model()))
    assert store.verify(store.pull(URL).entry.id).ok
    assert len(removed) > 1
