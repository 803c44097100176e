"""`metalchat engine calibrate`: whether guessing ahead pays for a model on this machine, measured and noted down."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalchat_cli import home, session, terminal
from metalchat_cli.commands.engine import at_least, progressing, spread_record, spread_text

if TYPE_CHECKING:
    from metalchat_engine import EngineSettings, Standing, Trial

# What is tried; of equals, the first wins.
LOOKUPS, DRAFT_TOKENS = (8, 4, 16), (4, 2, 8)
KEYS = ("lookup", "draft", "draft_tokens")
OFF = "off"


def calibrate(
    model: str | None = None,
    /,
    *,
    draft: str | None = None,
    runs: session.Whole = None,
    tokens: session.Whole = None,
    engine: str | None = None,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Measure decoding as it is, with look-up, and with a draft; the fastest is written into the model's manifest.

    Several lengths of what is guessed are tried, and given up where they are clearly worse. The answers are the same
    with each. Nothing is written unless the gain is a tenth over all prompts, and no noise,
    and no prompt is a twentieth slower; what an earlier calibration wrote is then removed.

    Parameters
    ----------
    model
        A model in the store; the one that is checked out unless told otherwise.
    draft
        A smaller model of the same family in the store, to guess what the model will say.
    runs
        How many runs of each, in turn; 3 unless told otherwise.
    tokens
        The length of the answers; 96 unless told otherwise.
    engine
        The engine to run it with.
    dry_run
        Measure, and write nothing.
    json
        Print JSON.
    """
    from metalchat_engine import calibrate as measured
    from metalchat_engine import standings, winner
    from metalchat_engine.calibration import PROMPTS

    times, length = at_least("--runs", runs, 3), at_least("--tokens", tokens, 96, 16)
    resolved = session.settings(session.Choices(model=model, engine=engine))
    found, source, base = session.engine_for(resolved)
    choices: dict[str, dict[str, Any]] = {OFF: {}} | {f"lookup {count}": {"lookup": count} for count in LOOKUPS}
    if draft is not None:
        guesser = home.whole(draft).id
        choices |= {f"draft {count}": {"draft": guesser, "draft_tokens": count} for count in DRAFT_TOKENS}
    candidates = {name: _with(base, keys) for name, keys in choices.items()}
    trials: list[Trial] = []
    with progressing(times * len(candidates) * len(PROMPTS)) as step:
        for trial in measured(found, source, candidates, runs=times, tokens=length):
            trials.append(trial)
            step(f"{trial.candidate}, {trial.prompt}")
    table = standings(trials, candidates)
    best = winner(table)
    keys = {} if best is None else choices[best.candidate]
    name = str(resolved.section("engine").get("name", "mlx"))
    evidence = {} if best is None else _evidence(best, table[0], name, times, length)
    path = source.path / "metalchat.toml"
    written = False if dry_run else _write(path, keys, evidence)
    if json:
        terminal.json_line(
            {
                "model": source.name,
                "candidates": [_record(standing, choices[standing.candidate], trials) for standing in table],
                "winner": None if best is None else best.candidate,
                "settings": keys,
                "evidence": evidence,
                "manifest": str(path),
                "written": written,
            }
        )
        return
    for standing in table:
        for prompt, spread in standing.rates.items():
            terminal.row(
                standing.candidate,
                prompt,
                f"{spread_text(spread)} tokens/s",
                f"{standing.gains[prompt]:.2f}x",
                *(["given up"] if standing.given_up else []),
            )
        if standing.agreed < standing.answers:
            terminal.row(
                standing.candidate, f"{standing.answers - standing.agreed} of {standing.answers} answers differ"
            )
    terminal.line(_verdict(best, path, written=written, dry_run=dry_run))


def _with(base: "EngineSettings", keys: Mapping[str, Any]) -> "EngineSettings":
    """The settings in force, but for what is calibrated."""
    extra = {key: value for key, value in base.extra.items() if key not in KEYS}
    return replace(base, extra=session.with_draft({**extra, **keys}))


def _evidence(best: "Standing", off: "Standing", engine: str, runs: int, tokens: int) -> dict[str, Any]:
    """What was measured, as [calibration] keeps it: tokens a second by prompt."""
    from datetime import UTC, datetime

    from metalchat_engine import engines

    versions = [f"{point.distribution} {point.version}" for point in engines() if point.name == engine]
    rates = {f"{prompt}_before": round(spread.mean, 2) for prompt, spread in off.rates.items()}
    rates |= {f"{prompt}_after": round(spread.mean, 2) for prompt, spread in best.rates.items()}
    return {
        "chosen": best.candidate,
        "gain": round(best.gain, 3),
        **rates,
        "runs": runs,
        "tokens": tokens,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "engine": versions[0] if versions else engine,
    }


def _write(path: Path, keys: Mapping[str, Any], evidence: Mapping[str, Any]) -> bool:
    """Put the settings and the evidence into the model's manifest in place of earlier ones; whether that changed it."""
    from metalchat_manifest import edit

    with edit(path, create=False) as editor:
        before = editor.data
        for key in KEYS:
            if key in keys:
                editor.set(f"engine.{key}", keys[key])
            else:
                editor.unset(f"engine.{key}")
        editor.set_table("calibration", evidence)
        for table in ("engine", "calibration"):
            editor.drop_empty(table)
        return editor.data != before


def _record(standing: "Standing", keys: Mapping[str, Any], trials: "Sequence[Trial]") -> dict[str, Any]:
    own = [trial for trial in trials if trial.candidate == standing.candidate]
    return {
        "name": standing.candidate,
        "settings": dict(keys),
        "tokens_per_second": {prompt: spread_record(spread) for prompt, spread in standing.rates.items()},
        "gains": dict(standing.gains),
        "gain": standing.gain,
        "pays": standing.pays,
        "given_up": standing.given_up,
        "answers": standing.answers,
        "agreed": standing.agreed,
        "proposed_tokens": sum(trial.proposed_tokens for trial in own),
        "accepted_tokens": sum(trial.accepted_tokens for trial in own),
    }


def _verdict(best: "Standing | None", path: Path, *, written: bool, dry_run: bool) -> str:
    if best is None:
        return "Nothing is worth it here" + (f"; the settings in {path} are removed" if written else "")
    gained = f"{best.candidate} is {best.gain:.2f} times as fast"
    if dry_run:
        return f"{gained}; nothing is written"
    return f"{gained}; {'written to' if written else 'as it stands in'} {path}"
