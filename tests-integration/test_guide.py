"""The session of the command-line guide, as a person types it, against the double of https://huggingface.co."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from metalchat_engine_mlx.testing import write_tiny_model
from metalchat_store.testing import FakeHub

sys.path.insert(0, str(Path(__file__).parent))

from hub_over_tls import HubOverTls
from machine import COMMAND, Machine

LLAMA = "https://huggingface.co/meta-llama/Llama-3.2-1B-Instruct"
ID = "e37f2dfbbef2a9dcad4e1d83274b8ff5d55c5481"
TOKEN = "hf_CANARYCANARYCANARYCANARY"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the system's store decides which authorities are trusted"
)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    model = write_tiny_model(tmp_path / "model", max_position_embeddings=8192)
    with FakeHub() as hub:
        hub.add_token(TOKEN, user="alice")
        files = {path.name: path.read_bytes() for path in model.iterdir()}
        hub.add_repo("meta-llama/Llama-3.2-1B-Instruct", files=files, gated=True, license="llama3.2")
        hub.grant("meta-llama/Llama-3.2-1B-Instruct", "alice")
        yield hub


@pytest.fixture
def front(hub: FakeHub, tmp_path: Path) -> Iterator[HubOverTls]:
    with HubOverTls(hub, tmp_path) as front:
        yield front


@pytest.fixture
def machine(front: HubOverTls, tmp_path: Path) -> Machine:
    return Machine(tmp_path, front.environ())


@pytest.fixture
def ready(machine: Machine) -> Machine:
    """With the model pulled and checked out, by a token that only the environment has."""
    assert machine.output("model", "pull", LLAMA, HF_TOKEN=TOKEN).endswith(f"Digest: {ID}\n")
    assert machine.output("checkout", "e37f2df") == ""
    return machine


def test_a_token_a_pull_a_checkout_and_an_answer(machine: Machine, front: HubOverTls) -> None:
    assert machine.output("credential", "list") == ""
    refused = machine.run("model", "pull", LLAMA)
    assert refused.returncode == 3
    assert re.fullmatch(r"metalchat: error: .*metalchat credential add --host https://huggingface.co\n", refused.stderr)

    assert (
        machine.output(
            "credential", "add", "--host", "huggingface.co", "--username", "me", "--secret-stdin", stdin=TOKEN
        )
        == ""
    )
    assert machine.output("credential", "list") == "https://huggingface.co\tme\t@keychain\n"
    assert machine.output("model", "pull", LLAMA) == f"Pulling from '{LLAMA}'...\nDigest: {ID}\n"
    assert machine.output("model", "list", "--abbrev") == f"e37f2df  llama3  consolidated  {LLAMA}\n"
    assert machine.output("model", "list") == f"{ID}  llama3  consolidated  {LLAMA}\n"

    connections = front.connections
    assert machine.output("checkout", "e37f2df") == ""
    assert (machine.work / "metalchat.toml").read_text() == (
        "[model]\n"
        f'repository = "{LLAMA}"\n'
        'architecture = "llama3"\n'
        'partitioning = "consolidated"\n'
        'variant = "huggingface"\n'
    )
    greedy = ("--temperature", "0", "--max-tokens", "8")
    answer = machine.output("prompt", "-c", "Who are you?", *greedy)
    assert answer
    (machine.work / "question.txt").write_text("Who are you?")
    assert machine.output("prompt", "question.txt", *greedy) == answer
    assert machine.output("-", *greedy, stdin="Who are you?") == answer
    assert front.connections == connections, "what is here needs no network"
    assert machine.output("model", "pull", LLAMA).endswith(f"Digest: {ID}\n"), "what is here already is no error"

    holding = [path for path in machine.home.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert holding == []
    assert machine.output("credential", "remove", "--host", "huggingface.co") == ""
    assert TOKEN not in machine.keychain.read_text()


def test_the_global_scope_serves_directories_without_their_own(ready: Machine) -> None:
    elsewhere = ready.home / "elsewhere"
    elsewhere.mkdir()
    ready.work = elsewhere
    nothing = ready.run("prompt", "-c", "x")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert nothing.stderr.startswith("error: requested scope not checked out")
    assert ready.output("checkout", "--global", "Llama-3.2") == ""
    assert ready.output("prompt", "-c", "x", "--max-tokens", "2")


def test_options_are_set_shown_and_removed_scope_by_scope(ready: Machine) -> None:
    plain = ready.output("prompt", "-c", "x", "--temperature", "0", "--max-tokens", "8")
    assert ready.output("checkout", "--global", ID) == ""
    assert ready.output("options", "set", "--global", "rope_theta", "20000") == ""
    assert ready.output("options", "set", "rms_norm_eps", "0.5") == ""
    assert ready.output("options", "set", "--model", "max_position_embeddings", "256") == ""
    assert ready.output("options", "get", "rms_norm_eps") == "0.5\n"
    assert sorted(ready.output("options", "list", "--show-scope").splitlines()) == [
        "global  rope_theta=20000.0",
        "local  rms_norm_eps=0.5",
        "model  max_position_embeddings=256",
    ]
    changed = ready.output("prompt", "-c", "x", "--temperature", "0", "--max-tokens", "8")
    assert changed != plain, "the engine honours options"
    assert ready.output("options", "unset", "rms_norm_eps") == ""
    assert ready.output("options", "unset", "--global", "rope_theta") == ""
    assert ready.output("options", "unset", "--model", "max_position_embeddings") == ""
    assert ready.output("options", "list") == ""
    assert ready.output("prompt", "-c", "x", "--temperature", "0", "--max-tokens", "8") == plain


def test_a_chat_goes_on_after_its_answer_was_stopped(ready: Machine) -> None:
    with Terminal(ready, "chat", "--temperature", "1", "--seed", "1") as terminal:
        terminal.until(asks)
        terminal.type("tell me everything\r")
        terminal.until(answers)
        terminal.type("\x03")
        terminal.until(asks)
        terminal.type("and now?\r")
        terminal.until(answers)
        terminal.until(asks)
        terminal.type("\x04")
        assert terminal.process.wait(20) == 0


def asks(text: str) -> bool:
    """Whether a line can be typed: the editor has switched bracketed paste on."""
    return text.rfind("\x1b[?2004h") > text.rfind("\x1b[?2004l")


def answers(text: str) -> bool:
    """Whether something was said since the last line was typed."""
    return not asks(text) and len(text) - text.rfind("\x1b[?2004l") > 40


def test_an_interrupted_prompt_is_130(ready: Machine) -> None:
    with Terminal(ready, "prompt", "-c", "tell me everything", "--temperature", "1", "--seed", "1") as terminal:
        terminal.until(lambda text: len(text) > 20)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(20) == 130
        assert "Traceback" not in terminal.text


class Terminal:
    """`metalchat` on a terminal of its own."""

    def __init__(self, machine: Machine, *arguments: str) -> None:
        self._master, follower = pty.openpty()
        self.text = ""
        self.process = subprocess.Popen(
            [str(COMMAND), *arguments],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            cwd=machine.work,
            env=machine.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(follower)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def until(self, true: Callable[[str], bool]) -> None:
        """Read what is shown until `true` of all of it."""
        deadline = time.monotonic() + 60
        while not true(self.text):
            left = deadline - time.monotonic()
            assert left > 0, f"not within 60 s: {self.text!r}"
            ready, _, _ = select.select([self._master], [], [], left)
            if ready:
                self.text += os.read(self._master, 4096).decode(errors="replace")


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
