"""`metalchat prompt`: what reaches the engine, and what reaches the caller."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine import (
    Capabilities,
    EngineSettings,
    Finish,
    ModelSource,
    PromptProgress,
    ReasoningDelta,
    Sampling,
    TextDelta,
    Timings,
    Usage,
)
from metalchat_engine.testing import EchoEngine
from metalchat_engine.testing._echo import EchoModel

Cli = Callable[..., Any]
USUAL = Sampling(temperature=0.8, top_p=0.95, top_k=40, min_p=0.05)


class Recording(EchoEngine):
    """Remembers how it was asked to load, takes any setting, and every kind of request."""

    def __init__(self, *replies: Any) -> None:
        super().__init__(replies, capabilities=Capabilities(seed=True, penalties=True))
        self.loads: list[tuple[ModelSource, EngineSettings]] = []
        self.models: list[EchoModel] = []

    def load(self, source: ModelSource, settings: EngineSettings) -> EchoModel:
        self.loads.append((source, settings))
        self.models.append(super().load(source, EngineSettings(context_length=settings.context_length)))
        return self.models[-1]


@pytest.fixture
def engine(checked_out: str, use_engine: Callable[[Any], Any]) -> Recording:
    """The engine of a directory that has a model checked out."""
    return use_engine(Recording())


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """What a pipe into the command holds."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def manifest(text: str) -> None:
    path = Path("metalchat.toml")
    path.write_text(path.read_text() + text)


def said(engine: Recording) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in engine.requests[-1].messages]


def test_the_text_of_the_option_is_answered(cli: Cli, engine: Recording) -> None:
    done = cli("prompt", "-c", "Hello there")
    assert (done.code, done.out, done.err) == (0, "Hello there", "")
    assert said(engine) == [("user", "Hello there")]
    assert engine.requests[0].sampling == USUAL
    assert engine.requests[0].max_tokens is None


def test_a_file_is_answered(cli: Cli, engine: Recording) -> None:
    Path("question.txt").write_text("Größe?\n", encoding="utf-8")
    assert cli("prompt", "question.txt").out == "Größe?\n"


@pytest.mark.parametrize("words", [["prompt", "-"], ["-"], ["prompt", "--stats", "-"], ["prompt", "-", "--seed", "1"]])
def test_standard_input_is_answered(
    cli: Cli, engine: Recording, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    stdin(monkeypatch, b"From a pipe\n")
    assert cli(*words).out == "From a pipe\n"


def test_the_home_may_be_chosen_before_a_lone_dash(
    cli: Cli, engine: Recording, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("METALCHAT_HOME")
    stdin(monkeypatch, b"From a pipe")
    assert cli("-f", home, "-").out == "From a pipe"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "the prompt is empty"),
        (b" \n", "the prompt is empty"),
        (b"good \xff bad", "standard input is not UTF-8 text (byte 5)"),
        (b"a" * (16 * 1024 * 1024 + 1), "standard input is larger than 16 MiB, which no prompt is"),
    ],
    ids=["empty", "blank", "not UTF-8", "too large"],
)
def test_what_is_no_prompt_is_refused_before_anything_is_loaded(
    fails: Cli, engine: Recording, monkeypatch: pytest.MonkeyPatch, data: bytes, says: str
) -> None:
    stdin(monkeypatch, data)
    assert says in fails(2, "prompt", "-")
    Path("file").write_bytes(data)
    assert says.replace("standard input", "'file'") in fails(2, "prompt", "file")
    assert engine.loads == []


@pytest.mark.parametrize("option", ["-c", "--system"])
def test_an_argument_that_is_no_text_is_refused(fails: Cli, engine: Recording, option: str) -> None:
    others = [] if option == "-c" else ["-c", "Hello"]
    assert "not UTF-8" in fails(2, "prompt", option, "bad \udcff", *others)


def test_the_options_reach_the_request(cli: Cli, engine: Recording) -> None:
    options = ["--temperature", "0.5", "--top-p", "0.9", "--top-k", "30", "--seed", "7", "--max-tokens", "2"]
    assert cli("prompt", "-c", "one two three", *options).out == "one two"
    request = engine.requests[-1]
    assert request.sampling == replace(USUAL, temperature=0.5, top_p=0.9, top_k=30, seed=7)
    assert request.max_tokens == 2


