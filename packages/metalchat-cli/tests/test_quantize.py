"""`model quantize`: a smaller variant with an id of its own, and what it costs, for real."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine.testing import EchoEngine
from metalchat_engine_mlx.testing import write_tiny_model
from metalchat_engine_mlx.testing.gguf import write_llama

Cli = Callable[..., Any]


@pytest.fixture
def model(cli: Cli, place: Path) -> str:
    folder = write_tiny_model(place / "TinyModel")
    done = cli("model", "pull", folder.as_uri())
    assert done.code == 0, done.err
    assert cli("checkout", "TinyModel").code == 0
    return done.out.splitlines()[-1].removeprefix("Digest: ")


def test_a_model_becomes_smaller_and_says_what_that_cost(cli: Cli, model: str, home: Path) -> None:
    done = cli("model", "quantize")
    assert done.code == 0, done.err
    sizes, cost, digest = done.out.splitlines()
    assert re.fullmatch(r"4\d\d\.\d kB -> \d\d\d?\.\d kB", sizes)
    assert cost.startswith("perplexity ")
    assert cost.endswith("tokens of a built-in text")
    made = digest.removeprefix("Digest: ")
    assert made != model
    manifest = (home / "models" / made / "metalchat.toml").read_text()
    assert 'variant = "huggingface-4bit-g64"' in manifest
    assert "perplexity_before = " in manifest
    listed = dict(line.split("  ", 1) for line in cli("model", "list").out.splitlines())
    assert listed[made] == f"{listed[model]}  huggingface-4bit-g64"
    assert cli("checkout", made).code == 0
    assert cli("prompt", "-c", "Hello", "--max-tokens", "2").code == 0
    assert cli("model", "verify", made).out == f"{made}  ok\n"
    again = cli("model", "quantize", model)
    assert again.out == done.out


def test_the_record_has_every_figure(cli: Cli, model: str, home: Path) -> None:
    Path("text.txt").write_text("The sea, the sky, and the line between them. " * 5)
    done = cli("model", "quantize", model, "--mode", "mxfp8", "--text", "text.txt", "--json")
    record = json.loads(done.out)
    assert record["id"] in {path.name for path in (home / "models").iterdir()}
    assert record["made_of"] == model
    assert (record["variant"], record["bits"], record["group_size"]) == ("huggingface-mxfp8", 8, 32)
    assert record["text"] == "text.txt"
    assert record["perplexity_change"] == pytest.approx(record["perplexity_after"] / record["perplexity_before"] - 1)
    assert record["size"] < record["size_before"]


def test_a_gguf_file_becomes_a_checkpoint(cli: Cli, place: Path, home: Path) -> None:
    path = write_llama(place / "tiny-q8_0.gguf", types="Q8_0").path
    done = cli("model", "pull", path.as_uri())
    assert done.code == 0, done.err
    pulled = done.out.splitlines()[-1].removeprefix("Digest: ")
    done = cli("model", "quantize", pulled, "--json")
    assert (done.code, done.err) == (0, "")
    record = json.loads(done.out)
    assert record["made_of"] == pulled
    assert record["variant"].endswith("-4bit-g64")
    assert record["perplexity_change"] == pytest.approx(record["perplexity_after"] / record["perplexity_before"] - 1)
    names = {"config.json", "metalchat.toml", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in (home / "models" / record["id"]).iterdir()} == names
    answer = cli("prompt", "--model", record["id"], "-c", "hello", "--max-tokens", "3", "--temperature", "0")
    assert answer.code == 0, answer.err


def test_what_cannot_be_quantised_leaves_nothing(cli: Cli, fails: Callable[..., str], model: str, home: Path) -> None:
    assert "bits is 7, expected 2, 3, 4, 5, 6, 8" in fails(2, "model", "quantize", "--bits", "7")
    assert "mode is 'q4_k_m', expected affine" in fails(2, "model", "quantize", "--mode", "q4_k_m")
    assert "--text 'missing.txt' cannot be read" in fails(2, "model", "quantize", "--text", "missing.txt")
    Path("empty.txt").write_text("")
    assert "--text 'empty.txt' is empty" in fails(2, "model", "quantize", "--text", "empty.txt")
    assert [path.name for path in (home / "models").iterdir()] == [model]
    assert list((home / "partial").iterdir()) == []
    made = cli("model", "quantize", "--bits", "8").out.splitlines()[-1].removeprefix("Digest: ")
    assert "make a variant of what was pulled" in fails(6, "model", "quantize", made)


def test_an_engine_that_cannot_quantise_says_so(
    fails: Callable[..., str], use_engine: Callable[[EchoEngine], EchoEngine], checked_out: str
) -> None:
    use_engine(EchoEngine())
    assert fails(2, "model", "quantize") == ("metalchat: error: the engine 'echo' cannot quantise; choose --engine mlx")
