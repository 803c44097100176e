"""How many tokens a second several requests get together: metalchat beside mlx_lm's batch generator."""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from _measure import cache_directory
from _peer_model import peer_folder

SUBJECTS = ("dog", "cat", "boat", "house", "river", "king", "tree", "road")
PROMPT = "Once upon a time there was a {0}, and everybody in the village knew it well. One day the {0}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    named = os.environ.get("METALCHAT_TEST_SMOLLM2")
    parser.add_argument("--gguf", type=Path, metavar="PATH", default=named, help="the model ($METALCHAT_TEST_SMOLLM2)")
    parser.add_argument("--tokens", type=int, metavar="N", default=24, help="tokens of each answer (24)")
    parser.add_argument("--requests", type=int, metavar="N", nargs="+", default=[1, 4, 8], help="how many at once")
    parser.add_argument("--side", choices=("metalchat", "mlx_lm"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.gguf is None:
        parser.error("name a model with --gguf")
    if arguments.side:
        ask = metalchat if arguments.side == "metalchat" else mlx_lm
        print(json.dumps(ask(arguments.gguf, prompts(arguments.requests[0]), arguments.tokens)))
        return
    print("| requests | metalchat | mlx_lm | ratio | processor time |")
    print("| --- | --- | --- | --- | --- |")
    for count in arguments.requests:
        ours, theirs = (measured(arguments, side, count) for side in ("metalchat", "mlx_lm"))
        rates = [found["tokens"] / found["seconds"] for found in (ours, theirs)]
        spent = f"{ours['processor']:.1f} s, {theirs['processor']:.1f} s"
        print(f"| {count} | {rates[0]:.1f} tok/s | {rates[1]:.1f} tok/s | {rates[0] / rates[1]:.1f}x | {spent} |")


def prompts(count: int) -> list[str]:
    return [PROMPT.format(SUBJECTS[place % len(SUBJECTS)]) for place in range(count)]


def measured(arguments: argparse.Namespace, side: str, count: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--side", side, "--gguf", arguments.gguf]
    command += ["--tokens", str(arguments.tokens), "--requests", str(count)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def metalchat(gguf: Path, asked: list[str], tokens: int) -> dict[str, float]:
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


def mlx_lm(gguf: Path, asked: list[str], tokens: int) -> dict[str, float]:
    from mlx_lm import batch_generate, load

    model, tokenizer = load(str(peer_folder(gguf, cache_directory())))[:2]
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


if __name__ == "__main__":
    main()
