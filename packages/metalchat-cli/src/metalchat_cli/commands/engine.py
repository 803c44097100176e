"""`metalchat engine`: how fast it answers here, and what makes it faster."""

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import cyclopts

from metalchat_cli import errors, session, terminal
from metalchat_cli.sizes import size_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metalchat_engine import BatchRun, Spread

app = cyclopts.App(
    name="engine", help="Measure how fast an engine answers, and what makes it faster.", help_format="plaintext"
)
app.command(
    "metalchat_cli.commands.calibrate:calibrate",
    name="calibrate",
    help="Find out whether guessing ahead makes a model faster on this machine, and note it down if so.",
)


@app.command
def bench(
    model: str | None = None,
    /,
    *,
    prompt_tokens: session.Whole = None,
    output_tokens: session.Whole = None,
    batch: str = "1",
    runs: session.Whole = None,
    engine: str | None = None,
    json: bool = False,
) -> None:
    """Measure prefill and decoding: tokens a second, time to the first token, peak memory.

    Parameters
    ----------
    model
        A model in the store; the one that is checked out unless told otherwise.
    prompt_tokens
        The length of the prompts, about; 512 unless told otherwise. They are random words.
    output_tokens
        The length of the answers, unless the model ends them before; 128 unless told otherwise.
    batch
        How many requests at once, such as 1,2,8.
    runs
        How many runs of each, in turn; 3 unless told otherwise.
    engine
        The engine to run it with.
    json
        Print JSON, with every run.
    """
    from metalchat_engine import bench as measured

    prompt, output = at_least("--prompt-tokens", prompt_tokens, 512), at_least("--output-tokens", output_tokens, 128, 2)
    times, sizes = at_least("--runs", runs, 3), _sizes(batch)
    found, source, settings = session.engine_for(session.settings(session.Choices(model=model, engine=engine)))
    done: list[BatchRun] = []
    with found.load(source, settings) as loaded, progressing(times * len(sizes)) as step:
        name = loaded.info.name
        for run in measured(loaded, prompt_tokens=prompt, output_tokens=output, batches=sizes, runs=times):
            done.append(run)
            step(f"{len(run.answers)} at once")
    by_size = {size: [run for run in done if len(run.answers) == size] for size in sizes}
    if json:
        terminal.json_line({"model": name, "batches": [_record(size, of_size) for size, of_size in by_size.items()]})
        return
    for size, of_size in by_size.items():
        terminal.row(*_cells(size, of_size))


def at_least(option: str, given: int | None, default: int, low: int = 1) -> int:
    """The value of an option.

    Raises:
        Usage: it is too low.
    """
    if given is not None and given < low:
        raise errors.Usage(f"{option} is {given}, expected an integer from {low}")
    return default if given is None else given


@contextmanager
def progressing(total: int) -> "Iterator[Any]":
    """What to call after each of `total` steps, with what it was; shown on a terminal."""
    done = 0
    shown = terminal.shows_progress()

    def step(what: str) -> None:
        nonlocal done
        done += 1
        if shown:
            terminal.status(f"Measured {done} of {total}: {what}")

    if shown:
        terminal.status(f"Measured 0 of {total}")
    try:
        yield step
    finally:
        if shown:
            terminal.status("")


def spread_text(spread: "Spread | None", digits: int = 1) -> str:
    """`12.3 ±0.4`."""
    return "-" if spread is None else f"{spread.mean:.{digits}f} ±{spread.deviation:.{digits}f}"


def spread_record(spread: "Spread | None") -> dict[str, float] | None:
    return None if spread is None else {"mean": spread.mean, "deviation": spread.deviation}


def _sizes(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isascii() and part.isdecimal() and len(part) < 4 and 0 < int(part) <= 256 for part in parts):
        raise errors.Usage(f"--batch is '{text}', expected numbers from 1 to 256 such as 1,2,8")
    return list(dict.fromkeys(map(int, parts)))


def _spread(values: "Iterable[float | None]") -> "Spread | None":
    """That of the values that there are."""
    from metalchat_engine import Spread

    known = [value for value in values if value is not None]
    return Spread.of(known) if known else None


def _measures(runs: "Sequence[BatchRun]") -> "dict[str, Spread | None]":
    return {
        "prompt_tokens": _spread(run.prompt_tokens / len(run.answers) for run in runs),
        "output_tokens": _spread(run.completion_tokens / len(run.answers) for run in runs),
        "prefill_tokens_per_second": _spread(run.prefill_rate for run in runs),
        "decode_tokens_per_second": _spread(run.decode_rate for run in runs),
        "first_token_seconds": _spread(run.first_token_seconds for run in runs),
    }


def _record(size: int, runs: "Sequence[BatchRun]") -> dict[str, Any]:
    return {
        "batch": size,
        **{name: spread_record(spread) for name, spread in _measures(runs).items()},
        "peak_memory": max((run.peak_memory or 0 for run in runs), default=0) or None,
        "runs": [
            {
                "prompt_tokens": run.prompt_tokens,
                "output_tokens": run.completion_tokens,
                "prefill_tokens_per_second": run.prefill_rate,
                "decode_tokens_per_second": run.decode_rate,
                "first_token_seconds": run.first_token_seconds,
                "peak_memory": run.peak_memory,
            }
            for run in runs
        ],
    }


def _cells(size: int, runs: "Sequence[BatchRun]") -> list[str]:
    prompt, output, prefill, decode, first = _measures(runs).values()
    memory = max((run.peak_memory or 0 for run in runs), default=0)
    cells = [
        f"batch {size}",
        f"{0 if prompt is None else prompt.mean:.0f} prompt tokens at {spread_text(prefill)}/s",
        f"{0 if output is None else output.mean:.0f} answer tokens at {spread_text(decode)}/s",
        f"first token after {spread_text(first, 2)} s",
    ]
    return [*cells, f"peak memory {size_text(memory)}"] if memory else cells
