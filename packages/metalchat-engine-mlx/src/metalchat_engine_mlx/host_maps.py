"""Linear maps on a CPU, one for each way in which weights lie in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from metalchat_engine_mlx import blas
from metalchat_engine_mlx.device import Packed, Rows
from metalchat_engine_mlx.gemm import Floats
from metalchat_engine_mlx.parameters import Matrix
from metalchat_engine_mlx.pool import Pool

_BLOCK = 2**20  # weights that are turned to float32 at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """What one stream does of a transposed matrix: the groups from `start` to `stop`. All arrays are views."""

    start: int
    stop: int
    stream: mx.Stream
    ones: mx.array
    zeros: mx.array
    weight: mx.array
    scales: mx.array
    biases: mx.array


class Transposed:
    """x W^T + b for W packed in 4 or 8 bits.

    W^T is kept as [groups, group size, rows], packed along its rows, so that MLX multiplies whole numbers with unit
    scales, one group of inputs at a time; the groups' sums are then scaled and added: with q the whole numbers,

        y[n] = sum over g of scale[g, n] * (sum over k in g of x[k] q[k, n]) + bias[g, n] * (sum over k in g of x[k])
    """

    def __init__(
        self, matrix: Matrix, unit: tuple[mx.array, mx.array], streams: Sequence[mx.Stream], pool: Pool
    ) -> None:
        packing, scales, biases = matrix.packing, matrix.scales, matrix.biases
        if packing is None or scales is None or biases is None:
            raise TypeError("only a packed matrix is transposed")
        self.bits, self.group = packing.bits, packing.group_size
        self.rows = matrix.rows
        groups = matrix.columns // self.group
        self.weight = blas.transpose(matrix.weight, self.bits).reshape(groups, self.group, -1)
        self.scales = mx.contiguous(scales.astype(mx.float32).T).reshape(groups, 1, self.rows)
        self.biases = mx.contiguous(biases.astype(mx.float32).T)
        self.bias = None if matrix.bias is None else matrix.bias.astype(mx.float32)
        self._across = self.rows // unit[0].shape[2]
        mx.eval(self.arrays())
        ways = min(len(streams), groups)
        bounds = [groups * way // ways for way in range(ways + 1)]
        self._parts: list[_Share] = []
        for start, stop, stream in zip(bounds[:-1], bounds[1:], streams, strict=False):
            share = _Share(
                start=start,
                stop=stop,
                stream=stream,
                ones=mx.broadcast_to(unit[0], (stop - start, *unit[0].shape[1:])),
                zeros=mx.broadcast_to(unit[1], (stop - start, *unit[1].shape[1:])),
                weight=self.weight[start:stop],
                scales=self.scales[start:stop],
                biases=self.biases[start:stop],
            )
            mx.eval(share.ones, share.zeros, share.weight, share.scales, share.biases)
            self._parts.append(share)
        self._pool = pool

    def __call__(self, x: mx.array) -> mx.array:
        if x.shape[0] > 1:
            y = blas.multiply_packed(
                blas.view(x),
                blas.view(self.weight),
                blas.view(self.scales),
                blas.view(self.biases),
                self.bits,
                self._pool,
            )
            return blas.array(y if self.bias is None else y + blas.view(self.bias))
        grouped = x.reshape(-1, 1, self.group)
        sums = mx.sum(grouped, axis=2).reshape(1, -1)
        if len(self._parts) == 1:
            y = self._part(grouped, sums, self._parts[0])
        else:
            # The other streams first, so that they start while this one is still given its own work.
            pieces = []
            for part in reversed(self._parts):
                with mx.stream(part.stream):
                    pieces.append(self._part(grouped[part.start : part.stop], sums[:, part.start : part.stop], part))
            y = pieces[0]
            for piece in pieces[1:]:
                y = y + piece
        return y if self.bias is None else y + self.bias

    def embed(self, x: mx.array) -> mx.array:
        """The rows of W that the ids x [tokens] name: [tokens, columns]."""
        per_word = 32 // self.bits
        words = mx.take(self.weight, x // per_word, axis=2)
        shift = (x % per_word * self.bits).astype(mx.uint32)
        numbers = mx.bitwise_and(mx.right_shift(words, shift), 2**self.bits - 1).astype(mx.float32)
        rows = numbers * mx.take(self.scales, x, axis=2) + mx.take(self.biases, x, axis=1)[:, None, :]
        return mx.contiguous(rows.reshape(-1, x.shape[0]).T)

    def arrays(self) -> list[mx.array]:
        return [self.weight, self.scales, self.biases, *([] if self.bias is None else [self.bias])]

    def _part(self, grouped: mx.array, sums: mx.array, part: "_Share") -> mx.array:
        products = mx.quantized_matmul(
            grouped, part.weight, part.ones, part.zeros, transpose=False, group_size=self._across, bits=self.bits
        )
        return mx.addmm(mx.sum(products * part.scales, axis=0), sums, part.biases)


class Wide:
    """x W^T + b for W in float32, which lies transposed: `weight` is [columns, rows]."""

    def __init__(self, weight: mx.array, bias: mx.array | None, pool: Pool) -> None:
        self.weight, self.bias, self._pool = weight, bias, pool
        mx.eval(self.arrays())
        self._view = blas.view(weight)
        self._added = None if bias is None else blas.view(bias)

    def on_host(self, x: Floats) -> Floats:
        y = blas.multiply_wide(x, self._view, self._pool)
        return y if self._added is None else np.add(y, self._added, out=y)

    def __call__(self, x: mx.array) -> mx.array:
        return blas.array(self.on_host(blas.view(x)))

    def embed(self, x: mx.array) -> mx.array:
        """The rows of W that the ids x [tokens] name: [tokens, columns]."""
        return mx.contiguous(mx.take(self.weight, x, axis=1).T)

    def arrays(self) -> list[mx.array]:
        return [self.weight, *([] if self.bias is None else [self.bias])]


def widened(matrix: Matrix, pool: Pool) -> mx.array:
    """The weights in float32, transposed: [columns, rows]. Some rows at a time, so that they are held only once."""
    found = mx.zeros((matrix.columns, matrix.rows))
    into, packing = blas.view(found), matrix.packing
    if packing is None or packing.mode != "affine" or packing.bits not in (4, 8):
        rows, step = Rows(matrix, mx.float32), max(_BLOCK // matrix.columns, 32)
        for first in range(0, matrix.rows, step):
            last = min(first + step, matrix.rows)
            into[:, first:last] = blas.view(rows(mx.arange(first, last)).astype(mx.float32)).T
        return found
    wide = matrix.cast(mx.float32)
    if wide.scales is None or wide.biases is None:
        raise TypeError("a packed matrix has scales and biases")
    blas.unpack(blas.view(wide.weight), blas.view(wide.scales), blas.view(wide.biases), packing.bits, into, pool)
    return found


class Half:
    """x W^T + b for a plain W of float16 or bfloat16, widened piece by piece. MLX would round x and y to 16 bits."""

    def __init__(self, matrix: Matrix, pool: Pool) -> None:
        self.weight, self.bias, self._pool = mx.contiguous(matrix.weight), matrix.bias, pool
        self._bits = self.weight.view(mx.uint16)
        mx.eval(self.arrays(), self._bits)

    def __call__(self, x: mx.array) -> mx.array:
        is_bfloat16 = self.weight.dtype == mx.bfloat16
        y = blas.multiply_halves(blas.view(x), blas.view(self._bits), self._pool, is_bfloat16=is_bfloat16)
        return blas.array(y if self.bias is None else y + blas.view(self.bias))

    def embed(self, x: mx.array) -> mx.array:
        """The rows of W that the ids x [tokens] name: [tokens, columns]."""
        return self.weight[x].astype(mx.float32)

    def arrays(self) -> list[mx.array]:
        return [self.weight, *([] if self.bias is None else [self.bias])]


class Rowwise:
    """x W^T + b for a plain float32 W that is not transposed."""

    def __init__(self, matrix: Matrix, pool: Pool) -> None:
        self._matrix, self._pool = matrix, pool

    def __call__(self, x: mx.array) -> mx.array:
        y = blas.multiply_wide(blas.view(x), blas.view(self._matrix.weight).T, self._pool)
        return blas.array(y if self._matrix.bias is None else y + blas.view(self._matrix.bias))

    def arrays(self) -> list[mx.array]:
        return self._matrix.arrays()


class Unpacked:
    """x W^T + b for W packed in a way that cannot be transposed: one token as `Packed` does, many by BLAS."""

    def __init__(self, matrix: Matrix, pool: Pool) -> None:
        self._packed, self._rows, self._pool = Packed(matrix), Rows(matrix, mx.float32), pool
        self._matrix = matrix

    def __call__(self, x: mx.array) -> mx.array:
        if x.shape[0] == 1:
            return self._packed(x)
        y = blas.multiply_rows(blas.view(x), lambda rows: blas.view(self._rows(rows)), self._matrix.rows, self._pool)
        return blas.array(y if self._matrix.bias is None else y + blas.view(self._matrix.bias))

    def arrays(self) -> list[mx.array]:
        return self._matrix.arrays()
