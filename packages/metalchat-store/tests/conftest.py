"""A store in a temporary folder, with a remote in memory."""

from collections.abc import Callable
from pathlib import Path

import pytest
from metalchat_store import Plan, Store
from metalchat_store.testing import MemoryRemote


class Listener:
    """Keeps what a pull reports."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.files: list[tuple[str, int, int | None]] = []
        self.messages: list[str] = []

    def plan(self, listing: Plan) -> None:
        self.plans.append(listing)

    def file(self, path: str, done: int, total: int | None) -> None:
        self.files.append((path, done, total))

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def pauses() -> list[float]:
    """The seconds that stores made by `make_store` would have slept."""
    return []


@pytest.fixture
def make_store(home: Path, pauses: list[float]) -> Callable[[MemoryRemote], Store]:
    def make(remote: MemoryRemote) -> Store:
        return Store(home, environ={}, remotes={"memory": lambda: remote}, sleep=pauses.append)

    return make
