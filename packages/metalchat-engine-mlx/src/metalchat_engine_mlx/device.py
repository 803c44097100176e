"""The building blocks of a transformer in plain MLX: what a GPU runs, and a CPU where nothing faster fits."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import mlx.core as mx

from metalchat_engine_mlx.parameters import Matrix, join
from metalchat_engine_mlx.quantization import Packing

_T = TypeVar("_T")
Gated = Callable[[mx.array, mx.array], mx.array]


class Blocks(Protocol):
    """Makes the parts of a model; `[tokens, features]` in, `[tokens, features]` out.

    `scratch_bytes` is memory that is kept besides the weights, outside of MLX.
    """

    @property
    def scratch_bytes(self) -> int: ...

    def linear(self, matrices: Sequence[Matrix]) -> "Part":
        """One linear map, the outputs of all matrices side by side."""
        ...

    def feed_forward(self, gate: Matrix, up: Matrix, down: Matrix) -> "Part":
        """down(silu(gate x) * up x)."""
        ...

    def embedding(self, matrix: Matrix, *, tied: bool) -> tuple["Part", "Part | None"]:
        """Token ids `[tokens]` to features; and, where `tied`, the output layer of the same weights."""
        ...

    def vector(self, values: mx.array) -> mx.array:
        """A weight that is not a matrix, in the dtype that the model computes in."""
        ...

    def attention(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
        """Causal attention of the last tokens: [1, heads, tokens, dim] with [1, kv heads, length, dim]."""
        ...


class Part(Protocol):
    """A map of tokens. `arrays` lists what it keeps, so that it can be evaluated and counted."""

    def __call__(self, x: mx.array) -> mx.array: ...

    def arrays(self) -> list[mx.array]: ...


class DeviceBlocks:
    """Blocks of MLX's own kernels, in the dtype of the checkpoint or in `dtype`."""

    def __init__(self, dtype: mx.Dtype | None = None) -> None:
        self._dtype = dtype
        # On a CPU, compiling would start a C++ compiler.
        self._gated = mx.compile(gated, shapeless=True) if mx.default_device().type == mx.gpu else gated

    @property
    def scratch_bytes(self) -> int:
        return 0

    def linear(self, matrices: Sequence[Matrix]) -> Part:
        joined = join(matrices)
        if joined is None:
            return SideBySide([self.linear([matrix]) for matrix in matrices])
        return Packed(self._cast(joined)) if joined.packing else Dense(self._cast(joined))

    def feed_forward(self, gate: Matrix, up: Matrix, down: Matrix) -> Part:
        return FeedForward(self.linear([gate, up]), self.linear([down]), self._gated)

    def embedding(self, matrix: Matrix, *, tied: bool) -> tuple[Part, Part | None]:
        matrix = self._cast(matrix)
        return Rows(matrix), self.linear([matrix]) if tied else None

    def vector(self, values: mx.array) -> mx.array:
        return values if self._dtype is None else values.astype(self._dtype)

    def attention(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
        mask = "causal" if queries.shape[2] > 1 else None
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)

    def _cast(self, matrix: Matrix) -> Matrix:
        if self._dtype is None:
            return matrix
        return Matrix(
            weight=matrix.weight if matrix.packing else matrix.weight.astype(self._dtype),
            bias=None if matrix.bias is None else matrix.bias.astype(self._dtype),
            packing=matrix.packing,
            scales=None if matrix.scales is None else matrix.scales.astype(self._dtype),
            biases=None if matrix.biases is None else matrix.biases.astype(self._dtype),
        )


class Dense:
    """x W^T + b."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix
        self._transposed = matrix.weight.T
        self._bias = matrix.bias

    def __call__(self, x: mx.array) -> mx.array:
        if self._bias is None:
            return x @ self._transposed
        return mx.addmm(self._bias, x, self._transposed)

    def arrays(self) -> list[mx.array]:
        return self._matrix.arrays()


class Packed:
    """x W^T + b, with W unpacked while it is multiplied."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix
        self._packing = _packing(matrix)

    def __call__(self, x: mx.array) -> mx.array:
        matrix, packing = self._matrix, self._packing
        y = mx.quantized_matmul(
            x,
            matrix.weight,
            _present(matrix.scales),
            matrix.biases,
            transpose=True,
            group_size=packing.group_size,
            bits=packing.bits,
        )
        return y if matrix.bias is None else y + matrix.bias

    def arrays(self) -> list[mx.array]:
        return self._matrix.arrays()


class Rows:
    """Rows of an embedding, unpacked where they are packed."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix

    def __call__(self, x: mx.array) -> mx.array:
        matrix = self._matrix
        if matrix.packing is None or matrix.scales is None or matrix.biases is None:
            return matrix.weight[x]
        return mx.dequantize(
            matrix.weight[x],
            matrix.scales[x],
            matrix.biases[x],
            group_size=matrix.packing.group_size,
            bits=matrix.packing.bits,
        )

    def arrays(self) -> list[mx.array]:
        return self._matrix.arrays()


class SideBySide:
    """Maps of the same input whose outputs are joined."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts

    def __call__(self, x: mx.array) -> mx.array:
        return mx.concatenate([part(x) for part in self._parts], axis=-1)

    def arrays(self) -> list[mx.array]:
        return [array for part in self._parts for array in part.arrays()]


class FeedForward:
    """The SwiGLU block; `gate_up` gives both halves at once."""

    def __init__(self, gate_up: Part, down: Part, gated: Gated) -> None:
        self._gate_up, self._down, self._gated = gate_up, down, gated

    def __call__(self, x: mx.array) -> mx.array:
        gate, up = mx.split(self._gate_up(x), 2, axis=-1)
        return self._down(self._gated(gate, up))

    def arrays(self) -> list[mx.array]:
        return [*self._gate_up.arrays(), *self._down.arrays()]


def gated(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up."""
    return gate * mx.sigmoid(gate) * up


def _packing(matrix: Matrix) -> Packing:
    return _present(matrix.packing)


def _present(value: _T | None) -> _T:
    if value is None:
        raise TypeError("a packed matrix has scales")
    return value
