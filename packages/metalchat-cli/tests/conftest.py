"""A home, a working directory and an engine of one's own, and the command line run in this process."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from metalchat_cli.__main__ import main
from metalchat_engine.testing import EchoEngine, write_distribution
from metalchat_store.testing.memory import tiny_model

FOREIGN = ("METALCHAT_", "HF_", "HUGGING", "PYTHON_KEYRING", "XDG_", "NO_COLOR", "COLORTERM", "PYTHONIOENCODING")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One finished command line."""

    code: int
    out: str
    err: str


Cli = Callable[..., Done]
Register = Callable[..., None]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory, a working directory inside it, and nothing of this machine in the environment."""
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        monkeypatch.delenv(name)
    home = tmp_path / "alice"
    work = home / "work"
    work.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("METALCHAT_HOME", str(home / ".metalchat"))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    monkeypatch.chdir(work)
    return home


@pytest.fixture
def home(place: Path) -> Path:
    """metalchat's home, which nothing has created yet."""
    return place / ".metalchat"


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run one command line in this process; `fails` asserts the shape that every failure has."""

    def run(*arguments: str | Path) -> Done:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Done(code=code, out=captured.out, err=captured.err)

    return run


@pytest.fixture
def fails(cli: Cli) -> Callable[..., str]:
    """Run a command line that must fail with `code`: one line on standard error, which is returned, and no output."""

    def run(code: int, *arguments: str | Path) -> str:
        done = cli(*arguments)
        assert (done.code, done.out) == (code, ""), done
        assert done.err.endswith("\n")
        line = done.err[:-1]
        assert line.isprintable(), done.err
        assert "Traceback" not in line
        return line

    return run


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Register:
    """Install a distribution whose entry points are the given objects, for the length of the test."""

    def register(name: str, groups: Mapping[str, Mapping[str, Any]], *, version: str = "1.0") -> None:
        where = tmp_path / "installed" / name
        module = ModuleType(f"plugin_{name.replace('-', '_')}_{abs(hash(str(tmp_path)))}")
        points: dict[str, dict[str, str]] = {}
        for group, objects in groups.items():
            for point, found in objects.items():
                if isinstance(found, str):
                    points.setdefault(group, {})[point] = found
                else:
                    attribute = f"object_{len(vars(module))}"
                    setattr(module, attribute, found)
                    points.setdefault(group, {})[point] = f"{module.__name__}:{attribute}"
        write_distribution(where, name, points, version=version)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.syspath_prepend(where)

    return register


@pytest.fixture
def use_engine(register: Register, monkeypatch: pytest.MonkeyPatch) -> Callable[[EchoEngine], EchoEngine]:
    """Make an engine the one that the settings name."""

    def use(engine: Any) -> Any:
        register("test-engine", {"metalchat.engines": {"echo": lambda: engine}})
        monkeypatch.setenv("METALCHAT_ENGINE_NAME", "echo")
        return engine

    return use


@pytest.fixture
def folder(place: Path) -> Path:
    """A folder with what a small model consists of; no two calls give the same weights."""
    return make_folder(place / "SmallModel")


def make_folder(path: Path, *, seed: int = 1, **files: bytes) -> Path:
    """A model in a folder, as a person may have downloaded it."""
    path.mkdir(parents=True)
    for name, content in (tiny_model(size=20_000, seed=seed) | files).items():
        (path / name).write_bytes(content)
    return path


@pytest.fixture
def pulled(cli: Cli, folder: Path) -> str:
    """The id of a model in the store, which no scope selects."""
    done = cli("model", "pull", folder.as_uri())
    assert done.code == 0, done.err
    return done.out.splitlines()[-1].removeprefix("Digest: ")


@pytest.fixture
def checked_out(cli: Cli, pulled: str) -> str:
    """The id of a model that the working directory selects."""
    assert cli("checkout", pulled).code == 0
    return pulled