def test_the_manifest_decides_what_no_option_says(cli: Cli, engine: Recording) -> None:
    manifest(
        '[inference]\nmax_sequence_length = 64\n[inference.sampling]\ntype = "nucleus"\ntemperature = 0.6\n'
        "probability = 0.9\nk = 40\nmin_p = 0.1\nrepetition_penalty = 1.1\npresence_penalty = 0.2\n"
        "frequency_penalty = 0.3\nseed = 9\n"
    )
    assert cli("prompt", "-c", "Hello").code == 0
    assert engine.requests[-1].sampling == Sampling(
        temperature=0.6,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        seed=9,
    )
    assert engine.loads[-1][1].context_length == 64
    assert cli("prompt", "-c", "Hello", "--temperature", "1").code == 0
    assert engine.requests[-1].sampling.temperature == 1
    assert engine.requests[-1].sampling.top_p == 0.9


def test_greedy_in_the_manifest_is_temperature_zero_and_nothing_else(cli: Cli, engine: Recording) -> None:
    manifest('[inference.sampling]\ntype = "greedy"\n')
    assert cli("prompt", "-c", "Hello").code == 0
    assert engine.requests[-1].sampling == Sampling(temperature=0)
    assert cli("prompt", "-c", "Hello", "--temperature", "0.5").code == 0
    assert engine.requests[-1].sampling == replace(USUAL, temperature=0.5)


def test_temperature_zero_is_greedy_whatever_the_manifest_says(cli: Cli, engine: Recording) -> None:
    manifest("[inference.sampling]\ntemperature = 0.6\nprobability = 0.9\nk = 40\n")
    assert cli("prompt", "-c", "Hello", "--temperature", "0").code == 0
    assert engine.requests[-1].sampling == Sampling(temperature=0)


def test_the_context_length_of_the_model_is_not_taken_for_a_wish(cli: Cli, engine: Recording) -> None:
    assert cli("prompt", "-c", "Hello").code == 0
    assert engine.loads[-1][1].context_length is None


def test_the_system_prompt_comes_from_the_file_beside_the_manifest(cli: Cli, engine: Recording) -> None:
    manifest('[prompt]\nsystem = "system.md"\n')
    Path("system.md").write_text("Be brief.")
    assert cli("prompt", "-c", "Hello").out == "Hello"
    assert said(engine) == [("system", "Be brief."), ("user", "Hello")]
    assert cli("prompt", "-c", "Hello", "--system", "Be long.").code == 0
    assert said(engine) == [("system", "Be long."), ("user", "Hello")]
    assert cli("prompt", "-c", "Hello", "--system", "").code == 0
    assert said(engine) == [("user", "Hello")]


def test_a_system_prompt_that_is_missing_is_said_before_anything_is_loaded(fails: Cli, engine: Recording) -> None:
    manifest('[prompt]\nsystem = "system.md"\n')
    line = fails(2, "prompt", "-c", "Hello")
    assert line.startswith("metalchat: error: metalchat.toml line 7")
    assert "there is no such file" in line
    assert engine.loads == []


