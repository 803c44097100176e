"""One process, one model, one timed answer: run as a program by engine.py, prints its figures as JSON.

Both sides are told the same way: a short answer to warm up, then an answer to a long prompt, timed from the call to the
first token (prefill) and from there to the last (decode) by this program's clock. Prompts are raw, without template.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

WORDS = "The quick brown fox jumps over the lazy dog and runs along the river until the evening comes. "
WARM_UP = 4


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=["metalchat", "mlx_lm"])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("prompt", type=int)
    parser.add_argument("answer", type=int)
    arguments = parser.parse_args()
    prompt, tokens = long_prompt(arguments.gguf, arguments.prompt)
    if arguments.side == "metalchat":
        found = metalchat(arguments.gguf, prompt, arguments.answer)
    else:
        found = mlx_lm(arguments.folder, tokens, arguments.answer)
    if found["prompt_tokens"] != arguments.prompt or found["answer_tokens"] != arguments.answer:
        raise SystemExit(f"{arguments.side} answered {found}, which is not what was asked for")
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    print(json.dumps(found | {"resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}))


def long_prompt(gguf: Path, count: int) -> tuple[str, list[int]]:
    """A text that has exactly `count` tokens, and the tokens."""
    from metalchat_engine_mlx.gguf import read_header, tokenizer_from_gguf
    from metalchat_prompt import Prompt

    read = tokenizer_from_gguf(read_header(gguf))
    with Prompt.from_parts(
        tokenizer_json=read.tokenizer_json,
        chat_template=read.chat_template,
        bos_token=read.bos_token,
        eos_token=read.eos_token,
    ) as prompt:
        text = WORDS * count
        words = prompt.encode_text(text)
        text = prompt.tokenizer.decode(list(words[:count]))
        tokens = prompt.encode_text(text)
    if len(tokens) != count:
        raise SystemExit(f"no text of exactly {count} tokens was found")
    return text, list(tokens)


def metalchat(gguf: Path, prompt: str, answer: int) -> dict[str, float | str]:
    from metalchat_engine import (
        EngineSettings,
        Finish,
        GenerationRequest,
        ModelSource,
        PromptProgress,
        Sampling,
        TextDelta,
        load_engine,
    )

    engine = load_engine("mlx")
    source = ModelSource(path=gguf)
    told = engine.inspect(source)
    greedy = Sampling(temperature=0.0)
    with engine.load(source, EngineSettings()) as model:
        weights = model.info.memory_bytes
        list(model.generate(GenerationRequest(prompt="Hello", sampling=greedy, max_tokens=WARM_UP)))
        text, first, finish = "", 0.0, None
        started = time.perf_counter()
        for event in model.generate(GenerationRequest(prompt=prompt, sampling=greedy, max_tokens=answer)):
            if isinstance(event, PromptProgress) and event.processed == event.total:
                first = time.perf_counter()
            elif isinstance(event, TextDelta):
                text += event.text
            elif isinstance(event, Finish):
                finish = event
        ended = time.perf_counter()
    assert finish is not None
    assert told.cache_bytes_per_token is not None
    return {
        "prompt_tokens": finish.usage.prompt_tokens,
        "answer_tokens": finish.usage.completion_tokens,
        "prefill": finish.usage.prompt_tokens / (first - started),
        "decode": (finish.usage.completion_tokens - 1) / (ended - first),
        "peak_bytes": finish.timings.peak_memory or 0,
        "weights_bytes": weights,
        "cache_bytes": told.cache_bytes_per_token * finish.usage.total_tokens,
        "text": text,
    }


def mlx_lm(folder: Path, prompt: list[int], answer: int) -> dict[str, float | str]:
    import mlx.core as mx
    from mlx_lm import load, stream_generate

    model, tokenizer = load(str(folder))[:2]
    list(stream_generate(model, tokenizer, prompt[:2], max_tokens=WARM_UP))
    text, first, count, given = "", 0.0, 0, 0
    started = time.perf_counter()
    for response in stream_generate(model, tokenizer, prompt, max_tokens=answer):
        if not count:
            first = time.perf_counter()
        count, given = response.generation_tokens, response.prompt_tokens
        text += response.text
    ended = time.perf_counter()
    return {
        "prompt_tokens": given,
        "answer_tokens": count,
        "prefill": given / (first - started),
        "decode": (count - 1) / (ended - first),
        "peak_bytes": mx.get_peak_memory(),
        "text": text,
    }


if __name__ == "__main__":
    main()
