"""Whole numbers of a few bits, in words of 32."""

import numpy as np
from numpy.typing import NDArray


def pack(quants: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    """Whole numbers below 2**bits, a multiple of 32 of them, to one stream of bits, the first lowest, as MLX has it."""
    if bits == 8:
        return np.ascontiguousarray(quants).reshape(-1).view("<u4")
    eights = quants.reshape(-1, 8)
    if bits == 4:
        return (eights[:, 0::2] | (eights[:, 1::2] << 4)).reshape(-1).view("<u4")
    words = np.zeros(len(eights), "<u8")
    for place in range(8):
        words |= eights[:, place].astype("<u8") << np.uint64(place * bits)
    return np.ascontiguousarray(words.view(np.uint8).reshape(-1, 8)[:, :bits]).reshape(-1).view("<u4")


def unpack(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """[..., n] words to [..., 32 n / bits] numbers of 2, 4 or 8 bits, the lowest first."""
    packed = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return packed
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = (packed[..., None] >> shifts) & np.uint8(2**bits - 1)
    return values.reshape(*packed.shape[:-1], -1)
