"""How well a model foresees a text."""

import math
from typing import TYPE_CHECKING

import mlx.core as mx
from metalchat_engine import Perplexity, UnsupportedRequest

from metalchat_engine_mlx.checkpoint import Checkpoint
from metalchat_engine_mlx.drawing import numbers
from metalchat_engine_mlx.load import decoder_of

if TYPE_CHECKING:
    from metalchat_prompt import Prompt

_CHUNK = 64


def perplexity(checkpoint: Checkpoint, prompt: "Prompt", text: str, *, tokens: int) -> Perplexity:
    """exp of the mean of -log p of each token after those before it, in float32.

    Raises UnsupportedRequest for a text of less than two tokens, and what `load_model` does.
    """
    longest = min(tokens, checkpoint.config.context_length)
    ids = prompt.encode_text(text)[:longest]
    if len(ids) < 2:
        raise UnsupportedRequest("the text has no two tokens to measure the perplexity of", option="text")
    decoder = decoder_of(checkpoint)
    cache, regime = decoder.new_cache(), decoder.config.regime(len(ids))
    total = 0.0
    for start in range(0, len(ids) - 1, _CHUNK):
        piece, following = ids[start : start + _CHUNK], ids[start + 1 : start + _CHUNK + 1]
        logits = decoder.together(mx.array(piece), [cache], regime, [len(piece)]).astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        picked = mx.take_along_axis(logprobs[: len(following)], mx.array(following)[:, None], axis=-1)
        total -= sum(numbers(mx.sum(picked).reshape(1)))
    mean = total / (len(ids) - 1)
    return Perplexity(value=math.exp(min(mean, 700.0)) if math.isfinite(mean) else math.inf, tokens=len(ids))
