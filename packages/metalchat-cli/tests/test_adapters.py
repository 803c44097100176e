"""Adapters on the command line: by a name of the manifest or by a folder, loaded where they are asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine import Capabilities
from metalchat_engine.testing import EchoEngine

Cli = Callable[..., Any]


@pytest.fixture
def engine(use_engine: Callable[[EchoEngine], EchoEngine], checked_out: str) -> EchoEngine:
    return use_engine(EchoEngine(capabilities=Capabilities(seed=True, adapters=True)))


def test_an_adapter_of_the_manifest_is_loaded_where_it_is_asked_for(cli: Cli, engine: EchoEngine) -> None:
    with Path("metalchat.toml").open("a") as manifest:
        manifest.write('\n[engine.adapters]\npirate = "adapters/pirate"\nlawyer = "/somewhere/lawyer"\n')
    assert cli("prompt", "-c", "Ahoy", "--adapter", "pirate").out == "Ahoy"
    assert engine.settings[-1].extra["adapters"] == {"pirate": str(Path.cwd() / "adapters" / "pirate")}
    assert engine.requests[-1].adapter == "pirate"
    assert cli("prompt", "-c", "Ahoy").code == 0
    assert "adapters" not in engine.settings[-1].extra
    assert engine.requests[-1].adapter is None


def test_a_manifest_below_which_one_works_says_where_its_adapters_are(
    cli: Cli, engine: EchoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    above = Path.cwd()
    with Path("metalchat.toml").open("a") as manifest:
        manifest.write('\n[engine.adapters]\npirate = "pirate"\n')
    Path("below").mkdir()
    monkeypatch.chdir("below")
    assert cli("prompt", "-c", "Ahoy", "--adapter", "pirate").code == 0
    assert engine.settings[-1].extra["adapters"] == {"pirate": str(above / "pirate")}


def test_a_folder_is_an_adapter_too(cli: Cli, engine: EchoEngine) -> None:
    Path("adapters/parrot").mkdir(parents=True)
    assert cli("prompt", "-c", "Ahoy", "--adapter", "adapters/parrot").code == 0
    assert engine.settings[-1].extra["adapters"] == {"parrot": str(Path("adapters/parrot").resolve())}
    assert engine.requests[-1].adapter == "parrot"


def test_another_name_is_refused_with_those_that_there_are(fails: Callable[..., str], engine: EchoEngine) -> None:
    with Path("metalchat.toml").open("a") as manifest:
        manifest.write('\n[engine.adapters]\npirate = "pirate"\nlawyer = "lawyer"\n')
    assert fails(2, "prompt", "-c", "Ahoy", "--adapter", "doctor") == (
        "metalchat: error: --adapter 'doctor' is neither a folder nor a name of [engine.adapters], which has lawyer,"
        " pirate"
    )
    assert engine.requests == []


def test_an_engine_without_adapters_says_so(
    fails: Callable[..., str], use_engine: Callable[[EchoEngine], EchoEngine], checked_out: str
) -> None:
    use_engine(EchoEngine())
    Path("parrot").mkdir()
    assert "adapters" in fails(2, "prompt", "-c", "Ahoy", "--adapter", "parrot")
