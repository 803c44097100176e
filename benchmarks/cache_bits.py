"""What a quantised KV cache costs: how often the likeliest next token is the same, and how well text is predicted."""

import argparse
import math
import time
from pathlib import Path

from _report import add_model

TEXT = Path(__file__).parents[1] / "LICENSE"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser)
    parser.add_argument("--text", type=Path, metavar="PATH", default=TEXT, help="what it reads (the license)")
    parser.add_argument("--context", type=int, metavar="N", default=768, help="tokens it has read before (768)")
    parser.add_argument("--tokens", type=int, metavar="N", default=128, help="tokens that it predicts (128)")
    arguments = parser.parse_args()
    if arguments.gguf is None:
        parser.error("name a model with --gguf")
    print("| cache | likeliest token the same | mean log probability of the text | bytes a token | ms a token |")
    print("| --- | --- | --- | --- | --- |")
    plain: list[int] = []
    for bits in (None, 8, 4):
        likeliest, logprob, size, seconds = predicted(arguments, bits)
        plain = plain or likeliest
        same = sum(a == b for a, b in zip(likeliest, plain, strict=True)) / len(plain)
        name = "as computed" if bits is None else f"{bits} bits"
        print(f"| {name} | {same:.1%} | {logprob:.4f} | {size} | {seconds * 1000:.0f} |")


def predicted(arguments: argparse.Namespace, bits: int | None) -> tuple[list[int], float, int, float]:
    """After each token of the text: the likeliest next one; the mean log probability of the one that stands there."""
    import mlx.core as mx
    from metalchat_engine import ModelSource
    from metalchat_engine_mlx.checkpoint import read_checkpoint
    from metalchat_engine_mlx.engine import read_prompt
    from metalchat_engine_mlx.load import decoder_of

    checkpoint = read_checkpoint(ModelSource(path=arguments.gguf))
    with read_prompt(checkpoint) as prompt:
        tokens = prompt.encode_text(arguments.text.read_text(encoding="utf-8"))
    context, count = arguments.context, arguments.tokens
    if len(tokens) <= context + count:
        raise SystemExit(f"the text has {len(tokens)} tokens, {context + count + 1} are needed")
    decoder = decoder_of(checkpoint, cache_bits=bits)
    cache, regime = decoder.new_cache(), decoder.config.regime(context + count)
    for start in range(0, context, 256):
        decoder.prefill(mx.array(tokens[start : min(start + 256, context)]), cache, regime)
    likeliest, total = [], 0.0
    started = time.perf_counter()
    for place in range(context, context + count):
        logits = decoder(mx.array(tokens[place : place + 1]), cache, regime).astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits)
        likeliest.append(int(mx.argmax(logprobs).item()))
        total += float(logprobs[tokens[place + 1]].item())
    seconds = (time.perf_counter() - started) / count
    assert math.isfinite(total)
    room = -(-(context + count) // 256) * 256
    return likeliest, total / count, cache.nbytes // room, seconds


if __name__ == "__main__":
    main()
