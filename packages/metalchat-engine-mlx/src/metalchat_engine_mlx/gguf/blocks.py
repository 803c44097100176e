"""ggml's blocks of quantised values, turned into MLX's affine layout where that is exact, and into numbers elsewhere.

The formats are those of ggml-quants.c. All functions take whole blocks, `[blocks, bytes of a block]`.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metalchat_engine_mlx.bits import pack
from metalchat_engine_mlx.gguf._types import AFFINE_BITS, BLOCKS

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_CHUNK: Final = 2**17  # values; what is in work stays in the cache
# ggml-common.h, kvalues_iq4nl, moved up by 128 so that they are whole numbers of 8 bits.
_LEVELS: Final = np.array([1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241], np.uint8)


class Affine(NamedTuple):
    """value = quant * scale + bias: `quants` packed as MLX packs them, uint32; a scale and a bias for each group."""

    quants: NDArray[np.uint32]
    scales: NDArray[np.floating]
    biases: NDArray[np.floating]


def affine(raw: Bytes, kind: str) -> Affine:
    """The blocks of a type in AFFINE_BITS, in groups of 32 values.

    Scales and biases are float16 where the file has them so, and the float32 products that ggml computes elsewhere.
    """
    block, bits = BLOCKS[kind], AFFINE_BITS[kind]
    unpack = _AFFINE[kind]
    size = np.float32 if block.values > 32 else np.float16
    groups = len(raw) * block.values // 32
    result = Affine(np.empty(groups * bits, np.uint32), np.empty(groups, size), np.empty(groups, size))
    step = _CHUNK // block.values
    for start in range(0, len(raw), step):
        quants, scales, biases = unpack(raw[start : start + step])
        first, last = start * block.values // 32, min(start + step, len(raw)) * block.values // 32
        words = quants if quants.dtype == np.uint32 else pack(quants, bits)
        result.quants[first * bits : last * bits] = words.reshape(-1)
        result.scales[first:last] = scales.reshape(-1)
        result.biases[first:last] = biases.reshape(-1)
    return result


def numbers(raw: Bytes, kind: str, dtype: type[np.floating]) -> NDArray[np.floating]:
    """The values of the blocks of a type in EXPANDED, as ggml computes them in float32, in `dtype`.

    Beyond the range of float16 they are infinite.
    """
    block = BLOCKS[kind]
    result = np.empty((len(raw), block.values), dtype)
    step = _CHUNK // block.values
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(raw), step):
            part = raw[start : start + step]
            result[start : start + step] = _EXPANDED[kind](part).reshape(-1, block.values)
    return result.reshape(-1)


def _half(raw: Bytes, at: int) -> NDArray[np.float16]:
    """The float16 at a place of every block: [blocks, 1]."""
    return np.ascontiguousarray(raw[:, at : at + 2]).view("<f2")


def _nibbles(packed: Bytes) -> NDArray[Any]:
    """[..., n] bytes to [..., 2 n] values: all low halves, then all high halves."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _neighbours(packed: Bytes) -> NDArray[np.uint32]:
    """The same [blocks, n] bytes to [blocks, n / 4] words in which the values lie in their order.

    In 16-bit words: the low halves of a word's two bytes are values 2 i and 2 i + 1, neighbours in the result.
    """
    source = np.ascontiguousarray(packed).view("<u2")
    shifted = source >> 4
    low = (source & 0x000F) | (shifted & 0x00F0)
    high = (shifted & 0x000F) | ((shifted >> 4) & 0x00F0)
    return np.concatenate([low.astype(np.uint8), high.astype(np.uint8)], axis=-1).view("<u4")


def _fifth_bits(packed: Bytes) -> NDArray[Any]:
    """Bit i of the 4 bytes, as 16 or 0: [blocks, 32]."""
    return np.unpackbits(packed, axis=1, bitorder="little") << 4


Unpacked = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def _q4_0(raw: Bytes) -> Unpacked:
    scales = _half(raw, 0)
    return _neighbours(raw[:, 2:]), scales, scales * np.float16(-8)


def _q4_1(raw: Bytes) -> Unpacked:
    return _neighbours(raw[:, 4:]), _half(raw, 0), _half(raw, 2)


def _q5_0(raw: Bytes) -> Unpacked:
    scales = _half(raw, 0)
    return _nibbles(raw[:, 6:]) | _fifth_bits(raw[:, 2:6]), scales, scales * np.float16(-16)


