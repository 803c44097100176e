"""How much memory answers take: what was predicted from headers beside the peak that was measured."""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from _report import add_model

PROMPTS = ((64, 32, 1), (512, 64, 1), (1024, 32, 2), (256, 32, 8))
WORDS = "The quick brown fox jumps over the lazy dog and runs along the river until the evening comes. "
# The shape of the tiny model: enough weights to outweigh what is computed from them.
SHAPE = {
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser)
    parser.add_argument("--setting", metavar="KEY=JSON", action="append", default=[], help="one of the engine's own")
    parser.add_argument("--quick", action="store_true", help="only the smallest of each")
    parser.add_argument("--one", nargs=4, metavar=("MODEL", "PROMPT", "ANSWER", "REQUESTS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    extra = {key: json.loads(value) for key, _, value in (setting.partition("=") for setting in arguments.setting)}
    if arguments.one:
        model, *numbers = arguments.one
        print(json.dumps(measured(Path(model), *map(int, numbers), extra)))
        return
    with tempfile.TemporaryDirectory() as folder:
        wide, draft = tiny(Path(folder) / "wide", "float32"), tiny(Path(folder) / "draft", "float32", layers=3)
        models: dict[str, tuple[Path, list[str]]] = {
            "tiny, float32": (wide, []),
            "tiny, bfloat16": (tiny(Path(folder) / "half", "bfloat16"), []),
            "tiny with a draft": (wide, [f"draft={json.dumps(str(draft))}"]),
        }
        if arguments.gguf is not None:
            models[arguments.gguf.stem] = (arguments.gguf, [])
            models[f"{arguments.gguf.stem}, lookup = 8"] = (arguments.gguf, ["lookup=8"])
        print("| model | requests of prompt + answer | predicted | peak | predicted / peak | process |")
        print("| --- | --- | --- | --- | --- | --- |")
        worst = 0.0
        for name, (path, own) in models.items():
            for prompt, answer, requests in PROMPTS[: 1 if arguments.quick else None]:
                found = in_a_process(path, prompt, answer, requests, [*own, *arguments.setting])
                ratio = found["predicted"] / found["peak"]
                worst = max(worst, abs(ratio - 1))
                cells = (
                    name,
                    f"{requests} of {prompt} + {answer}",
                    *(f"{found[key] / 1e6:.1f} MB" for key in ("predicted", "peak")),
                    f"{ratio:.3f}",
                    f"{found['resident'] / 1e6:.0f} MB",
                )
                print(f"| {' | '.join(cells)} |", flush=True)
        print(f"\nFarthest off: {worst:.1%}; the goal is 10%: {'met' if worst <= 0.1 else 'NOT MET'}.")
        print("The peak is what the engine tells with each answer; the process has Python and its libraries besides.")


def tiny(folder: Path, dtype: str, layers: int = 12) -> Path:
    from metalchat_engine_mlx.testing import write_tiny_model

    return write_tiny_model(folder, dtype=dtype, **SHAPE, num_hidden_layers=layers)


def in_a_process(path: Path, prompt: int, answer: int, requests: int, settings: list[str]) -> dict[str, int]:
    """A process of its own: its peak is nobody else's."""
    command = [sys.executable, __file__, "--one", str(path), str(prompt), str(answer), str(requests)]
    command += [f"--setting={setting}" for setting in settings]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(path: Path, prompt: int, answer: int, requests: int, extra: dict[str, object]) -> dict[str, int]:
    import resource

    from metalchat_engine import EngineSettings, Finish, GenerationRequest, ModelSource, Sampling, load_engine

    engine, source = load_engine("mlx"), ModelSource(path=path)
    # What is remembered of earlier texts comes on top, where there is room for it.
    settings = EngineSettings(context_length=prompt + answer, extra={"prefix_cache_bytes": 0} | extra)
    predicted = engine.estimate(source, settings, requests=requests)
    peaks: list[int] = []
    with engine.load(source, settings) as model:

        def ask(number: int) -> None:
            text = text_of(model, f"{number}. ", prompt)
            request = GenerationRequest(prompt=text, sampling=Sampling(temperature=0), max_tokens=answer)
            for event in model.generate(request):
                if isinstance(event, Finish):
                    peaks.append(event.timings.peak_memory or 0)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(requests)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if len(peaks) < requests:
        raise SystemExit("a request has failed")
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"predicted": predicted.total, "peak": max(peaks), "resident": resident}


def text_of(model: Any, start: str, count: int) -> str:
    """A text of at most `count` tokens, and nearly as many."""
    words = (start + WORDS * count).split(" ")
    low, high = 1, len(words)
    prompt = model._prompt
    while low < high:
        middle = (low + high + 1) // 2
        fits = len(prompt.encode_text(" ".join(words[:middle]))) <= count
        low, high = (middle, high) if fits else (low, middle - 1)
    return " ".join(words[:low])


if __name__ == "__main__":
    main()
