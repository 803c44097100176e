"""`metalchat model quantize`: a variant of a model with smaller weights, and what that costs."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalchat_cli import errors, home, session, terminal
from metalchat_cli.sample_text import SAMPLE
from metalchat_cli.sizes import size_text

if TYPE_CHECKING:
    from metalchat_engine import Engine, ModelSource, Perplexity, Quantization, SupportsQuantization
    from metalchat_store import Entry

MAX_TEXT_BYTES = 16 * 2**20
_TABLE = "quantization"


def quantize(
    model: str | None = None,
    /,
    *,
    bits: session.Whole = None,
    group_size: session.Whole = None,
    mode: str = "affine",
    text: Path | None = None,
    engine: str | None = None,
    json: bool = False,
) -> None:
    """Write a model again with weights of fewer bits, keep it as a variant with an id of its own, and measure it.

    Parameters
    ----------
    model
        A model in the store; the one that is checked out unless told otherwise.
    bits
        Bits of a weight; 4 unless told otherwise.
    group_size
        How many neighbours share a scale; 64 unless told otherwise.
    mode
        affine, or another format of the engine, such as mxfp4.
    text
        A file to measure the perplexity on, before and after; a built-in text unless told otherwise.
    engine
        The engine to do it with.
    json
        Print JSON.
    """
    from metalchat_engine import Quantization

    sample = SAMPLE if text is None else _read(text)
    found, source, name = _engine(model, engine)
    asked = Quantization(bits=bits, group_size=group_size, mode=mode)
    suffix = f"{bits or 4}bit-g{group_size or 64}" if mode == "affine" else mode
    kept = home.store()
    entry = kept.find(name)
    made = kept.derived(entry, suffix)
    if made is None:
        results: list[tuple[Quantization, Perplexity, Perplexity]] = []

        def write(folder: Path) -> None:
            became = found.quantize(source, folder, asked, _progress)
            _say("Measuring the model")
            before = found.perplexity(source, sample)
            _say("Measuring what it became")
            after = found.perplexity(_at(folder, source), sample)
            _say("")
            if not math.isfinite(before.value) or not math.isfinite(after.value):
                raise errors.Incomplete("the model computes what is no number; take more bits, or another mode")
            results.append((became, before, after))

        made = kept.derive(entry, suffix, write)
        _note(made, *results[0], "a built-in text" if text is None else text.name)
    _tell(entry, made, as_json=json)


def _engine(model: str | None, engine: str | None) -> "tuple[SupportsQuantization, ModelSource, str]":
    """The engine, what it opens, and the id of that. Raises Usage for an engine that cannot quantise."""
    from metalchat_engine import SupportsQuantization

    resolved = session.settings(session.Choices(model=model, engine=engine))
    found: Engine
    found, source, _ = session.engine_for(resolved)
    if not isinstance(found, SupportsQuantization):
        raise errors.Usage(
            f"the engine '{resolved.section('engine').get('name')}' cannot quantise; choose --engine mlx"
        )
    if resolved.model is None:
        raise TypeError("there is a model where there is a source")
    return found, source, resolved.model.id


def _at(folder: Path, source: "ModelSource") -> "ModelSource":
    from dataclasses import replace

    return replace(source, path=folder)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
        if len(data) > MAX_TEXT_BYTES:
            raise errors.Usage(f"--text '{path}' is larger than 16 MiB")
        if not data.strip():
            raise errors.Usage(f"--text '{path}' is empty")
        return data.decode()
    except OSError as error:
        raise errors.Usage(f"--text '{path}' cannot be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise errors.Usage(f"--text '{path}' is not UTF-8 text (byte {error.start})") from error


def _progress(done: int, total: int) -> None:
    _say(f"Quantising: {100 * done // max(total, 1)} %")


def _say(text: str) -> None:
    if terminal.shows_progress():
        terminal.status(text)


def _note(made: "Entry", became: "Quantization", before: "Perplexity", after: "Perplexity", text: str) -> None:
    """Put what was measured into the variant's manifest."""
    from metalchat_manifest import edit

    with edit(made.path / "metalchat.toml", create=False) as editor:
        editor.set_table(
            _TABLE,
            {
                "bits": became.bits or 0,
                "group_size": became.group_size or 0,
                "mode": became.mode,
                "perplexity_before": round(before.value, 4),
                "perplexity_after": round(after.value, 4),
                "tokens": after.tokens,
                "text": text,
            },
        )


def _tell(entry: "Entry", made: "Entry", *, as_json: bool) -> None:
    import tomllib

    try:
        table: dict[str, Any] = tomllib.loads((made.path / "metalchat.toml").read_text(encoding="utf-8")).get(
            _TABLE, {}
        )
    except (OSError, ValueError):
        table = {}
    before, after = table.get("perplexity_before"), table.get("perplexity_after")
    change = None if before is None or after is None or not before else after / before - 1
    if as_json:
        terminal.json_line(
            {
                "id": made.id,
                "variant": made.spec.variant if made.spec else None,
                "made_of": entry.id,
                "size": made.size,
                "size_before": entry.size,
                **table,
                "perplexity_change": change,
            }
        )
        return
    terminal.line(f"{size_text(entry.size)} -> {size_text(made.size)}")
    if change is not None:
        tokens, text = table.get("tokens"), terminal.safe_name(str(table.get("text")))
        terminal.line(f"perplexity {before:.2f} -> {after:.2f} ({change:+.1%}) over {tokens} tokens of {text}")
    terminal.line(f"Digest: {made.id}")
