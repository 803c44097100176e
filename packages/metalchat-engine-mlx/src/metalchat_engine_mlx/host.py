"""The building blocks of a transformer on a CPU: float32, in several threads.

MLX's CPU kernels are portable C++. What is fast among them, measured on x86-64 with AVX-512, in weights per second
and core: `quantized_matmul` 1.1e9 with the weights as they are stored, 3.2e9 with them transposed, since that inner
loop has no chain of dependent additions; plain float32 1.2e9 and 2.5e9. Products of many rows run at 5e9 operations a
second in MLX, and at 1e11 in the BLAS that NumPy carries. So matrices lie transposed where they can, one token goes
through MLX on several streams, and many tokens go through NumPy, as do weights of 16 bits, for which MLX has no fast
kernel.

That BLAS multiplies one token by 5e9 transposed weights of float32 a second and core, as fast as memory gives them.
Where there is memory for such weights, all matrices are turned to them, and NumPy runs the layers (`host_step`).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

import mlx.core as mx

from metalchat_engine_mlx import blas
from metalchat_engine_mlx.activations import gated
from metalchat_engine_mlx.config import Activation
from metalchat_engine_mlx.device import FeedForward, Gated, Mixture, Packed, Part, Rows, SideBySide
from metalchat_engine_mlx.gemm import Blas, Floats
from metalchat_engine_mlx.host_experts import HostExperts
from metalchat_engine_mlx.host_maps import Half, Rowwise, Transposed, Unpacked, Wide, widened
from metalchat_engine_mlx.host_step import step_of
from metalchat_engine_mlx.lowrank import Adapted
from metalchat_engine_mlx.parameters import Matrix, join
from metalchat_engine_mlx.pool import Pool
from metalchat_engine_mlx.scores import capped, seen

# Handing work to another stream and waiting for it costs about as much as this many weights.
SPLIT = 1_500_000
# From this many keys on, the attention of one token is worth the wait for NumPy.
LONG = 512


class HostBlocks:
    """Blocks for a CPU. Plain float16 and bfloat16 weights stay as they are unless `dtype` says otherwise.

    What has at least `split` weights is dealt out to all streams. With `wide`, weights are turned to float32, experts
    aside, and NumPy runs the layers. `library` multiplies; None is NumPy's own.
    """

    # Unpacking the weights for BLAS costs as much as two tokens in MLX.
    batch_from: ClassVar[int] = 3

    def __init__(
        self,
        streams: Sequence[mx.Stream],
        dtype: mx.Dtype | None = None,
        *,
        split: int = SPLIT,
        wide: bool = False,
        library: Blas | None = None,
    ) -> None:
        self._split, self._wide = split, wide
        self._streams = streams
        self._dtype = dtype
        self._pool = Pool(len(streams), library)
        self._units: dict[tuple[int, int], tuple[mx.array, mx.array]] = {}

    @property
    def pool(self) -> Pool | None:
        return self._pool if self._wide else None

    @property
    def scratch_bytes(self) -> int:
        return self._pool.nbytes

    def linear(self, matrices: Sequence[Matrix]) -> Part:
        joined = join(matrices)
        if joined is None:
            return SideBySide([self.linear([matrix]) for matrix in matrices])
        return self._map(joined, split=joined.rows * joined.columns >= self._split)

    def feed_forward(self, gate: Matrix | None, up: Matrix, down: Matrix, activation: Activation) -> Part:
        firsts = [up] if gate is None else [gate, up]
        gated = partial(_gated, activation)
        if self._wide:
            return WideFeedForward(self.linear(firsts), self.linear([down]), activation, is_gated=gate is not None)
        inner, ways = up.rows, len(self._streams)
        cut = inner // ways
        # Halves of a packed matrix begin where a group does, and their rows can be packed again.
        unit = max([32, *(matrix.packing.group_size for matrix in (*firsts, down) if matrix.packing)])
        # What NumPy multiplies, its own threads share.
        by_streams = ways > 1 and all(self._map_type(matrix) is Transposed for matrix in (*firsts, down))
        weights = inner * up.columns * (len(firsts) + 1)
        shards: list[tuple[Part, Part]] = []
        if by_streams and not (cut % unit or inner % ways or weights < self._split):
            for start in range(0, inner, cut):
                first = join([matrix.select_rows(start, start + cut) for matrix in firsts])
                if first is None:
                    shards.clear()
                    break
                shards.append((self._map(first), self._map(down.select_columns(start, start + cut))))
        if not shards:
            return FeedForward(self.linear(firsts), self.linear([down]), gated, is_gated=gate is not None)
        bias = None if down.bias is None else self.vector(down.bias)
        return SplitFeedForward(shards, bias, self._streams, gated, is_gated=gate is not None)

    def experts(self, gate: Matrix, up: Matrix, down: Matrix, activation: Activation) -> Mixture:
        stacks = [self._plain(matrix) for matrix in (gate, up, down)]
        return HostExperts(stacks, partial(_gated, activation), self._map_row_by_row)

    def embedding(self, matrix: Matrix, *, tied: bool) -> tuple[Part, Part | None]:
        if not tied:
            return Widened(Rows(self._plain(matrix), mx.float32)), None
        head = self.linear([matrix])
        if isinstance(head, Transposed | Wide | Half):
            return Embedding(head), head
        plain = self._plain(matrix)
        return Rows(plain, mx.float32), Packed(plain)  # of a prompt, only the last token gets to the output layer

    def vector(self, values: mx.array) -> mx.array:
        return values.astype(mx.float32)

    def attention(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        scale: float,
        *,
        window: int | None = None,
        softcap: float | None = None,
    ) -> mx.array:
        keys, values = seen(keys, values, queries.shape[2], window)
        if queries.shape[2] == 1 and keys.shape[2] < LONG:
            if softcap is not None:
                return capped(queries, keys, values, scale, softcap)
            return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale)
        return blas.attention(queries, keys, values, scale, self._pool, window=window, softcap=softcap)

    def _map(self, matrix: Matrix, *, split: bool = False) -> Part:
        if matrix.addition is not None:
            part = self._map(replace(matrix, addition=None), split=split)
            return Adapted(part, matrix.addition, lambda array: self._map(Matrix(weight=array.astype(mx.float32))))
        streams = self._streams if split else self._streams[:1]
        kind = self._map_type(matrix)
        if kind is Transposed:
            return Transposed(matrix, self._unit(matrix), streams, self._pool)
        if kind is Wide:
            weight = widened(matrix, self._pool)
            return Wide(weight, None if matrix.bias is None else self.vector(matrix.bias), self._pool)
        plain = self._plain(matrix)
        return Half(plain, self._pool) if kind is Half else Unpacked(plain, self._pool)

    def _map_row_by_row(self, plain: Matrix) -> Part:
        """A map whose weights stay as they lie."""
        if plain.packing:
            return Unpacked(plain, self._pool)
        return Rowwise(plain, self._pool) if plain.weight.dtype == mx.float32 else Half(plain, self._pool)

    def _map_type(self, matrix: Matrix) -> "type[Transposed | Unpacked | Wide | Half]":
        if self._wide:
            return Wide
        if matrix.packing:
            is_even = matrix.packing.mode == "affine" and matrix.packing.bits in (4, 8)
            return Transposed if is_even and matrix.rows % 32 == 0 else Unpacked
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

        return matrix.cast(mx.float32)


class WideFeedForward:
    """A feed-forward of maps that NumPy does."""

    def __init__(self, first: Part, down: Part, activation: Activation, *, is_gated: bool) -> None:
        self._parts, self._activation, self._is_gated = (first, down), activation, is_gated
        self._first, self._down = step_of(first), step_of(down)

    def on_host(self, x: Floats) -> Floats:
        inner = self._first(x)
        half = inner.shape[1] // 2
        gate, up = (inner[:, :half], inner[:, half:]) if self._is_gated else (inner, None)
        found = blas.gated(self._activation, gate, up)
        if found is None:
            found = blas.view(_gated(self._activation, blas.array(gate), None if up is None else blas.array(up)))
        return self._down(found)

    def __call__(self, x: mx.array) -> mx.array:
        return blas.array(self.on_host(blas.view(x)))

    def arrays(self) -> list[mx.array]:
        return [array for part in self._parts for array in part.arrays()]


class SplitFeedForward:
    """A feed-forward with its inner features dealt out to the streams, which meet once, in the sum at the end."""

    def __init__(
        self,
        shards: Sequence[tuple[Part, Part]],
        bias: mx.array | None,
        streams: Sequence[mx.Stream],
        gated: Gated,
        *,
        is_gated: bool,
    ) -> None:
        self._shards, self._bias, self._streams = shards, bias, streams
        self._gated, self._is_gated = gated, is_gated

    def __call__(self, x: mx.array) -> mx.array:
        pieces = []
        for (first, down), stream in reversed(list(zip(self._shards, self._streams, strict=True))):
            with mx.stream(stream):
                inner = first(x)
                inner = self._gated(*mx.split(inner, 2, axis=-1)) if self._is_gated else self._gated(inner)
                pieces.append(down(inner))
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


def _gated(activation: Activation, x: mx.array, up: mx.array | None = None) -> mx.array:
    if x.shape[0] > 1:
        y = blas.gated(activation, blas.view(x), None if up is None else blas.view(up))
        if y is not None:
            return blas.array(y)
    return gated(activation, x, up)
