"""`metalchat model search`: rows of what a hub has, harmless whatever it says."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from re import Pattern
from typing import Any

import pytest
from metalchat_store.testing import FakeHub

Cli = Callable[..., Any]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add_repo("org/small-llama", files={"a": b""}, license="apache-2.0", downloads=7)
        hub.add_repo("meta/Llama-1B", files={"a": b""}, license="llama3.2", gated="manual", downloads=12_345)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_a_search_prints_addresses_that_can_be_pulled(cli: Cli, hub: FakeHub, home: Path) -> None:
    done = cli("model", "search", "llama")
    assert done.out.splitlines() == [
        f"{hub.url}/meta/Llama-1B  12,345  llama3.2  gated  2026-01-01",
        f"{hub.url}/org/small-llama  7  apache-2.0  open  2026-01-01",
    ]
    assert (done.code, done.err) == (0, "")
    assert not home.exists()


def test_a_search_as_json_has_these_keys(cli: Cli, hub: FakeHub) -> None:
    (found,) = json.loads(cli("model", "search", "small", "--json").out)
    assert found == {
        "repository": f"{hub.url}/org/small-llama",
        "downloads": 7,
        "licence": "apache-2.0",
        "gated": False,
        "updated": "2026-01-01T00:00:00.000Z",
    }


def test_a_limit_is_kept(cli: Cli, hub: FakeHub) -> None:
    assert len(cli("model", "search", "llama", "--limit", "1").out.splitlines()) == 1


def test_another_hub_is_asked(cli: Cli, hub: FakeHub) -> None:
    with FakeHub() as other:
        other.add_repo("org/there", files={"a": b""})
        assert f"{other.url}/org/there" in cli("model", "search", "the", "--hub", other.url).out


def test_nothing_found_is_no_error(cli: Cli, hub: FakeHub) -> None:
    done = cli("model", "search", "nothing")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert json.loads(cli("model", "search", "nothing", "--json").out) == []


def test_t_1_names_are_shown_written_out(cli: Cli, hub: FakeHub, control: Pattern[str]) -> None:
    names = ["org/\x1b]0;title\x07x", "org/a\nb", "org/\u202egpj.exe", "org/\x9b2J", "org/a\rb", "org/\u200bm"]
    hub.fault(status=200, body=json.dumps([{"id": name} for name in names]).encode(), times=-1)
    done = cli("model", "search", "x")
    lines = done.out.splitlines()
    assert len(lines) == len(names)
    assert control.search(done.out) is None
    assert not {"\u202e", "\u200b"} & set(done.out)
    assert "\\x1b]0;title\\x07x" in lines[0]
    assert "a\\nb" in lines[1]
    text = cli("model", "search", "x", "--json").out
    assert text.isascii()
    assert [found["repository"] for found in json.loads(text)] == [f"{hub.url}/{name}" for name in names]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([""], 2),
        (["\x1b[2J"], 2),
        (["a", "--limit", "0"], 2),
        (["a", "--limit", "101"], 2),
        (["a", "--limit", "x"], 2),
        (["a", "--hub", "ftp://x"], 2),
        (["a", "--hub", "http://example.test"], 2),
        ([], 2),
    ],
)
def test_a_search_that_cannot_be_made_is_one_line(fails: Cli, hub: FakeHub, words: list[str], code: int) -> None:
    fails(code, "model", "search", *words)
    assert hub.requests == []


def test_a_hub_that_is_none_is_one_line(fails: Cli, hub: FakeHub) -> None:
    hub.fault(status=200, body=b"<html>please log in</html>", times=-1)
    assert "did not answer like a Hugging Face hub (HTML page" in fails(5, "model", "search", "x")


def test_a_refused_token_is_one_line(fails: Cli, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz")
    line = fails(3, "model", "search", "x")
    assert "refused the search" in line
    assert "hf_abc" not in line
