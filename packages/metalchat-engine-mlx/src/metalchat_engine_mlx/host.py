"""The building blocks of a transformer on a CPU: float32, in several threads.

MLX's CPU kernels are portable C++. What is fast among them, measured on x86-64 with AVX-512, in weights per second
and core: `quantized_matmul` 1.1e9 with the weights as they are stored, 3.2e9 with them transposed, since that inner
loop has no chain of dependent additions; plain float32 1.2e9 and 2.5e9. Products of many rows run at 5e9 operations a
second in MLX, and at 1e11 in the BLAS that NumPy carries. So matrices lie transposed where they can, one token goes
through MLX on several streams, and many tokens go through NumPy, as do weights of 16 bits, for which MLX has no fast
kernel.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from metalchat_engine_mlx import blas
from metalchat_engine_mlx.device import FeedForward, Packed, Part, Rows, SideBySide, gated
from metalchat_engine_mlx.parameters import Matrix, join
from metalchat_engine_mlx.pool import Pool

# Handing work to another stream and waiting for it costs about as much as this many weights.
SPLIT = 1_500_000
MAX_STREAMS = 16
# From this many keys on, the attention of one token is worth the wait for NumPy.
LONG = 512


def default_threads() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, MAX_STREAMS)


class HostBlocks:
    """Blocks for a CPU. Plain float16 and bfloat16 weights stay as they are unless `dtype` says otherwise.

    What has at least `split` weights is dealt out to all streams.
    """

    def __init__(self, streams: Sequence[mx.Stream], dtype: mx.Dtype | None = None, *, split: int = SPLIT) -> None:
        self._split = split
        self._streams = streams
        self._dtype = dtype
        self._pool = Pool(len(streams))
        self._units: dict[tuple[int, int], tuple[mx.array, mx.array]] = {}

    @property
    def scratch_bytes(self) -> int:
        return self._pool.nbytes

    def linear(self, matrices: Sequence[Matrix]) -> Part:
        joined = join(matrices)
        if joined is None:
            return SideBySide([self.linear([matrix]) for matrix in matrices])
        return self._map(joined, split=joined.rows * joined.columns >= self._split)

    def feed_forward(self, gate: Matrix, up: Matrix, down: Matrix) -> Part:
        inner, ways = gate.rows, len(self._streams)
        cut = inner // ways
        # Halves of a packed matrix begin where a group does, and their rows can be packed again.
        unit = max([32, *(m.packing.group_size for m in (gate, up, down) if m.packing)])
        # What NumPy multiplies, its own threads share.
        by_streams = ways > 1 and all(self._map_type(matrix) in (Transposed, Wide) for matrix in (gate, up, down))
        if not by_streams or cut % unit or inner % ways or inner * gate.columns * 3 < self._split:
            return FeedForward(self.linear([gate, up]), self.linear([down]), _gated)
        shards = []
        for start in range(0, inner, cut):
            gate_up = join([gate.select_rows(start, start + cut), up.select_rows(start, start + cut)])
            if gate_up is None:
                return FeedForward(self.linear([gate, up]), self.linear([down]), _gated)
            shards.append((self._map(gate_up), self._map(down.select_columns(start, start + cut))))
        bias = None if down.bias is None else self.vector(down.bias)
        return SplitFeedForward(shards, bias, self._streams)

    def embedding(self, matrix: Matrix, *, tied: bool) -> tuple[Part, Part | None]:
        if not tied:
            return Widened(Rows(self._plain(matrix))), None
        head = self.linear([matrix])
        if isinstance(head, Transposed | Wide | Half):
            return Embedding(head), head
        plain = self._plain(matrix)
        return Rows(plain), Packed(plain)  # of a prompt, only the last token gets to the output layer

    def vector(self, values: mx.array) -> mx.array:
        return values.astype(mx.float32)

    def attention(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
        if queries.shape[2] == 1 and keys.shape[2] < LONG:
            return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale)
        return blas.attention(queries, keys, values, scale, self._pool)

    def _map(self, matrix: Matrix, *, split: bool = False) -> Part:
        streams = self._streams if split else self._streams[:1]
        kind = self._map_type(matrix)
        if kind is Transposed:
            return Transposed(matrix, self._unit(matrix), streams, self._pool)
        plain = self._plain(matrix)
        if kind is Wide:
            return Wide(plain, streams, self._pool)
        return Half(plain, self._pool) if kind is Half else Unpacked(plain, self._pool)

    def _map_type(self, matrix: Matrix) -> "type[Transposed | Unpacked | Wide | Half]":
        if matrix.packing:
            return Transposed if matrix.packing.bits in (4, 8) and matrix.rows % 32 == 0 else Unpacked
        return Wide if (self._dtype or matrix.weight.dtype) == mx.float32 else Half

    def _unit(self, matrix: Matrix) -> tuple[mx.array, mx.array]:
        """Scales of one and biases of zero, for rows of the transposed matrix; shared by all of one width."""
        packing = matrix.packing
        group = packing.group_size if packing else 0
        across = next(size for size in (128, 64, 32) if matrix.rows % size == 0)
        key = (group, matrix.rows // across)
        if key not in self._units:
            self._units[key] = (mx.ones((1, *key)), mx.zeros((1, *key)))
            mx.eval(self._units[key])
        return self._units[key]

    def _plain(self, matrix: Matrix) -> Matrix:
        if matrix.packing is None:
            weight = matrix.weight if self._dtype is None else matrix.weight.astype(self._dtype)
            return Matrix(weight=weight, bias=None if matrix.bias is None else matrix.bias.astype(mx.float32))

        def wide(array: mx.array | None) -> mx.array | None:
            return None if array is None else array.astype(mx.float32)

        return Matrix(
            weight=matrix.weight,
            bias=wide(matrix.bias),
            packing=matrix.packing,
            scales=wide(matrix.scales),
            biases=wide(matrix.biases),
        )


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
    """x W^T + b for a plain float32 W, which lies transposed."""

    def __init__(self, matrix: Matrix, streams: Sequence[mx.Stream], pool: Pool) -> None:
        self.weight = mx.contiguous(matrix.weight.T)
        self.bias = matrix.bias
        mx.eval(self.arrays())
        columns = matrix.columns
        ways = min(len(streams), columns)
        bounds = [columns * way // ways for way in range(ways + 1)]
        self._parts = [
            (start, stop, stream, self.weight[start:stop])
            for start, stop, stream in zip(bounds[:-1], bounds[1:], streams, strict=False)
        ]
        mx.eval([part[3] for part in self._parts])
        self._pool = pool

    def __call__(self, x: mx.array) -> mx.array:
        if x.shape[0] > 1:
            y = blas.multiply_wide(blas.view(x), blas.view(self.weight), self._pool)
            return blas.array(y if self.bias is None else y + blas.view(self.bias))
        pieces: list[mx.array] = []
        for start, stop, stream, weight in reversed(self._parts):
            with mx.stream(stream):
                pieces.append(x[:, start:stop] @ weight)
        y = pieces[0]
        for piece in pieces[1:]:
            y = y + piece
        return y if self.bias is None else y + self.bias

    def embed(self, x: mx.array) -> mx.array:
        """The rows of W that the ids x [tokens] name: [tokens, columns]."""
        return mx.contiguous(mx.take(self.weight, x, axis=1).T)

    def arrays(self) -> list[mx.array]:
        return [self.weight, *([] if self.bias is None else [self.bias])]


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


class Unpacked:
    """x W^T + b for W packed in a way that cannot be transposed: one token as `Packed` does, many by BLAS."""

    def __init__(self, matrix: Matrix, pool: Pool) -> None:
        self._packed, self._rows, self._pool = Packed(matrix), Rows(matrix), pool
        self._matrix = matrix

    def __call__(self, x: mx.array) -> mx.array:
        if x.shape[0] == 1:
            return self._packed(x)
        y = blas.multiply_rows(blas.view(x), lambda rows: blas.view(self._rows(rows)), self._matrix.rows, self._pool)
        return blas.array(y if self._matrix.bias is None else y + blas.view(self._matrix.bias))

    def arrays(self) -> list[mx.array]:
        return self._matrix.arrays()


class SplitFeedForward:
    """The SwiGLU block with its inner features dealt out to the streams, which meet once, in the sum at the end."""

    def __init__(
        self, shards: Sequence[tuple[Part, Part]], bias: mx.array | None, streams: Sequence[mx.Stream]
    ) -> None:
        self._shards, self._bias, self._streams = shards, bias, streams

    def __call__(self, x: mx.array) -> mx.array:
        pieces = []
        for (gate_up, down), stream in reversed(list(zip(self._shards, self._streams, strict=True))):
            with mx.stream(stream):
                gate, up = mx.split(gate_up(x), 2, axis=-1)
                pieces.append(down(_gated(gate, up)))
        y = pieces[0]
        for piece in pieces[1:]:
            y = y + piece
        return y if self._bias is None else y + self._bias

    def arrays(self) -> list[mx.array]:
        bias = [] if self._bias is None else [self._bias]
        return bias + [array for pair in self._shards for part in pair for array in part.arrays()]


class Embedding:
    """An embedding that reads the weights of the output layer; it has none of its own."""

    def __init__(self, head: Transposed | Wide | Half) -> None:
        self._head = head

    def __call__(self, x: mx.array) -> mx.array:
        return self._head.embed(x)

    def arrays(self) -> list[mx.array]:
        return []


class Widened:
    """A part whose result is turned to float32."""

    def __init__(self, part: Part) -> None:
        self._part = part

    def __call__(self, x: mx.array) -> mx.array:
        return self._part(x).astype(mx.float32)

    def arrays(self) -> list[mx.array]:
        return self._part.arrays()


def _gated(gate: mx.array, up: mx.array) -> mx.array:
    if gate.shape[0] > 1:
        return blas.array(blas.gated(blas.view(gate), blas.view(up)))
    return gated(gate, up)
