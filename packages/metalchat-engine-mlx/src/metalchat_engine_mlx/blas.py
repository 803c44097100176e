"""What NumPy does on a CPU, in several threads: arithmetic, and products by a BLAS that uses the widest registers."""

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from metalchat_engine_mlx.config import Activation
from metalchat_engine_mlx.pool import Floats, Pool, Scratch

# To wake a thread costs about as much as this many multiplications.
_WORTH = 1_000_000
_BLOCK = 2**19  # values that are unpacked at a time, so that they stay in the cache


def view(array: mx.array) -> NDArray[Any]:
    """The memory of an MLX array, evaluated, without a copy. While the view lives, MLX cannot write in place."""
    mx.eval(array)
    return np.asarray(array)


def array(values: Any) -> mx.array:
    """A copy of a NumPy array. MLX's own types do not say that it takes one."""
    return mx.array(values)


def transpose(weight: mx.array, bits: int) -> mx.array:
    """Packed [rows, columns] to packed [columns, rows]: uint32 [columns, rows * bits / 32]. 4 or 8 bits."""
    packed = view(weight).view(np.uint8)
    rows = packed.shape[0]
    if bits == 8:
        return array(np.ascontiguousarray(packed.T).view(np.uint32))
    columns = packed.shape[1] * 2
    result = np.empty((columns, rows // 2), np.uint8)
    step = 128  # rows; what is turned stays in the cache
    for start in range(0, rows, step):
        even, odd = packed[start : start + step : 2], packed[start + 1 : start + step : 2]
        into = slice(start // 2, (start + step) // 2)
        # Byte [n, k] holds columns 2 k (low half) and 2 k + 1 of row n; wanted are rows 2 n and 2 n + 1 of column k.
        result[0::2, into] = ((even & 15) | (odd << 4)).T
        result[1::2, into] = ((even >> 4) | (odd & 240)).T
    return array(result.view(np.uint32))


def unpack(weight: NDArray[np.uint32], scales: Floats, biases: Floats, bits: int, into: Floats, pool: Pool) -> None:
    """Packed [rows, columns], in 4 or 8 bits, to float32 [columns, rows]."""
    packed = weight.view(np.uint8)
    rows, groups = scales.shape
    step = 64  # rows; what is turned stays in the cache

    def work(first: int, last: int, scratch: Scratch) -> None:
        for start in range(first, last, step):
            block = slice(start, min(start + step, last))
            floats = scratch.floats(len(packed[block]), groups, into.shape[0] // groups)
            numbers = floats.reshape(len(floats), -1)
            if bits == 8:
                numbers[...] = packed[block]
            else:
                numbers[:, 0::2] = packed[block] & 15
                numbers[:, 1::2] = packed[block] >> 4
            floats *= scales[block, :, None]
            floats += biases[block, :, None]
            into[:, block] = numbers.T

    pool.share(rows, work, unit=step)


def multiply_packed(
    x: Floats, weight: NDArray[np.uint32], scales: Floats, biases: Floats, bits: int, pool: Pool
) -> Floats:
    """x [tokens, columns] with the transposed weight [groups, group, rows * bits / 32]; scales [groups, 1, rows],
    biases [groups, rows]."""
    tokens, columns = x.shape
    groups, group, _ = weight.shape
    packed = weight.view(np.uint8)
    per_byte = 8 // bits
    sums = x.reshape(tokens, groups, group).sum(axis=2)
    y = np.empty((tokens, packed.shape[2] * per_byte), np.float32)
    step = max(_BLOCK // columns // 64 * 64, 64)

    def work(first: int, last: int, scratch: Scratch) -> None:
        for start in range(first, last, step):
            stop = min(start + step, last)
            block = packed[:, :, start:stop]
            floats = scratch.floats(groups, group, stop - start)
            for part in range(per_byte):
                rows = slice(start * per_byte + part, stop * per_byte, per_byte)
                if bits == 8:
                    np.copyto(floats, block)
                else:
                    small = scratch.bytes(groups, group, stop - start)
                    if part == 0:
                        np.bitwise_and(block, 15, out=small)
                    else:
                        np.right_shift(block, 4, out=small)
                    np.copyto(floats, small)
                np.multiply(floats, scales[:, :, rows], out=floats)
                found = sums @ biases[:, rows]
                products = np.empty_like(found)
                pool.blas.multiply(x, floats.reshape(columns, -1), products)
                y[:, rows] = np.add(found, products, out=found)

    pool.share(packed.shape[2], work, unit=64, most=_ways(x, packed.shape[2] * per_byte))
    return y


def multiply_rows(x: Floats, rows: Callable[[mx.array], Floats], count: int, pool: Pool) -> Floats:
    """x [tokens, columns] with W^T; `rows` unpacks the rows of W that it is given the numbers of."""
    y = np.empty((x.shape[0], count), np.float32)
    step = max(_BLOCK // x.shape[1], 64)
    for first in range(0, count, step):
        block = rows(mx.arange(first, min(first + step, count)))

        def work(start: int, stop: int, _: Scratch, block: Floats = block, first: int = first) -> None:
            pool.blas.multiply(x, block[start:stop].T, y[:, first + start : first + stop])

        pool.share(len(block), work, unit=16)
    return y


def multiply_wide(x: Floats, weight: Floats, pool: Pool) -> Floats:
    """x [tokens, columns] with the transposed weight [columns, rows]."""
    y = np.empty((x.shape[0], weight.shape[1]), np.float32)

    def work(start: int, stop: int, _: Scratch) -> None:
        pool.blas.multiply(x, weight[:, start:stop], y[:, start:stop])

    pool.share(weight.shape[1], work, unit=64, most=_ways(x, weight.shape[1]))
    return y


def multiply_halves(x: Floats, weight: NDArray[np.uint16], pool: Pool, *, is_bfloat16: bool) -> Floats:
    """x [tokens, columns] with W^T, W [rows, columns] the bits of float16 or bfloat16 values."""
    rows, columns = weight.shape
    y = np.empty((x.shape[0], rows), np.float32)
    step = max(_BLOCK // columns, 16)

    def work(first: int, last: int, scratch: Scratch) -> None:
        for start in range(first, last, step):
            block = weight[start : min(start + step, last)]
            floats = scratch.floats(*block.shape)
            if is_bfloat16:
                bits = floats.view(np.uint32)
                np.copyto(bits, block)
                np.left_shift(bits, 16, out=bits)
            else:
                # The sign is carried to bit 31, exponent and fraction to their places; 2^112 mends the exponent's bias.
                whole = floats.view(np.int32)
                np.copyto(whole, block.view(np.int16))
                np.left_shift(whole, 13, out=whole)
                np.bitwise_and(whole, np.int32(-0x70002000), out=whole)
                np.multiply(floats, np.float32(2.0**112), out=floats)
            pool.blas.multiply(x, floats.T, y[:, start : start + len(block)])

    pool.share(rows, work, unit=16, most=_ways(x, rows))
    return y


def _ways(x: Floats, rows: int) -> int:
    """How many threads a product is worth."""
    return 1 + x.size * rows // _WORTH


def gated(activation: Activation, x: Floats, up: Floats | None = None) -> Floats | None:
    """activation(x), times `up` where there is one; None for an activation that NumPy does not have."""
    if activation == "silu":
        result = np.exp(-np.maximum(x, -80.0))  # beyond, exp is infinite, and silu is nought either way
        result += 1
        np.divide(x, result, out=result)
    elif activation == "relu":
        result = np.maximum(x, 0)
    elif activation == "gelu":
        return None
    else:
        result = x * x
        result *= 0.044715
        result += 1
        result *= x
        result *= np.float32(math.sqrt(2 / math.pi))
        np.tanh(result, out=result)
        result += 1
        result *= x
        result *= 0.5
    if up is not None:
        result *= up
    return result


def attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    pool: Pool,
    *,
    window: int | None = None,
    softcap: float | None = None,
) -> mx.array:
    """Causal attention, the last token over all `length`: [1, heads, tokens, dim] with [1, kv heads, length, dim]."""
    mx.eval(queries, keys, values)
    q, k, v = np.asarray(queries)[0], np.asarray(keys)[0], np.asarray(values)[0]
    return array(attend(q, k, v, scale, pool, window=window, softcap=softcap)[None])


def attend(
    q: Floats,
    k: Floats,
    v: Floats,
    scale: float,
    pool: Pool,
    *,
    window: int | None = None,
    softcap: float | None = None,
) -> Floats:
    """Causal attention, the last token over all `length`: [heads, tokens, dim] with [kv heads, length, dim].

    With a `window`, a token sees that many, itself included; `length` is then less than window + tokens.
    """
    heads, tokens, dim = q.shape
    kv_heads, length, _ = k.shape
    shared = heads // kv_heads
    later = np.triu(np.full((tokens, tokens), -np.inf, np.float32), 1) if tokens > 1 else None
    # The keys that are too old for some tokens: the first one of these sees the most of them.
    old = 0 if window is None else max(length - window, 0)
    # Key j is out of sight where j <= length - tokens + t - window, for token t.
    hidden = np.tril(np.full((tokens, old), -np.inf, np.float32), old - tokens) if old else None
    result = np.empty((heads, tokens, dim), np.float32)

    # One token's scores are small enough for all heads at once.
    step = 1 if tokens > 1 else kv_heads

    def work(first: int, last: int, scratch: Scratch) -> None:
        for start in range(first, last, step):
            stop = min(start + step, last)
            scores = scratch.floats(stop - start, shared * tokens, length)
            of_heads = slice(start * shared, stop * shared)
            asked = q[of_heads].reshape(stop - start, -1, dim) * np.float32(scale)
            np.matmul(asked, k[start:stop].transpose(0, 2, 1), out=scores)
            if softcap is not None:
                scores *= np.float32(1 / softcap)
                np.tanh(scores, out=scores)
                scores *= np.float32(softcap)
            by_token = scores.reshape(-1, shared, tokens, length)
            if later is not None:
                by_token[..., length - tokens :] += later
            if hidden is not None:
                by_token[..., :old] += hidden
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            result[of_heads] = (scores @ v[start:stop]).reshape(-1, tokens, dim)

    pool.share(kv_heads, work, most=1 + heads * tokens * length * dim // _WORTH)
    return result


def rms_norm(x: Floats, weight: Floats | None, eps: float) -> Floats:
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis."""
    squares = np.einsum("...i,...i->...", x, x)[..., None]
    y = x * (1 / np.sqrt(squares * np.float32(1 / x.shape[-1]) + np.float32(eps)))
    return y if weight is None else np.multiply(y, weight, out=y)


def layer_norm(x: Floats, weight: Floats, bias: Floats | None, eps: float) -> Floats:
    y = rms_norm(x - x.mean(axis=-1, keepdims=True), weight, eps)
    return y if bias is None else np.add(y, bias, out=y)


def rotated(x: Floats, cosines: Floats, sines: Floats) -> Floats:
    """x [tokens, heads, dim] with the first 2 half of the last axis turned, pairs (i, i + half); [tokens, 1, half]."""
    half = cosines.shape[-1]
    y = x.copy()
    first, second = x[..., :half], x[..., half : 2 * half]
    y[..., :half] = first * cosines - second * sines
    y[..., half : 2 * half] = first * sines + second * cosines
    return y
