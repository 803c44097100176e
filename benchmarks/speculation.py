"""What guessing ahead gains: metalchat with and without it, beside mlx_lm with the same weights and the same draft."""

import argparse
import json
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from _machine import circumstances, load_afterwards
from _measure import Sample, alternate, cache_directory, clean_environment
from _peer_model import peer_folder
from _report import Check, Goal, Report, Row, add_arguments, add_model, publish

NOTICE = (
    "The ferry to the island leaves at nine in the morning and again at three in the afternoon. Tickets are sold at "
    "the small kiosk next to the harbour master's office, and they cost twelve crowns for adults and six for children. "
    "Dogs travel free of charge, but they must be kept on a lead. In winter the ferry does not run on Sundays."
)
PROMPTS = {
    "repeating": f"Copy this text word by word, without any change:\n\n{NOTICE}",
    "free": "Write a short story about a dog who finds a letter.",
}
# Program and setting; "wide" is the model in float32, and its draft the same model in 4 bits.
SIDES = {
    "plain": ("metalchat", {}),
    "lookup": ("metalchat", {"lookup": 8}),
    "mlx_lm": ("mlx_lm", {}),
    "wide": ("metalchat", {"wide": True}),
    "wide draft": ("metalchat", {"wide": True, "draft_tokens": 4}),
    "mlx_lm wide draft": ("mlx_lm", {"wide": True, "draft_tokens": 4}),
}
PACKAGES = ("metalchat-engine-mlx", "mlx", "numpy", "mlx-lm")
WARM_UP = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    add_model(parser)
    parser.add_argument("--answer-tokens", type=int, metavar="N", help="length of the answers, at most (72)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.gguf is None:
        parser.error("name a model with --gguf")
    tokens = arguments.answer_tokens or (16 if arguments.quick else 72)
    cache = (arguments.cache or cache_directory()).absolute()
    peer = peer_folder(arguments.gguf, cache)
    wide = wide_folder(peer)
    if arguments.side:
        print(json.dumps(answers(arguments.side, arguments.gguf, peer, wide, tokens)))
        return
    runs = arguments.runs or (1 if arguments.quick else 3)
    facts = circumstances(PACKAGES)

    def run(side: str) -> dict[str, dict[str, float | str]]:
        command = [sys.executable, __file__, "--side", side, "--gguf", arguments.gguf, "--cache", cache]
        command += ["--answer-tokens", str(tokens)]
        environment = clean_environment(HF_HUB_OFFLINE="1")
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    found = alternate({side: partial(run, side) for side in SIDES}, runs=runs, warm_up=0)
    facts["load afterwards"] = load_afterwards()
    notes = [
        f"model {arguments.gguf.name}; greedy answers of at most {tokens} tokens, their first token not counted",
        f"{runs} runs of each in turn, a process each, after a short answer; median (first to third quartile)",
        "look-up: 8 tokens; draft: 4 tokens of the model in 4 bits, for the same weights in float32",
    ]
    publish(Report(name="speculation", facts=facts, notes=notes, rows=rows(found)), arguments)


def rows(found: dict[str, list[dict[str, dict[str, float | str]]]]) -> list[Row | Check]:
    def rates(side: str, prompt: str) -> Sample:
        return Sample(values=tuple(float(run[prompt]["rate"]) for run in found[side]))

    def row(measure: str, prompt: str, ours: str, peer_name: str, peer: str, least: float | None) -> Row:
        return Row(
            measure=f"{measure}, {prompt}",
            unit="tok/s",
            ours=rates(ours, prompt),
            peer_name=peer_name,
            peer=rates(peer, prompt),
            goal=None if least is None else Goal(kind="ratio at least", value=least),
        )

    made: list[Row | Check] = [
        row("look-up", "repeating", "lookup", "metalchat without", "plain", 1.2),
        row("look-up", "free", "lookup", "metalchat without", "plain", 0.95),
        row("look-up", "repeating", "lookup", "mlx_lm", "mlx_lm", 1.0),
        *(row("draft", prompt, "wide draft", "metalchat without", "wide", None) for prompt in PROMPTS),
        *(row("draft", prompt, "wide draft", "mlx_lm with it", "mlx_lm wide draft", 1.0) for prompt in PROMPTS),
    ]
    for name, plain, guessed in (("look-up", "plain", "lookup"), ("draft", "wide", "wide draft")):
        same = [found[plain][0][prompt]["text"] == found[guessed][0][prompt]["text"] for prompt in PROMPTS]
        made.append(
            Check(
                measure=f"answers with {name} and without",
                found=f"{sum(same)} of {len(same)} the same",
                wanted="all, but for ties",
                met=None,
            )
        )
        for prompt in PROMPTS:
            run = found[guessed][0][prompt]
            made.append(
                Check(
                    measure=f"guessed with {name}, {prompt}",
                    found=f"{run['accepted']} of {run['proposed']} right, in {run['tokens']} tokens",
                    wanted="",
                    met=None,
                )
            )
    return made


def answers(side: str, gguf: Path, peer: Path, wide: Path, tokens: int) -> dict[str, dict[str, float | str]]:
    program, how = SIDES[side]
    if program == "metalchat":
        extra = {key: value for key, value in how.items() if key != "wide"}
        if "draft_tokens" in how:
            extra["draft"] = str(gguf.absolute())
        return metalchat(wide if "wide" in how else gguf, extra, tokens)
    return mlx_lm(wide if "wide" in how else peer, peer if "draft_tokens" in how else None, tokens)


def metalchat(path: Path, extra: dict[str, object], tokens: int) -> dict[str, dict[str, float | str]]:
    from metalchat_engine import EngineSettings, GenerationRequest, Message, ModelSource, Sampling, measure
    from metalchat_engine_mlx import MlxEngine

    found: dict[str, dict[str, float | str]] = {}
    with MlxEngine().load(ModelSource(path=path), EngineSettings(extra=extra)) as model:
        for name, text in PROMPTS.items():
            for limit in (WARM_UP, tokens):
                message = Message.user(text)
                request = GenerationRequest(messages=(message,), sampling=Sampling(temperature=0), max_tokens=limit)
                run = measure(model, [request])
            usage = run.answers[0].finish.usage
            found[name] = {
                "rate": run.decode_rate or 0.0,
                "tokens": usage.completion_tokens,
                "proposed": usage.proposed_tokens,
                "accepted": usage.accepted_tokens,
                "text": run.answers[0].text,
            }
    return found


def mlx_lm(path: Path, draft: Path | None, tokens: int) -> dict[str, dict[str, float | str]]:
    from mlx_lm import load as loaded
    from mlx_lm import stream_generate

    model, tokenizer = loaded(str(path))[:2]
    guess = {} if draft is None else {"draft_model": loaded(str(draft))[0], "num_draft_tokens": 4}
    found: dict[str, dict[str, float | str]] = {}
    for name, text in PROMPTS.items():
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
        list(stream_generate(model, tokenizer, prompt, max_tokens=WARM_UP, **guess))
        said, times = "", []
        for response in stream_generate(model, tokenizer, prompt, max_tokens=tokens, **guess):
            said += response.text
            times.append(time.perf_counter())
        found[name] = {"rate": (len(times) - 1) / (times[-1] - times[0]), "tokens": len(times), "text": said}
    return found


def wide_folder(peer: Path) -> Path:
    """The model of `peer` unpacked to float32, the same values; made once."""
    import mlx.core as mx

    folder = peer.with_name(f"{peer.name}-wide")
    if folder.is_dir():
        return folder
    packed = mx.load(str(peer / "model.safetensors"))
    config = json.loads((peer / "config.json").read_text(encoding="utf-8"))
    weights: dict[str, mx.array] = {}
    for name, array in packed.items():
        module, _, part = name.rpartition(".")
        if f"{module}.scales" not in packed or part == "bias":
            weights[name] = array
        elif part == "weight":
            packing = config["quantization"].get(module) or config["quantization"]
            scales, biases = packed[f"{module}.scales"], packed[f"{module}.biases"]
            sizes = {"group_size": packing["group_size"], "bits": packing["bits"]}
            weights[name] = mx.dequantize(array, scales, biases, **sizes).astype(mx.float32)
    del config["quantization"]
    partial_folder = folder.with_suffix(".partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    shutil.copytree(peer, partial_folder, ignore=shutil.ignore_patterns("model.safetensors"))
    mx.save_safetensors(str(partial_folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (partial_folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    partial_folder.rename(folder)
    return folder


if __name__ == "__main__":
    main()
