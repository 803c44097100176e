"""A home, a working directory and an engine of one's own, and the command line run in this process."""

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import pytest
from metalchat_cli.__main__ import main
from metalchat_engine.testing import EchoEngine, write_distribution
from metalchat_store.testing import FakeHub
from metalchat_store.testing.memory import tiny_model

FOREIGN = ("METALCHAT_", "HF_", "HUGGING", "PYTHON_KEYRING", "XDG_", "NO_COLOR", "COLORTERM", "PYTHONIOENCODING")
INDEX = ("PIP_", "UV_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
NOWHERE = "http://127.0.0.1:9/simple"


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
    for name in [name for name in os.environ if name.upper().startswith(FOREIGN + INDEX)]:
        monkeypatch.delenv(name)
    for name, value in {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "PIP_INDEX_URL": NOWHERE}.items():
        monkeypatch.setenv(name, value)
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
def make_folder(place: Path) -> Callable[..., Path]:
    """Lay down a model as a person may have downloaded it; other seeds give other weights."""

    def make(name: str, *, seed: int = 1, files: Mapping[str, bytes] | None = None) -> Path:
        path = place / name
        path.mkdir(parents=True)
        for file, content in (tiny_model(size=20_000, seed=seed) if files is None else files).items():
            (path / file).write_bytes(content)
        return path

    return make


@pytest.fixture
def folder(make_folder: Callable[..., Path]) -> Path:
    """A folder with what a small model consists of."""
    return make_folder("SmallModel")


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


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """A hub with one model, `org/m`, whose first commit is `hub.first`."""
    with FakeHub() as hub:
        hub.first = hub.add_repo("org/m", files=tiny_model(size=20_000))
        yield hub


@pytest.fixture
def url(hub: FakeHub) -> str:
    """Where that model is pulled from."""
    return f"{hub.url}/org/m"


@pytest.fixture
def id(cli: Cli, url: str) -> str:
    """The id of that model, pulled, which the working directory selects."""
    id = cli("model", "pull", url).out.splitlines()[-1].removeprefix("Digest: ")
    assert cli("checkout", id).code == 0
    return id


ENGINE_MODULE = """
import os, sys, time
from pathlib import Path
from metalchat_engine import PromptProgress, ReasoningDelta, TextDelta
from metalchat_engine.testing import EchoEngine, EchoModel

closed = EchoModel.close

def close(self):
    Path("closed").touch()
    closed(self)

EchoModel.close = close
{source}
"""


@pytest.fixture
def process_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install an engine for processes: `source` defines `make`. A model that is closed leaves a file `closed`."""

    def install(source: str = "make = EchoEngine") -> None:
        where = tmp_path / "for_processes"
        write_distribution(where, "process-engine", {"metalchat.engines": {"echo": "process_engine_module:make"}})
        (where / "process_engine_module.py").write_text(ENGINE_MODULE.replace("{source}", source))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(where), os.environ.get("PYTHONPATH", "")]))
        monkeypatch.setenv("METALCHAT_ENGINE_NAME", "echo")

    return install


def command(*arguments: str | Path) -> list[str]:
    """The command line as a process."""
    return [sys.executable, "-W", "error", "-m", "metalchat_cli", *map(str, arguments)]


class Terminal:
    """A process whose three standard streams are a terminal of its own. Waits have a deadline of 30 seconds."""

    def __init__(self, arguments: Sequence[str], *, stdout: int | None = None) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 100))
        self.seen = b""
        self._shown = 0
        self.process = subprocess.Popen(
            arguments,
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,  # a thread of this process is no danger: nothing is imported there
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        """Press keys; Enter is a carriage return."""
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> str:
        """What was shown since the last wait, up to and including `text`."""
        wanted = text.encode()
        deadline = time.monotonic() + 30
        while wanted not in self.seen[self._shown :]:
            assert self._read(deadline), f"ended without {text!r}: {self.seen[self._shown :]!r}"
        end = self.seen.index(wanted, self._shown) + len(wanted)
        begin, self._shown = self._shown, end
        return self.seen[begin:end].decode()

    def end(self) -> int:
        """The exit code, once there is nothing more to see."""
        deadline = time.monotonic() + 30
        while self._read(deadline):
            pass
        return self.process.wait(timeout=30)

    @property
    def text(self) -> str:
        """All that was shown."""
        return self.seen.decode()

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"nothing happened for 30 s after {self.seen!r}"
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux's way to say that nobody holds the other end any more
            data = b""
        self.seen += data
        if b"\x1b[6n" in data:  # where is the cursor? A terminal answers
            with suppress(OSError):
                os.write(self._master, b"\x1b[1;1R")
        return bool(data)


def _take_terminal() -> None:
    import fcntl

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Start a command line in a terminal."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(Terminal(command(*arguments), **options))


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run a command line in a process of its own, between pipes."""

    def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(command(*arguments), capture_output=True, timeout=60, check=False, **options)

    return run


CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")
"""What no output in a pipe may hold."""


@pytest.fixture
def control() -> re.Pattern[str]:
    return CONTROL


@pytest.fixture
def program() -> Iterator[Callable[..., Terminal]]:
    """Start any program in a terminal."""
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(Terminal(arguments))
