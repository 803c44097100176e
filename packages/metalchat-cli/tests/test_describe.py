"""`metalchat model describe` of models that are not here: what they are and need, for some kilobytes."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine import MemoryEstimate
from metalchat_engine.testing import EchoEngine
from metalchat_store.testing import FakeHub

Cli = Callable[..., Any]

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
}
KEYS = [
    "repository",
    "commit",
    "licence",
    "gated",
    "accessible",
    "refusal",
    "architecture",
    "parameters",
    "dtype",
    "quantization",
    "context_length",
    "size_bytes",
    "download_bytes",
    "weights_bytes",
    "cache_bytes_per_token",
    "template_sha256",
    "context",
    "memory_bytes",
    "machine_bytes",
    "fits",
    "fetched_bytes",
    "files",
]


def model(rows: int = 40_000) -> dict[str, bytes]:
    """A model with one tensor of `rows` times 64 numbers."""
    length = rows * 64 * 2
    tensor = {"dtype": "BF16", "shape": [rows, 64], "data_offsets": [0, length]}
    header = json.dumps({"model.embed_tokens.weight": tensor}).encode()
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": b"{}",
        "pytorch_model.bin": b"\x80",
        "model.safetensors": len(header).to_bytes(8, "little") + header + bytes(length),
    }


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


def test_a_model_elsewhere_is_described_without_being_fetched(cli: Cli, home: Path, hub: FakeHub) -> None:
    commit = hub.add_repo("org/m", files=model(), license="apache-2.0")
    found = json.loads(cli("model", "describe", f"{hub.url}/org/m", "--json").out)
    assert list(found) == KEYS
    assert (found["commit"], found["licence"], found["gated"], found["accessible"]) == (
        commit,
        "apache-2.0",
        False,
        True,
    )
    assert (found["architecture"], found["parameters"], found["dtype"]) == ("llama3", 40_000 * 64, "bfloat16")
    assert (found["context_length"], found["context"]) == (4096, 4096)
    assert found["weights_bytes"] == 40_000 * 128
    assert found["download_bytes"] > 5_000_000
    assert found["fetched_bytes"] < 100_000
    assert found["fits"] is True
    assert found["files"] == ["config.json", "tokenizer.json", "model.safetensors"]
    assert not home.exists()


def test_a_description_is_rows_of_what_is_known(cli: Cli, hub: FakeHub) -> None:
    hub.add_repo("org/m", files=model(), license="apache-2.0")
    rows = dict(line.split("  ", 1) for line in cli("model", "describe", f"{hub.url}/org/m").out.splitlines())
    rows = {key: value.strip() for key, value in rows.items()}
    assert rows["licence"] == "apache-2.0"
    assert rows["parameters"] == "2,560,000"
    assert rows["fits"] == "yes"
    assert "refusal" not in rows
    assert "quantization" not in rows


def test_the_memory_is_for_the_context_that_is_asked_for(cli: Cli, hub: FakeHub) -> None:
    hub.add_repo("org/m", files=model())
    address = f"{hub.url}/org/m"
    few = json.loads(cli("model", "describe", address, "--context", "1", "--json").out)
    many = json.loads(cli("model", "describe", address, "--context", "1001", "--json").out)
    assert many["memory_bytes"] - few["memory_bytes"] == 1000 * few["cache_bytes_per_token"]


@pytest.mark.parametrize(
    ("context", "words"),
    [
        ("0", "--context is 0, expected an integer from 1"),
        ("-5", "--context is -5, expected an integer from 1"),
        ("4097", "--context is 4097, this model has at most 4096"),
        ("1.5", "is not an integer"),
    ],
)
def test_a_context_that_the_model_has_not_is_a_mistake(fails: Cli, hub: FakeHub, context: str, words: str) -> None:
    hub.add_repo("org/m", files=model())
    assert words in fails(2, "model", "describe", f"{hub.url}/org/m", f"--context={context}")


def test_a_gated_model_is_described_by_its_listing(cli: Cli, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_repo("org/m", files=model(), gated="manual", license="llama3.2")
    hub.add_token("hf_abcdefghijklmnopqrstuvwxyz", user="alice")
    hub.grant("org/m", "alice")
    address = f"{hub.url}/org/m"
    found = json.loads(cli("model", "describe", address, "--json").out)
    assert (found["gated"], found["accessible"], found["architecture"]) == (True, False, None)
    assert found["refusal"].startswith("'org/m' needs its licence accepted")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz")
    found = json.loads(cli("model", "describe", address, "--json").out)
    assert (found["gated"], found["accessible"], found["architecture"]) == (True, True, "llama3")


def test_a_revision_is_described(cli: Cli, hub: FakeHub) -> None:
    first = hub.add_repo("org/m", files=model(10))
    hub.commit("org/m", model(20))
    found = json.loads(cli("model", "describe", f"{hub.url}/org/m", "--revision", first, "--json").out)
    assert (found["commit"], found["parameters"]) == (first, 640)


def test_a_model_in_the_store_has_one_state(fails: Cli, pulled: str) -> None:
    assert "--revision is for a repository's URL" in fails(2, "model", "describe", pulled, "--revision", "main")


def test_the_memory_of_a_model_in_the_store_is_predicted_too(cli: Cli, pulled: str, use_engine: Cli) -> None:
    class Sized(EchoEngine):
        def inspect(self, source: Any) -> Any:
            from dataclasses import replace

            return replace(super().inspect(source), weights_bytes=1000, cache_bytes_per_token=10)

    use_engine(Sized())
    assert "memory_bytes" not in json.loads(cli("model", "describe", pulled, "--json").out)
    assert json.loads(cli("model", "describe", pulled, "--context", "7", "--json").out)["memory_bytes"] == 1070


def test_an_engine_that_predicts_memory_says_what_fits(cli: Cli, pulled: str, use_engine: Cli) -> None:
    class Predicting(EchoEngine):
        def estimate(self, source: Any, settings: Any, *, requests: int = 1) -> MemoryEstimate:
            tokens = settings.context_length or 4096
            return MemoryEstimate(
                context_length=tokens,
                requests=requests,
                weights=1000,
                cache=10 * tokens,
                transient=7,
                available=5000,
                largest_context=399,
                reason="as they are",
            )

    use_engine(Predicting())
    asked = json.loads(cli("model", "describe", pulled, "--context", "200", "--json").out)
    assert (asked["context"], asked["memory_bytes"], asked["fits"]) == (200, 3007, True)
    said = cli("model", "describe", pulled).out
    for line in ("memory bytes 41,967", "machine bytes 5,000", "fits no", "largest context 399", "weights as they are"):
        assert line in " ".join(said.split())


def test_weights_that_are_none_are_refused(fails: Cli, hub: FakeHub) -> None:
    files: Mapping[str, bytes] = model() | {"model.safetensors": b"x" * 1000}
    hub.add_repo("org/m", files=files)
    line = fails(6, "model", "describe", f"{hub.url}/org/m")
    assert line == (
        "metalchat: error: 'model.safetensors' is not a valid safetensors file: its header has no possible length"
    )


def test_a_repository_that_is_not_there_is_one_line(fails: Cli, hub: FakeHub) -> None:
    fails(3, "model", "describe", f"{hub.url}/org/m")
