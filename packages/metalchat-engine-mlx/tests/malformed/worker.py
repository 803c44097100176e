"""Plays cases one after the other, and says of each how it ended; `run.py` starts it, and notices when it dies.

    worker.py FOLDER FIRST STEP END

plays the seeds from FIRST to END by STEP. Before each it prints `{"seed": n}`, after it `{"seed": n, "end": ...}`.
"""

import json
import os
import resource
import shutil
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from _bases import write_bases
from _cases import ADAPTER, make
from metalchat_engine import EngineError, EngineSettings, GenerationRequest, Message, ModelSource, Sampling
from metalchat_engine_mlx import MlxEngine

SPARE = 3 * 2**30  # address space beyond what a sound model took
GROWTH = 400 * 2**20  # resident bytes that a case may add to the peak
THREADS = 30  # that may be about to end
TOKENS = 4


def main() -> None:
    folder = Path(sys.argv[1])
    first, step, end = map(int, sys.argv[2:5])
    loose: list[str] = []
    threading.excepthook = lambda args: loose.append(f"a thread: {args.exc_type.__name__}: {args.exc_value}")
    sys.unraisablehook = lambda args: loose.append(f"unraisable: {args.exc_value!r}")
    bases = write_bases(folder / "bases")
    for sound in (*bases[0], *bases[1]):
        how = play(sound)
        if how["end"] != "answered":
            raise SystemExit(f"the sound model {sound.name} is refused: {how}")
    limit()
    peak, written = resident(), complaints()
    for seed in range(first, end, step):
        say({"seed": seed})
        place = folder / "case"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        path, kind, said = make(seed, bases, place)
        outcome: dict[str, Any] = {"seed": seed, "kind": kind, "damage": said, **play(path)}
        grown = resident() - peak
        peak = max(peak, resident())
        problems = [*loose, *outcome.pop("wrong", ())]
        loose.clear()
        if grown > GROWTH:
            problems.append(f"{grown // 2**20} MiB more at the peak")
        if threading.active_count() > THREADS:
            problems.append(f"{threading.active_count()} threads are left")
        if complaints() > written:
            written = complaints()
            problems.append("it wrote to standard error")
        if (place / "canary").exists() or Path("canary").exists():
            problems.append("code of the model ran")
        say(outcome | {"wrong": problems})


def play(path: Path) -> dict[str, Any]:
    """inspect, load and a short answer: how far it came, what it said, and what was wrong with that."""
    engine, source = MlxEngine(), ModelSource(path=path, name="case")
    wrong: list[str] = []
    adapter = path / ADAPTER
    extra = {"adapters": {"one": str(adapter)}} if adapter.is_dir() else {}
    try:
        inspection = engine.inspect(source)
    except BaseException:  # noqa: BLE001 - it is what is looked for
        return {"end": "traceback", "said": "", "wrong": [f"inspect: {traceback.format_exc()}"]}
    if not inspection.loadable:
        wrong += check(inspection.reason or "")
    try:
        with engine.load(source, EngineSettings(prefill_chunk=16, extra=extra)) as model:
            if not inspection.loadable:
                wrong.append(f"inspect refuses what load loads: {inspection.reason}")
            asked = model.info.capabilities.messages
            request = GenerationRequest(
                messages=(Message.user("Hello <|im_start|> world"),) if asked else (),
                prompt=None if asked else "Hello world",
                max_tokens=TOKENS,
                sampling=Sampling(seed=1),
                adapter="one" if extra else None,
            )
            list(model.generate(request))
        return {"end": "answered", "said": "", "wrong": wrong}
    except EngineError as error:
        end = "refused" if not inspection.loadable else "refused later"
        return {"end": end, "said": str(error)[:200], "wrong": wrong + check(str(error))}
    except BaseException:  # noqa: BLE001 - it is what is looked for
        return {"end": "traceback", "said": "", "wrong": [f"load: {traceback.format_exc()}"]}


def check(message: str) -> list[str]:
    """What is wrong with a message: it must be one line that a terminal can show, of a bearable length."""
    if not message or len(message) > 1000 or not message.isprintable():
        return [f"a message that is no line: {message[:300]!a}"]
    return []


def limit() -> None:
    """From here on the process may map only so much more."""
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = pages * os.sysconf("SC_PAGE_SIZE") + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (room, room))


def complaints() -> int:
    """How much has been written to standard error, which `run.py` makes a file."""
    return os.fstat(2).st_size


def resident() -> int:
    """The peak, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def say(record: dict[str, Any]) -> None:
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
