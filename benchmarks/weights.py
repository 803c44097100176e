"""What a CPU gains from weights in float32, and what they cost: packed, widened for each library, and mlx_lm."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _measure import cache_directory
from _peer_model import peer_folder
from _report import add_model

REPEATS, ANSWER, WARM_UP = 14, 32, 4
WORDS = "The quick brown fox jumps over the lazy dog and runs along the river until the evening comes. "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser)
    parser.add_argument("--blas", type=Path, metavar="PATH", action="append", default=[], help="a library to try too")
    parser.add_argument("--runs", type=int, metavar="N", default=3, help="runs of each, of which the best counts (3)")
    parser.add_argument("--one", metavar="SIDE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.gguf is None:
        parser.error("name a model with --gguf")
    if arguments.one:
        side = json.loads(arguments.one)
        print(json.dumps(mlx_lm(arguments.gguf) if side == "mlx_lm" else metalchat(arguments.gguf, side)))
        return
    sides: dict[str, Any] = {"packed": {"weights": "packed"}, "float32": {"weights": "float32"}}
    sides |= {f"float32, {path.name}": {"weights": "float32", "blas": str(path)} for path in arguments.blas}
    sides["mlx_lm"] = "mlx_lm"
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(arguments.runs):
        for name, side in sides.items():
            command = [sys.executable, __file__, "--gguf", str(arguments.gguf), "--one", json.dumps(side)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    print("| weights | load | prefill | decode | processor time a token | peak memory |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, runs in found.items():
        load, token = (min(run[key] for run in runs) for key in ("load", "processor"))
        prefill, decode = (max(run[key] for run in runs) for key in ("prefill", "decode"))
        cells = (f"{load:.1f} s", f"{prefill:.0f} tok/s", f"{decode:.1f} tok/s", f"{token * 1e3:.0f} ms")
        print(f"| {name} | {' | '.join(cells)} | {runs[0]['peak'] / 1e6:.0f} MB |")
    print(
        f"\nThe best of {arguments.runs} runs; a prompt of {runs[0]['prompt']} tokens, an answer of {ANSWER}, greedy."
    )
    print(f"Load averages: {' '.join(f'{value:.1f}' for value in os.getloadavg())} on {os.cpu_count()} cores.")


def metalchat(gguf: Path, extra: dict[str, Any]) -> dict[str, float]:
    from metalchat_engine import (
        EngineSettings,
        Finish,
        GenerationRequest,
        ModelSource,
        PromptProgress,
        Sampling,
        load_engine,
    )

    clock, finish = Clock(), None
    with load_engine("mlx").load(ModelSource(path=gguf), EngineSettings(extra=extra)) as model:
        clock.loaded()
        for text, tokens in (("Hello", WARM_UP), (WORDS * REPEATS, ANSWER)):
            clock.starts()
            request = GenerationRequest(prompt=text, sampling=Sampling(temperature=0), max_tokens=tokens)
            for event in model.generate(request):
                if isinstance(event, PromptProgress) and event.processed == event.total:
                    clock.begins()
                elif isinstance(event, Finish):
                    finish = event
    assert finish is not None
    return clock.found(finish.usage.prompt_tokens, finish.usage.completion_tokens, finish.timings.peak_memory or 0)


def mlx_lm(gguf: Path) -> dict[str, float]:
    folder = peer_folder(gguf, cache_directory().absolute())
    import mlx.core as mx
    from mlx_lm import load, stream_generate

    clock, prompt, answer = Clock(), 0, 0
    model, tokenizer = load(str(folder))[:2]
    clock.loaded()
    for text, tokens in (("Hello", WARM_UP), (WORDS * REPEATS, ANSWER)):
        clock.starts()
        answer = 0
        for response in stream_generate(model, tokenizer, text, max_tokens=tokens):
            if not answer:
                clock.begins()
            prompt, answer = response.prompt_tokens, response.generation_tokens
    return clock.found(prompt, answer, mx.get_peak_memory())


class Clock:
    """Seconds of a load, of a prompt and of an answer; of the answer's, those that the process had a processor."""

    def __init__(self) -> None:
        self._made = self._loaded = self._started = self._first = time.perf_counter()
        self._before = 0.0

    def loaded(self) -> None:
        self._loaded = time.perf_counter()

    def starts(self) -> None:
        self._started = time.perf_counter()

    def begins(self) -> None:
        self._first, self._before = time.perf_counter(), time.process_time()

    def found(self, prompt: int, answer: int, peak: int) -> dict[str, float]:
        ended, processor = time.perf_counter(), time.process_time() - self._before
        return {
            "load": self._loaded - self._made,
            "prefill": prompt / (self._first - self._started),
            "decode": (answer - 1) / (ended - self._first),
            "processor": processor / (answer - 1),
            "prompt": prompt,
            "peak": peak,
        }


if __name__ == "__main__":
    main()