def _q5_1(raw: Bytes) -> Unpacked:
    return _nibbles(raw[:, 8:]) | _fifth_bits(raw[:, 4:8]), _half(raw, 0), _half(raw, 2)


def _q8_0(raw: Bytes) -> Unpacked:
    scales = _half(raw, 0)
    return raw[:, 2:] ^ np.uint8(128), scales, scales * np.float16(-128)


def _iq4_nl(raw: Bytes) -> Unpacked:
    scales = _half(raw, 0)
    return _LEVELS[_nibbles(raw[:, 2:])], scales, scales * np.float16(-128)


def _iq4_xs(raw: Bytes) -> Unpacked:
    low = np.stack([raw[:, 4:8] & 15, raw[:, 4:8] >> 4], axis=-1).reshape(-1, 8)
    high = (np.ascontiguousarray(raw[:, 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16)) & 3
    scales = _half(raw, 0).astype(np.float32) * (low.astype(np.float32) + high * np.float32(16) - np.float32(32))
    return _LEVELS[_nibbles(raw[:, 8:].reshape(-1, 8, 16))], scales, scales * np.float32(-128)


def _scales_and_minima(raw: Bytes) -> tuple[Floats, Floats]:
    """Of Q4_K and Q5_K: the 8 scales and 8 minima of 6 bits, times those of the block, the minima negative."""
    first, second, third = raw[:, 4:8], raw[:, 8:12], raw[:, 12:16]
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return _half(raw, 0).astype(np.float32) * scales, -(_half(raw, 2).astype(np.float32) * minima)


def _q4_k(raw: Bytes) -> Unpacked:
    return _neighbours(raw[:, 16:].reshape(-1, 32)), *_scales_and_minima(raw)


def _q5_k(raw: Bytes) -> Unpacked:
    high = np.unpackbits(raw[:, 16:48, None], axis=2, bitorder="little").swapaxes(1, 2).reshape(-1, 4, 64)
    return _nibbles(raw[:, 48:].reshape(-1, 4, 32)) | (high << 4), *_scales_and_minima(raw)


def _twos(packed: Bytes) -> NDArray[Any]:
    """[blocks, 2, n] bytes to [blocks, 2, 4, n] values of two bits."""
    return (packed[:, :, None] >> np.arange(0, 8, 2, dtype=np.uint8)[:, None]) & 3


def _q2_k(raw: Bytes) -> NDArray[Any]:
    scales = _half(raw, 80).astype(np.float32) * (raw[:, :16] & 15)
    minima = _half(raw, 82).astype(np.float32) * (raw[:, :16] >> 4)
    return _twos(raw[:, 16:80].reshape(-1, 2, 32)).reshape(-1, 16, 16) * scales[:, :, None] - minima[:, :, None]


def _q3_k(raw: Bytes) -> NDArray[Any]:
    high = np.unpackbits(raw[:, :32, None], axis=2, bitorder="little").swapaxes(1, 2)
    quants = _twos(raw[:, 32:96].reshape(-1, 2, 32)).reshape(-1, 8, 32) | (high << 2)
    low, twos = _nibbles(raw[:, 96:104]), raw[:, 104:108]
    upper = ((twos[:, None] >> np.arange(0, 8, 2, dtype=np.uint8)[:, None]) & 3).reshape(-1, 16)
    scales = _half(raw, 108).astype(np.float32) * ((low | (upper << 4)).astype(np.float32) - np.float32(32))
    return (quants.reshape(-1, 16, 16).astype(np.float32) - np.float32(4)) * scales[:, :, None]


def _q6_k(raw: Bytes) -> NDArray[Any]:
    low = _nibbles(raw[:, :128].reshape(-1, 2, 64))
    quants = low | (_twos(raw[:, 128:192].reshape(-1, 2, 32)).reshape(-1, 2, 128) << 4)
    scales = _half(raw, 208).astype(np.float32) * raw[:, 192:208].view(np.int8)
    return (quants.reshape(-1, 16, 16).astype(np.float32) - np.float32(32)) * scales[:, :, None]


_AFFINE: Final[dict[str, Callable[[Bytes], Unpacked]]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
}
_EXPANDED: Final[dict[str, Callable[[Bytes], NDArray[Any]]]] = {"Q2_K": _q2_k, "Q3_K": _q3_k, "Q6_K": _q6_k}
