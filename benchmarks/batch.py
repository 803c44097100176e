"""How many tokens a second several requests get together: metalchat beside mlx_lm's batch generator."""

import argparse
import json
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

from _machine import circumstances, load_afterwards
from _measure import Sample, alternate, cache_directory, clean_environment
from _peer_model import peer_folder
from _report import Goal, Report, Row, add_arguments, add_model, publish

PACKAGES = ("metalchat-engine-mlx", "mlx", "numpy", "mlx-lm", "transformers")
SUBJECTS = ("dog", "cat", "boat", "house", "river", "king", "tree", "road")
PROMPT = "Once upon a time there was a {0}, and everybody in the village knew it well. One day the {0}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    add_model(parser)
    parser.add_argument("--tokens", type=int, metavar="N", default=24, help="tokens of each answer (24)")
    parser.add_argument("--requests", type=int, metavar="N", nargs="+", default=[1, 4, 8], help="how many at once")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.gguf is None:
        parser.error("name a model with --gguf")
    cache = (arguments.cache or cache_directory()).absolute()
    if arguments.side:
        print(
            json.dumps(SIDES[arguments.side](arguments.gguf, cache, prompts(arguments.requests[0]), arguments.tokens))
        )
        return
    facts = circumstances(PACKAGES)
    runs = arguments.runs or (1 if arguments.quick else 3)
    measures = {
        f"{side} {count}": partial(measured, arguments, side, count, cache)
        for count in arguments.requests
        for side in SIDES
    }
    found = alternate(measures, runs=runs, warm_up=0)
    facts["load afterwards"] = load_afterwards()

    def rates(side: str, count: int) -> Sample:
        return Sample(values=tuple(run["tokens"] / run["seconds"] for run in found[f"{side} {count}"]))

    rows = [
        Row(
            measure=f"{count} {'requests' if count > 1 else 'request'} at once",
            unit="tok/s",
            ours=rates("metalchat", count),
            peer_name="mlx_lm",
            peer=rates("mlx_lm", count),
            goal=Goal(kind="ratio at least", value=1.2 if count > 1 else 1.0),
        )
        for count in arguments.requests
    ]
    notes = [
        f"model {arguments.gguf.name}; prompts of some 25 tokens, greedy answers of {arguments.tokens};"
        " of all together, from the first request to the last token",
        f"{runs} runs of each in turn, a process each, after a short answer; median (first to third quartile)",
    ]
    publish(Report(name="batch", facts=facts, notes=notes, rows=rows), arguments)


def prompts(count: int) -> list[str]:
    return [PROMPT.format(SUBJECTS[place % len(SUBJECTS)]) for place in range(count)]


def measured(arguments: argparse.Namespace, side: str, count: int, cache: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--side", side, "--gguf", arguments.gguf, "--cache", cache]
    command += ["--tokens", str(arguments.tokens), "--requests", str(count)]
    environment = clean_environment(HF_HUB_OFFLINE="1")
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def metalchat(gguf: Path, _cache: Path, asked: list[str], tokens: int) -> dict[str, float]:
    """One thread a request, all begun at once."""
    from metalchat_engine import EngineSettings, Finish, GenerationRequest, ModelSource, Sampling
    from metalchat_engine_mlx import MlxEngine

    counts = [0] * len(asked)
    with MlxEngine().load(ModelSource(path=gguf), EngineSettings()) as model:

        def run(place: int, prompt: str, limit: int) -> None:
            request = GenerationRequest(prompt=prompt, sampling=Sampling(temperature=0), max_tokens=limit)
            for event in model.generate(request):
                if isinstance(event, Finish):
                    counts[place] = event.usage.completion_tokens

        run(0, "Hello", 4)
        threads = [threading.Thread(target=run, args=(*each, tokens)) for each in enumerate(asked)]
        started, spent = time.perf_counter(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return figures(sum(counts), started, spent)


def mlx_lm(gguf: Path, cache: Path, asked: list[str], tokens: int) -> dict[str, float]:
    from mlx_lm import batch_generate, load

    model, tokenizer = load(str(peer_folder(gguf, cache)))[:2]
    ids = [tokenizer.encode(prompt) for prompt in asked]
    batch_generate(model, tokenizer, ids[:1], max_tokens=4)
    started, spent = time.perf_counter(), time.process_time()
    found = batch_generate(model, tokenizer, ids, max_tokens=tokens, return_token_ids=True)
    return figures(sum(map(len, found.token_ids)), started, spent)


def figures(tokens: int, started: float, spent: float) -> dict[str, float]:
    return {
        "tokens": tokens,
        "seconds": time.perf_counter() - started,
        "processor": time.process_time() - spent,
    }


SIDES = {"metalchat": metalchat, "mlx_lm": mlx_lm}

if __name__ == "__main__":
    main()