def test_other_keys_of_the_engine_table_reach_the_engine(
    cli: Cli, engine: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest('[engine]\nname = "mlx"\nbits = 4\nfast = true\n')
    monkeypatch.setenv("METALCHAT_ENGINE_FAST", "false")
    assert cli("prompt", "-c", "Hello").code == 0
    assert engine.loads[-1][1].extra == {"bits": 4, "fast": False}


def test_overrides_and_the_name_reach_the_engine(cli: Cli, engine: Recording, home: Path, checked_out: str) -> None:
    assert cli("options", "set", "rms_norm_eps", "0.1").code == 0
    assert cli("prompt", "-c", "Hello").code == 0
    source, _ = engine.loads[-1]
    assert source.path == home / "models" / checked_out
    assert source.name.endswith("/SmallModel")
    assert source.options == {"rms_norm_eps": 0.1}


def test_another_model_may_be_named(cli: Cli, engine: Recording, make_folder: Cli, home: Path) -> None:
    id = cli("model", "pull", make_folder("Other", seed=2).as_uri()).out.split()[-1]
    assert cli("prompt", "--model", "other", "-c", "Hello").code == 0
    assert engine.loads[-1][0].path == home / "models" / id


def test_another_engine_may_be_named(cli: Cli, fails: Cli, engine: Recording, register: Callable[..., None]) -> None:
    second = Recording("from the second")
    register("second-engine", {"metalchat.engines": {"second": lambda: second}})
    assert cli("prompt", "--engine", "second", "-c", "Hello").out == "from the second"
    assert engine.loads == []
    assert "engine 'third' is not installed (installed: echo, mlx, second)" in fails(
        2, "prompt", "--engine", "third", "-c", "x"
    )


def test_an_engine_of_two_distributions_is_refused(
    fails: Cli, engine: Recording, register: Callable[..., None]
) -> None:
    register("second-engine", {"metalchat.engines": {"echo": Recording}})
    line = fails(2, "prompt", "-c", "Hello")
    assert "second-engine" in line
    assert "test-engine" in line


def test_statistics_are_one_line_on_standard_error(cli: Cli, checked_out: str, use_engine: Cli) -> None:
    finish = Finish(
        reason="stop",
        usage=Usage(prompt_tokens=30, completion_tokens=11, cached_tokens=10),
        timings=Timings(prefill_seconds=0.5, decode_seconds=2.0, peak_memory=250_000_000),
    )
    use_engine(Recording([TextDelta(text="Yes."), finish]))
    done = cli("prompt", "-c", "Hello", "--stats")
    assert done.out == "Yes."
    assert done.err == (
        "30 prompt tokens at 40.0/s, 11 answer tokens at 5.0/s, first token after 0.50 s, peak memory 250 MB\n"
    )


def test_statistics_say_how_many_guessed_tokens_were_right(cli: Cli, checked_out: str, use_engine: Cli) -> None:
    usage = Usage(prompt_tokens=30, completion_tokens=11, proposed_tokens=12, accepted_tokens=7)
    timings = Timings(prefill_seconds=0.5, decode_seconds=2.0)
    use_engine(Recording([Finish(reason="stop", usage=usage, timings=timings)]))
    assert "answer tokens at 5.0/s, 7 of 12 guessed tokens right, first" in cli("prompt", "-c", "x", "--stats").err


def test_progress_and_reasoning_are_not_shown_in_a_pipe(cli: Cli, checked_out: str, use_engine: Cli) -> None:
    events = [
        PromptProgress(processed=1024, total=4096),
        ReasoningDelta(text="They greet me."),
        TextDelta(text="Hello."),
    ]
    use_engine(Recording(events))
    done = cli("prompt", "-c", "Hello")
    assert (done.out, done.err) == ("Hello.", "")


def test_the_model_is_closed_after_the_answer_and_after_an_error(cli: Cli, checked_out: str, use_engine: Cli) -> None:
    from metalchat_engine import OutOfMemory

    engine = use_engine(Recording("Hello.", [TextDelta(text="Hel"), OutOfMemory("no memory; choose a smaller model")]))
    assert cli("prompt", "-c", "Hello").code == 0
    done = cli("prompt", "-c", "Hello")
    assert (done.code, done.out) == (1, "Hel")
    assert done.err == "metalchat: error: no memory; choose a smaller model\n"
    assert [model._closed for model in engine.models] == [True, True]


def test_a_prompt_beyond_the_context_is_refused_in_one_line(fails: Cli, engine: Recording) -> None:
    manifest("[inference]\nmax_sequence_length = 4\n")
    line = fails(2, "prompt", "-c", "one two three four five")
    assert "context_length is 4" in line
    assert line.endswith(", or raise inference.max_sequence_length, which is 4")


def test_a_limit_of_the_model_itself_is_no_setting_to_raise(
    fails: Cli, checked_out: str, use_engine: Callable[[Any], Any]
) -> None:
    use_engine(EchoEngine(context_length=4))
    assert "max_sequence_length" not in fails(2, "prompt", "-c", "one two three four five")
    manifest("[inference]\nmax_sequence_length = 8\n")
    assert "max_sequence_length" not in fails(2, "prompt", "-c", "one two three four five")


def test_a_probability_of_0_names_the_key_that_has_it(fails: Cli, cli: Cli, engine: Recording) -> None:
    manifest("[inference.sampling]\nprobability = 0\n")
    says = "'inference.sampling.probability' is 0.0, expected a number above 0, up to 1"
    assert says in fails(2, "prompt", "-c", "Hello")
    assert engine.loads == []
    assert cli("prompt", "-c", "Hello", "--top-p", "0.5").code == 0
