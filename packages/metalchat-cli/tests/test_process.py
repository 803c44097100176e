"""What only a process shows: interrupts, pipes that break, streams that are closed or full, and terminals."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]

ENDLESS = """
def make():
    def wait():
        Path("answering").touch()
        time.sleep(0.01)
    return EchoEngine([" word" * 100_000], context_length=10**6, on_token=wait)
"""
MUCH = """
def make():
    return EchoEngine([" word" * 100_000], context_length=10**6)
"""


def start(*arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-W", "error", "-m", "metalchat_cli", *arguments], **options)


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        os.sched_yield()


@pytest.mark.parametrize("words", [["prompt", "-c", "x"], ["chat"]], ids=" ".join)
def test_an_interrupted_answer_ends_with_its_own_code_and_a_closed_model(
    checked_out: str, process_engine: Cli, words: list[str]
) -> None:
    process_engine(ENDLESS)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start(*words, **pipes) as running:
        running.stdin.write(b"x\n" * 3)
        running.stdin.flush()
        wait_until(Path("answering").exists)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (130, b"")
    assert re.fullmatch(rb"( word)+", out)
    assert Path("closed").exists()


def test_a_second_interrupt_ends_what_the_first_did_not(checked_out: str, process_engine: Cli) -> None:
    process_engine('def make():\n    Path("answering").touch()\n    time.sleep(60)\n')
    with start("prompt", "-c", "x", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        wait_until(Path("answering").exists)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    assert (running.returncode, out, err) == (130, b"", b"")


def test_a_reader_that_goes_away_ends_the_answer_quietly(checked_out: str, process_engine: Cli) -> None:
    process_engine(MUCH)
    with start("prompt", "-c", "x", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout.read(1) == b" "
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 141
    assert Path("closed").exists()


@pytest.mark.parametrize("words", [["config", "list"], ["model", "list"], ["--version"], ["plugins", "--json"]])
def test_a_reader_that_was_never_there_is_no_accident(checked_out: str, words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with start(*words, stdout=writer, stderr=subprocess.PIPE) as running:
        os.close(writer)
        assert running.stderr.read() == b""
    assert running.returncode == 141


def test_help_for_a_reader_that_was_never_there_is_no_accident() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with start("--help", stdout=writer, stderr=subprocess.PIPE) as running:
        os.close(writer)
        assert running.stderr.read() == b""
    assert running.returncode in (1, 141)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [["config", "list"], ["--version"], ["prompt", "-c", "Hello"]], ids=" ".join)
def test_a_full_disk_is_said(checked_out: str, process_engine: Cli, words: list[str]) -> None:
    process_engine()
    with Path("/dev/full").open("wb") as full, start(*words, stdout=full, stderr=subprocess.PIPE) as running:
        said = running.stderr.read().decode()
    assert running.returncode == 7
    assert said == "metalchat: error: standard output cannot be written: no space left on device\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("words", ["--version", "model list", "prompt -c Hello", "chat", "nosuch"])
def test_streams_that_are_closed_are_no_accident(
    checked_out: str, process_engine: Cli, closed: str, words: str
) -> None:
    process_engine()
    line = f'exec "$0" -W error -m metalchat_cli {words} {closed}'
    done = subprocess.run(["/bin/sh", "-c", line, sys.executable], capture_output=True, input=b"", check=False)
    assert done.returncode == (2 if words == "nosuch" else 0)
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == (1 if words == "nosuch" and "2>&-" not in closed else 0)


def test_standard_error_that_breaks_does_not_stop_the_answer(checked_out: str, process_engine: Cli) -> None:
    process_engine()
    reader, writer = os.pipe()
    os.close(reader)
    with start("prompt", "-c", "Hello", "--stats", stdout=subprocess.PIPE, stderr=writer) as running:
        os.close(writer)
        assert running.stdout.read() == b"Hello"
    assert running.returncode == 0


def test_an_answer_is_written_in_any_locale(
    checked_out: str, process_engine: Cli, process: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    process_engine()
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = process("prompt", "-c", "snow ☃")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"snow \\u2603", b"")


def test_an_answer_ends_with_a_newline_in_a_terminal_and_not_in_a_pipe(
    checked_out: str, process_engine: Cli, process: Cli, terminal: Cli
) -> None:
    process_engine()
    assert process("prompt", "-c", "Hello").stdout == b"Hello"
    window = terminal("prompt", "-c", "Hello")
    assert window.end() == 0
    assert window.text == "Hello\r\n"
    window = terminal("prompt", "-c", "Hello\n")
    assert window.end() == 0
    assert window.text == "Hello\r\n"


def test_reasoning_and_progress_are_shown_in_a_terminal_only(
    checked_out: str, process_engine: Cli, process: Cli, terminal: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    process_engine(
        "def make():\n"
        "    steps = [PromptProgress(processed=n, total=4096) for n in (1024, 4096)]\n"
        '    return EchoEngine([[*steps, ReasoningDelta(text="Hm."), TextDelta(text="Yes.")]])\n'
    )
    done = process("prompt", "-c", "x")
    assert (done.stdout, done.stderr) == (b"Yes.", b"")
    window = terminal("prompt", "-c", "x")
    assert window.end() == 0
    assert window.text == "\r\x1b[KReading the prompt: 1024 of 4096 tokens\r\x1b[K\x1b[2mHm.\x1b[0mYes.\r\n"
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    window = terminal("prompt", "-c", "x")
    assert window.end() == 0
    assert window.text == "Hm.Yes.\r\n"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_are_for_terminals_that_want_them(
    checked_out: str, process: Cli, terminal: Cli, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    plain = process("model", "list").stdout.decode()
    assert "\x1b" not in plain
    window = terminal("model", "list")
    assert window.end() == 0
    assert window.text == plain.replace(checked_out, f"\x1b[33m{checked_out}\x1b[0m").replace("\n", "\r\n")
    window = terminal("nosuch")
    assert window.end() == 2
    assert window.text.startswith("\x1b[31mmetalchat: error: ")
    monkeypatch.setenv(name, value)
    for words in (["model", "list"], ["nosuch"], ["checkout", checked_out]):
        window = terminal(*words)
        window.end()
        assert "\x1b" not in window.text


def test_a_pull_in_a_dumb_terminal_shows_no_bars(folder: Path, terminal: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    window = terminal("model", "pull", folder.as_uri())
    assert window.end() == 0
    assert "\x1b" not in window.text
    assert "Digest: " in window.text


def test_what_is_asked_in_a_chat_is_not_written_into_a_file(
    checked_out: str, process_engine: Cli, terminal: Cli
) -> None:
    process_engine()
    with Path("answers").open("wb") as answers:
        window = terminal("chat", stdout=answers.fileno())
        window.wait_for(">>>")
        window.type("Hello\r")
        window.wait_for("\x1b[?2004l")  # the first prompt may be drawn again, until it ends
        window.wait_for(">>>")
        window.type("\x04")
        assert window.end() == 0
    assert Path("answers").read_bytes() == b"Hello\n"
