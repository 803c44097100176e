"""`metalchat chat`: turns, history, commands, and interruptions, in a pipe and in a terminal."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine.testing import EchoEngine

Cli = Callable[..., Any]

LONG = """
def make():
    return EchoEngine([" word" * 100_000], context_length=10**6, on_token=lambda: time.sleep(0.001))
"""
PASTE = "\x1b[?2004l"  # what ends the line that was typed"


@pytest.fixture
def engine(checked_out: str, use_engine: Callable[[Any], Any]) -> EchoEngine:
    return use_engine(EchoEngine())


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Say what a pipe into the command holds."""

    def set_stdin(data: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))

    return set_stdin


def asked(engine: EchoEngine) -> list[list[str]]:
    return [[f"{message.role}: {message.text}" for message in request.messages] for request in engine.requests]


def test_each_line_of_a_pipe_is_a_turn_and_the_history_goes_along(
    cli: Cli, engine: EchoEngine, typed: Callable[[bytes], None]
) -> None:
    typed("one\r\nzwei ☃\n\n  \nthree".encode())
    done = cli("chat")
    assert (done.code, done.out, done.err) == (0, "one\nzwei ☃\nthree\n", "")
    assert asked(engine) == [
        ["user: one"],
        ["user: one", "assistant: one", "user: zwei ☃"],
        ["user: one", "assistant: one", "user: zwei ☃", "assistant: zwei ☃", "user: three"],
    ]
    assert len({request.conversation for request in engine.requests}) == 1


def test_the_system_prompt_leads_every_turn(cli: Cli, engine: EchoEngine, typed: Callable[[bytes], None]) -> None:
    typed(b"one\ntwo\n")
    assert cli("chat", "--system", "Be brief.", "--max-tokens", "5", "--seed", "3").code == 0
    assert [turns[0] for turns in asked(engine)] == ["system: Be brief."] * 2
    assert [request.max_tokens for request in engine.requests] == [5, 5]
    assert [request.sampling.seed for request in engine.requests] == [3, 3]


def test_reset_forgets_and_exit_ends(cli: Cli, engine: EchoEngine, typed: Callable[[bytes], None]) -> None:
    typed(b"one\n/reset\ntwo\n /exit \nthree\n")
    assert cli("chat").out == "one\ntwo\n"
    assert asked(engine) == [["user: one"], ["user: two"]]


def test_other_words_after_a_slash_are_said_to_be_unknown_and_not_asked(
    cli: Cli, engine: EchoEngine, typed: Callable[[bytes], None]
) -> None:
    typed(b"/help\n/rest now\n/\none\n")
    done = cli("chat")
    assert done.out == "one\n"
    first, second, third = done.err.splitlines()
    assert first == "/reset forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C stops an answer."
    assert second == f"there is no command '/rest'. {first}"
    assert third == f"there is no command '/'. {first}"
    assert asked(engine) == [["user: one"]]


def test_a_conversation_that_is_too_long_is_said_and_goes_on(
    cli: Cli, checked_out: str, use_engine: Callable[[Any], Any], typed: Callable[[bytes], None]
) -> None:
    engine = use_engine(EchoEngine(context_length=8))
    typed(b"one two\nthree four five six\n/reset\nseven\n")
    done = cli("chat")
    assert (done.code, done.out) == (2, "one two\nseven\n")
    assert done.err.count("\n") == 1
    assert "context_length is 8" in done.err
    assert done.err.endswith("/reset forgets the conversation\n")
    assert asked(engine)[-1] == ["user: seven"]


def test_a_line_that_is_no_text_ends_the_chat_and_says_which(
    cli: Cli, engine: EchoEngine, typed: Callable[[bytes], None]
) -> None:
    typed(b"one\ntwo \xff\nthree\n")
    done = cli("chat")
    assert (done.code, done.out) == (2, "one\n")
    assert done.err == "metalchat: error: line 2 of standard input is not UTF-8 text (byte 4)\n"


def test_an_empty_pipe_is_a_success(cli: Cli, engine: EchoEngine, typed: Callable[[bytes], None]) -> None:
    typed(b"")
    done = cli("chat")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_the_model_is_loaded_before_anything_is_read(fails: Cli, typed: Callable[[bytes], None]) -> None:
    typed(b"one\n")
    assert fails(2, "chat").startswith("error: requested scope not checked out")


def test_a_conversation_in_a_terminal(terminal: Cli, process_engine: Cli, checked_out: str) -> None:
    process_engine()
    window = terminal("chat")
    window.wait_for("Ctrl-C stops an answer.")
    window.wait_for(">>>")
    window.type("one two\r")
    window.wait_for(f"{PASTE}one two\r\n")
    window.wait_for(">>>")
    window.type("three\r")
    window.wait_for(f"{PASTE}three\r\n")
    window.wait_for(">>>")
    window.type("\x04")
    assert window.end() == 0
    assert "Traceback" not in window.text


def test_an_interrupt_stops_the_answer_and_not_the_chat(terminal: Cli, process_engine: Cli, checked_out: str) -> None:
    process_engine(LONG)
    window = terminal("chat")
    window.wait_for(">>>")
    window.type("talk\r")
    window.wait_for(f"{PASTE} word word")
    window.type("\x03")
    window.wait_for("\r\n")
    window.wait_for(">>>")
    window.type("again\r")
    window.wait_for(f"{PASTE}again\r\n")
    window.wait_for(">>>")
    window.type("\x03")  # at the prompt it drops the line, and no more
    window.wait_for(">>>")
    window.type("/exit\r")
    assert window.end() == 0
    assert Path("closed").exists()
    assert "Traceback" not in window.text
