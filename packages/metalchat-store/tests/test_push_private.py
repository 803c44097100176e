"""A push that shall be private goes to no repository that everybody sees."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from metalchat_store import PushPlan, Refused, plan_push, push
from metalchat_store.testing import FakeHub

TOKEN = "hf_canaryCANARYcanaryCANARYcanary12"
OPTIONS: dict[str, Any] = {"authorize": lambda _: f"Bearer {TOKEN}", "environ": {}, "create": True, "private": True}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add_token(TOKEN, user="alice", role="write")
        hub.add_repo("alice/m", files={"x": b"x"})
        yield hub


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(5000))
    return path


@pytest.mark.parametrize("way", [push, plan_push])
def test_what_is_to_be_private_is_not_pushed_to_where_everybody_sees_it(hub: FakeHub, file: Path, way: Any) -> None:
    with pytest.raises(Refused, match=r"'alice/m' at localhost:.* everybody sees it: leave out --private"):
        way(file, f"{hub.url}/alice/m", **OPTIONS)
    assert hub.of("cdn") == []
    assert hub.contents("alice/m") == {"x": b"x"}
    hub.state.repos["models", "alice/m"].private = True
    way(file, f"{hub.url}/alice/m", **OPTIONS)


def test_a_repository_that_somebody_makes_meanwhile_is_not_taken_for_a_private_one(hub: FakeHub, file: Path) -> None:
    class Meanwhile:
        def plan(self, plan: PushPlan) -> None:
            hub.add_repo("alice/new", files={"x": b"x"})

        def file(self, path: str, done: int, total: int | None) -> None:
            return

        def message(self, text: str) -> None:
            return

    with pytest.raises(Refused, match="everybody sees it"):
        push(file, f"{hub.url}/alice/new", progress=Meanwhile(), **OPTIONS)
    assert hub.of("cdn") == []
    assert hub.contents("alice/new") == {"x": b"x"}
