"""Attention that MLX has no kernel for: windows and caps."""

import mlx.core as mx


def seen(keys: mx.array, values: mx.array, tokens: int, window: int | None) -> tuple[mx.array, mx.array]:
    """The keys and values that the last `tokens` can see."""
    if window is None or keys.shape[2] < window + tokens:
        return keys, values
    return keys[:, :, 1 - window - tokens :], values[:, :, 1 - window - tokens :]


def visible(tokens: int, length: int, window: int | None) -> mx.array:
    """Which of `length` keys each of the last `tokens` sees: [tokens, length]."""
    places, key = mx.arange(length - tokens, length)[:, None], mx.arange(length)
    causal = key <= places
    return causal if window is None else causal & (key > places - window)


def capped(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, softcap: float, mask: mx.array | None = None
) -> mx.array:
    """Attention whose scores s are softcap * tanh(s / softcap), as Gemma 2 has it; `mask` says who sees what."""
    _, heads, tokens, dim = queries.shape
    shared = (queries * scale).reshape(1, keys.shape[1], -1, tokens, dim)
    scores = shared @ keys[:, :, None].swapaxes(-1, -2)
    scores = mx.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = mx.where(mask, scores, -mx.inf)
    shares = mx.softmax(scores, axis=-1, precise=True)
    return (shares @ values[:, :, None]).reshape(1, heads, tokens, dim)
