"""`embed`: a vector for each text or line."""

import io
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine.testing import EchoEngine
from metalchat_engine_mlx.testing import write_tiny_model

Cli = Callable[..., Any]


@pytest.fixture
def model(cli: Cli, place: Path) -> None:
    assert cli("model", "pull", write_tiny_model(place / "TinyModel").as_uri()).code == 0
    assert cli("checkout", "TinyModel").code == 0


def typed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_each_text_has_a_vector(cli: Cli, model: None) -> None:
    done = cli("embed", "A small house", "The sea")
    first, second = ([float(number) for number in line.split()] for line in done.out.splitlines())
    assert len(first) == len(second) == 64
    assert math.hypot(*first) == pytest.approx(1)
    assert first != second
    records = json.loads(cli("embed", "--json", "A small house", "The sea").out)
    assert [record["text"] for record in records] == ["A small house", "The sea"]
    assert records[0]["embedding"] == pytest.approx(first)


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_each_line_of_standard_input_has_a_vector(
    cli: Cli, model: None, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = cli("embed", "A small house", "The sea").out
    typed(monkeypatch, b"A small house\r\nThe sea\n")
    assert cli("embed", *arguments).out == expected


def test_what_has_no_vector_is_refused(fails: Callable[..., str], model: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "a text is empty" in fails(2, "embed", "fine", " ")
    assert "unknown option '--jsn'" in fails(2, "embed", "fine", "--jsn").lower()
    typed(monkeypatch, b"fine\n\nfine\n")
    assert "line 2 of standard input is empty" in fails(2, "embed")
    typed(monkeypatch, b"")
    assert "standard input is empty" in fails(2, "embed", "-")
    assert "shorten it" in fails(2, "embed", "word " * 3000)


def test_an_engine_without_vectors_says_so(
    fails: Callable[..., str], use_engine: Callable[[EchoEngine], EchoEngine], checked_out: str
) -> None:
    use_engine(EchoEngine())
    assert "give no vectors" in fails(2, "embed", "Hello")
