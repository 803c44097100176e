"""`metalchat engine`: what is measured, and what is written down."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine import Capabilities, EngineSettings, ModelSource
from metalchat_engine.testing import EchoEngine
from metalchat_engine.testing._echo import EchoModel
from metalchat_engine_mlx.testing import write_tiny_model

Cli = Callable[..., Any]
Fails = Callable[..., str]


class Paced(EchoEngine):
    """Takes as many seconds for a token as its settings say: `off` without any that guesses ahead.

    Other lengths than 8 tokens of look-up, or 4 of a draft, take one or two seconds more.
    """

    def __init__(self, *, off: int = 10, lookup: int = 5, draft: int = 8) -> None:
        self.paces = {"lookup": lookup, "draft": draft}
        self.off = self.pace = off
        self.seconds = 0.0
        self.loads: list[dict[str, Any]] = []
        super().__init__(capabilities=Capabilities(seed=True), clock=lambda: self.seconds, on_token=self.step)

    def step(self) -> None:
        self.seconds += self.pace

    def load(self, source: ModelSource, settings: EngineSettings) -> EchoModel:
        self.loads.append(dict(settings.extra))
        self.pace = next((self.paces[key] for key in self.paces if key in settings.extra), self.off)
        self.pace += {4: 1, 16: 2}.get(settings.extra.get("lookup", 0), 0)
        self.pace += {2: 1, 8: 2}.get(settings.extra.get("draft_tokens", 0), 0)
        return super().load(source, EngineSettings(context_length=settings.context_length))


@pytest.fixture
def engine(checked_out: str, use_engine: Callable[[Any], Any]) -> Paced:
    return use_engine(Paced())


@pytest.fixture
def manifest(home: Path, checked_out: str) -> Path:
    """That of the model."""
    return home / "models" / checked_out / "metalchat.toml"


def test_a_bench_prints_a_line_for_each_size(cli: Cli, engine: Paced) -> None:
    arguments = ("--prompt-tokens", "40", "--output-tokens", "5", "--batch", "1,2", "--runs", "2")
    done = cli("engine", "bench", *arguments)
    assert (done.code, done.err) == (0, "")
    first, second = done.out.splitlines()
    assert first.startswith("batch 1  40 prompt tokens at ")
    assert "5 answer tokens at 0.1 ±0.0/s" in first
    assert second.startswith("batch 2  40 prompt tokens at ")
    assert len(engine.requests) == 1 + 2 * (1 + 2)


def test_a_bench_as_json_has_every_run(cli: Cli, engine: Paced) -> None:
    arguments = ("--prompt-tokens", "40", "--output-tokens", "5", "--batch", "2", "--runs", "3", "--json")
    found = json.loads(cli("engine", "bench", *arguments).out)
    (size,) = found["batches"]
    assert (size["batch"], len(size["runs"]), size["peak_memory"]) == (2, 3, None)
    assert size["prompt_tokens"] == {"mean": 40.0, "deviation": 0.0}
    assert {run["output_tokens"] for run in size["runs"]} == {10}
    assert found["model"].endswith("SmallModel")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--batch", "1,x"), "--batch is '1,x', expected numbers from 1 to 256"),
        (("--batch", ""), "--batch"),
        (("--batch", "0"), "--batch"),
        (("--batch", "999999999999"), "--batch"),
        (("--runs", "0"), "--runs is 0, expected an integer from 1"),
        (("--output-tokens", "1"), "--output-tokens is 1, expected an integer from 2"),
        (("--prompt-tokens", "4000"), "do not fit the context length of 4096"),
    ],
)
def test_a_bench_that_cannot_be_run_is_refused_in_one_line(
    arguments: tuple[str, ...], words: str, fails: Fails, engine: Paced
) -> None:
    assert words in fails(2, "engine", "bench", *arguments)


def test_what_is_faster_is_written_with_its_evidence_and_nothing_else_changes(
    cli: Cli, engine: Paced, manifest: Path
) -> None:
    before = manifest.read_bytes()
    done = cli("engine", "calibrate", "--runs", "2", "--tokens", "16")
    assert (done.code, done.err) == (0, "")
    *rows, verdict = done.out.splitlines()
    assert rows == [
        "off  free  0.1 ±0.0 tokens/s  1.00x",
        "off  repeating  0.1 ±0.0 tokens/s  1.00x",
        "lookup 8  free  0.2 ±0.0 tokens/s  2.00x",
        "lookup 8  repeating  0.2 ±0.0 tokens/s  2.00x",
        "lookup 4  free  0.2 ±0.0 tokens/s  1.67x  given up",
        "lookup 4  repeating  0.2 ±0.0 tokens/s  1.67x  given up",
        "lookup 16  free  0.1 ±0.0 tokens/s  1.43x  given up",
        "lookup 16  repeating  0.1 ±0.0 tokens/s  1.43x  given up",
    ]
    assert verdict == f"lookup 8 is 2.00 times as fast; written to {manifest}"
    assert [load.get("lookup") for load in engine.loads] == [16, 4, 8, None, None, 8]
    after = manifest.read_bytes()
    assert after.startswith(before)
    added = tomllib.loads(after.decode())
    assert added["engine"] == {"lookup": 8}
    evidence = added["calibration"]
    assert (evidence["chosen"], evidence["gain"], evidence["runs"], evidence["tokens"]) == ("lookup 8", 2.0, 2, 16)
    assert (evidence["free_before"], evidence["free_after"]) == (0.09, 0.18)
    assert evidence["engine"] == "test-engine 1.0"
    assert evidence["machine"].endswith("cores")
    # It is in force at once.
    assert cli("prompt", "-c", "word").code == 0
    assert engine.loads[-1]["lookup"] == 8


def test_what_gains_nothing_any_more_is_removed_byte_for_byte(cli: Cli, engine: Paced, manifest: Path) -> None:
    manifest.write_bytes(manifest.read_bytes() + b"\n[options]\nrope_theta = 5.0 # mine\n")
    before = manifest.read_bytes()
    assert cli("engine", "calibrate", "--runs", "1", "--tokens", "16").code == 0
    assert manifest.read_bytes() != before
    engine.paces["lookup"] = 10
    done = cli("engine", "calibrate", "--runs", "1", "--tokens", "16")
    assert done.out.splitlines()[-1] == f"Nothing is worth it here; the settings in {manifest} are removed"
    assert manifest.read_bytes() == before
    done = cli("engine", "calibrate", "--runs", "1", "--tokens", "16")
    assert done.out.splitlines()[-1] == "Nothing is worth it here"
    assert manifest.read_bytes() == before


def test_a_dry_run_writes_nothing_and_json_says_everything(cli: Cli, engine: Paced, manifest: Path) -> None:
    before = manifest.read_bytes()
    found = json.loads(cli("engine", "calibrate", "--runs", "1", "--tokens", "16", "--dry-run", "--json").out)
    assert manifest.read_bytes() == before
    assert (found["winner"], found["settings"], found["written"]) == ("lookup 8", {"lookup": 8}, False)
    assert [candidate["name"] for candidate in found["candidates"]] == ["off", "lookup 8", "lookup 4", "lookup 16"]
    assert [candidate["pays"] for candidate in found["candidates"]] == [False, True, True, True]
    assert found["candidates"][1]["tokens_per_second"]["free"] == {
        "mean": pytest.approx(1 / 6, rel=0.1),
        "deviation": 0,
    }
    text = cli("engine", "calibrate", "--runs", "1", "--tokens", "16", "--dry-run").out
    assert text.splitlines()[-1] == "lookup 8 is 2.00 times as fast; nothing is written"


def test_a_draft_of_the_store_is_measured_and_named_by_its_id(
    cli: Cli, engine: Paced, manifest: Path, home: Path, make_folder: Callable[..., Path]
) -> None:
    small = cli("model", "pull", make_folder("Draft", seed=2).as_uri()).out.split()[-1]
    engine.paces = {"lookup": 12, "draft": 4}
    done = cli("engine", "calibrate", "--draft", "Draft", "--runs", "1", "--tokens", "16")
    assert done.code == 0, done.err
    path = str(home / "models" / small)
    drafts = [{"draft": path, "draft_tokens": count} for count in (8, 2, 4)]
    assert engine.loads == [*drafts, {"lookup": 16}, {"lookup": 4}, {"lookup": 8}, {}]
    assert tomllib.loads(manifest.read_text())["engine"] == {"draft": small, "draft_tokens": 4}
    assert cli("prompt", "-c", "word").code == 0
    assert engine.loads[-1] == {"draft": path, "draft_tokens": 4}
    # The next calibration begins without it.
    engine.paces = {"lookup": 5, "draft": 4}  # but that is not asked for
    assert cli("engine", "calibrate", "--runs", "1", "--tokens", "16").code == 0
    assert tomllib.loads(manifest.read_text())["engine"] == {"lookup": 8}
    assert engine.loads[-2:] == [{"lookup": 8}, {}]


def test_a_draft_that_is_not_in_the_store_is_named(
    fails: Fails, engine: Paced, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "model 'Elsewhere' not found" in fails(4, "engine", "calibrate", "--draft", "Elsewhere")
    monkeypatch.setenv("METALCHAT_ENGINE_DRAFT", "Elsewhere")
    assert "model 'Elsewhere' not found" in fails(4, "prompt", "-c", "word")
    assert engine.loads == []


def test_the_doctor_takes_settings_as_answers_do_and_says_how_weights_are_kept(cli: Cli, place: Path) -> None:
    for name, bits in (("Small", None), ("Packed", 4)):
        done = cli("model", "pull", write_tiny_model(place / name, bits=bits).as_uri())
        assert done.code == 0, done.err
    assert cli("checkout", "Packed").code == 0
    manifest = Path("metalchat.toml")
    table = '[engine]\ndraft = "Small"\n[engine.adapters]\nred = "red"\n'
    manifest.write_text(manifest.read_text() + table)
    done = cli("doctor")
    assert done.code == 0, done.out
    (line,) = [line for line in done.out.splitlines() if line.startswith("ok       weights  ")]
    assert "/Packed: float32, " in line or "/Packed: as in the files: " in line
    manifest.write_text(manifest.read_text().replace('"Small"', '"Nowhere"'))
    assert "problem  engine  'draft' of [engine]: model 'Nowhere' not found" in cli("doctor").out.splitlines()


def test_a_draft_may_be_a_path(cli: Cli, engine: Paced, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METALCHAT_ENGINE_DRAFT", str(tmp_path))
    assert cli("prompt", "-c", "word").code == 0
    assert engine.loads[-1] == {"draft": str(tmp_path)}


def test_an_engine_that_cannot_guess_ahead_says_so(
    fails: Fails, checked_out: str, use_engine: Callable[[Any], Any], manifest: Path
) -> None:
    before = manifest.read_bytes()
    use_engine(EchoEngine())
    assert "unknown engine setting 'lookup'" in fails(2, "engine", "calibrate", "--tokens", "16")
    assert manifest.read_bytes() == before


def test_a_bench_shows_how_far_it_is_on_a_terminal(
    terminal: Callable[..., Any], process_engine: Callable[[], None], checked_out: str
) -> None:
    process_engine()
    shown = terminal("engine", "bench", "--prompt-tokens", "9", "--output-tokens", "2", "--runs", "2")
    assert shown.end() == 0
    assert "Measured 2 of 2: 1 at once" in shown.text
    assert "batch 1  9 prompt tokens" in shown.text
