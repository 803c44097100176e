"""Ten thousand damaged checkpoints, tokenizers and configs: each must end in an answer or in one line."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from _machine import ROOT, circumstances, load_afterwards
from _report import Check, Report, publish

RUN = ROOT / "packages" / "metalchat-engine-mlx" / "tests" / "malformed" / "run.py"
PACKAGES = ("metalchat-engine-mlx", "metalchat-prompt", "mlx", "tokenizers", "jinja2", "llguidance")
DAMAGED = {
    "weights": "safetensors: header, dtypes, shapes, offsets, lengths, numbers",
    "config": "config.json: types, sizes, keys, nesting, bytes",
    "tokenizer": "tokenizer.json and tokenizer_config.json",
    "template": "chat templates",
    "generation": "generation_config.json",
    "index": "the index of shards",
    "adapter": "LoRA adapters: adapter_config.json and safetensors",
    "gguf": "GGUF: metadata, lengths, counts, tensors, numbers",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, metavar="N", help="how many (10000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed (0)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at once (1)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every fact there")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    arguments = parser.parse_args()
    facts = circumstances(PACKAGES)
    facts["seeds"] = f"{arguments.seed} to {arguments.seed + arguments.cases - 1}"
    with tempfile.TemporaryDirectory(prefix="metalchat-malformed-") as folder:
        done = subprocess.run(
            [sys.executable, *map(str, (RUN, folder, arguments.seed, arguments.cases, arguments.jobs))],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    result = json.loads(done.stdout)
    rows = [
        Check(measure=DAMAGED.get(kind, kind), found=_told(ends), wanted="", met=None)
        for kind, ends in result["ends"].items()
        if kind
    ]
    wrong = result["wrong_count"]
    seeds = "".join(f"; seed {case['seed']}" for case in result["wrong"])
    rows.append(
        Check(
            measure="tracebacks, deaths, hangs, panics, memory beyond bounds",
            found=f"{wrong} in {result['cases']:,} cases{seeds}",
            wanted="0",
            met=wrong == 0 and result["cases"] == arguments.cases,
        )
    )
    facts["load afterwards"] = load_afterwards()
    notes = [
        "each case goes through inspect, load and an answer of 4 tokens, with 3 GiB of address space to spare",
        "refused: by `inspect`, from headers alone; refused later: by `load` or the answer, such as for a tokenizer",
        "answered: what was damaged is allowed, or nothing that the model needs",
    ]
    publish(Report(name="malformed", facts=facts, notes=notes, rows=rows), arguments)
    if wrong:
        sys.exit(1)


def _told(ends: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {end}" for end, count in sorted(ends.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    main()
