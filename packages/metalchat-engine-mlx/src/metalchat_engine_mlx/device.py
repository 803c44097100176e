"""The building blocks of a transformer in plain MLX: what a GPU runs, and a CPU where nothing faster fits."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar, Protocol, TypeVar

import mlx.core as mx

from metalchat_engine_mlx.activations import gated
from metalchat_engine_mlx.config import Activation
from metalchat_engine_mlx.lowrank import Adapted
from metalchat_engine_mlx.parameters import Matrix, join
from metalchat_engine_mlx.pool import Pool
from metalchat_engine_mlx.quantization import Packing
from metalchat_engine_mlx.scores import capped, seen, visible

# From this many pairs of token and expert on, sorting them pays.
SORTED = 64

_T = TypeVar("_T")
Gated = Callable[..., mx.array]


class Blocks(Protocol):
    """Makes the parts of a model; `[tokens, features]` in, `[tokens, features]` out.

    `pool` is there where NumPy runs the layers. `scratch_bytes` is memory that is kept besides the weights, outside of
    MLX. From `batch_from` texts on, a token of
    each is computed faster together than one by one.
    """

    batch_from: ClassVar[int]

    @property
    def pool(self) -> Pool | None: ...

    @property
    def scratch_bytes(self) -> int: ...

    def linear(self, matrices: Sequence[Matrix]) -> "Part":
        """One linear map, the outputs of all matrices side by side."""
        ...

    def feed_forward(self, gate: Matrix | None, up: Matrix, down: Matrix, activation: Activation) -> "Part":
        """down(activation(gate x) * up x), or down(activation(up x)) without a gate."""
        ...

    def experts(self, gate: Matrix, up: Matrix, down: Matrix, activation: Activation) -> "Mixture":
        """Gated feed-forwards, stacked."""
        ...

    def embedding(self, matrix: Matrix, *, tied: bool) -> tuple["Part", "Part | None"]:
        """Token ids `[tokens]` to features; and, where `tied`, the output layer of the same weights."""
        ...

    def vector(self, values: mx.array) -> mx.array:
        """A weight that is not a matrix, in the dtype that the model computes in."""
        ...

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
        """Causal attention of the last tokens: [1, heads, tokens, dim] with [1, kv heads, length, dim].

        A token sees `window` tokens, itself included; keys that no token sees may be missing.
        """
        ...


class Part(Protocol):
    """A map of tokens. `arrays` lists what it keeps, so that it can be evaluated and counted."""

    def __call__(self, x: mx.array) -> mx.array: ...

    def arrays(self) -> list[mx.array]: ...


class Mixture(Protocol):
    """Experts: x [tokens, features], which of them each token asks [tokens, used], and how much each one counts."""

    def __call__(self, x: mx.array, chosen: mx.array, weights: mx.array) -> mx.array: ...

    def arrays(self) -> list[mx.array]: ...


class DeviceBlocks:
    """Blocks of MLX's own kernels, in the dtype of the checkpoint or in `dtype`."""

    batch_from: ClassVar[int] = 2

    def __init__(self, dtype: mx.Dtype | None = None) -> None:
        self._dtype = dtype
        self._gated: dict[Activation, Gated] = {}
        self._mask: tuple[tuple[int, int, int | None], mx.array] | None = None

    @property
    def pool(self) -> None:
        return None

    @property
    def scratch_bytes(self) -> int:
        return 0

    def linear(self, matrices: Sequence[Matrix]) -> Part:
        joined = join(matrices)
        if joined is None:
            return SideBySide([self.linear([matrix]) for matrix in matrices])
        if joined.addition is not None:
            part = self.linear([replace(joined, addition=None)])
            return Adapted(part, joined.addition, lambda array: self.linear([Matrix(weight=array)]))
        return Packed(self._cast(joined)) if joined.packing else Dense(self._cast(joined))

    def feed_forward(self, gate: Matrix | None, up: Matrix, down: Matrix, activation: Activation) -> Part:
        first = self.linear([up] if gate is None else [gate, up])
        return FeedForward(first, self.linear([down]), self._gate(activation), is_gated=gate is not None)

    def experts(self, gate: Matrix, up: Matrix, down: Matrix, activation: Activation) -> Mixture:
        return Gathered(self._cast(gate), self._cast(up), self._cast(down), self._gate(activation))

    def embedding(self, matrix: Matrix, *, tied: bool) -> tuple[Part, Part | None]:
        matrix = self._cast(matrix)
        return Rows(matrix, self._dtype), self.linear([matrix]) if tied else None

    def vector(self, values: mx.array) -> mx.array:
        return values if self._dtype is None else values.astype(self._dtype)

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
        tokens = queries.shape[2]
        keys, values = seen(keys, values, tokens, window)
        length = keys.shape[2]
        hides = window is not None and length > window
        if softcap is None and not hides:
            mask = "causal" if tokens > 1 else None
            return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
        key = (tokens, length, window if hides else None)
        if self._mask is None or self._mask[0] != key:
            self._mask = (key, visible(*key))
        if softcap is None:
            return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=self._mask[1])
        return capped(queries, keys, values, scale, softcap, self._mask[1])

    def _gate(self, activation: Activation) -> Gated:
        if activation not in self._gated:
            plain = partial(gated, activation)
            # On a CPU, compiling would start a C++ compiler.
            on_gpu = mx.default_device().type == mx.gpu
            self._gated[activation] = mx.compile(plain, shapeless=True) if on_gpu else plain
        return self._gated[activation]

    def _cast(self, matrix: Matrix) -> Matrix:
        return matrix if self._dtype is None else matrix.cast(self._dtype)


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
            mode=packing.mode,
        )
        return y if matrix.bias is None else y + matrix.bias

    def arrays(self) -> list[mx.array]:
        return self._matrix.arrays()


class Rows:
    """Rows of an embedding, unpacked where they are packed; small floats to `dtype`."""

    def __init__(self, matrix: Matrix, dtype: mx.Dtype | None) -> None:
        self._matrix = matrix
        self._dtype = dtype

    def __call__(self, x: mx.array) -> mx.array:
        matrix = self._matrix
        if matrix.packing is None or matrix.scales is None:
            return matrix.weight[x]
        is_affine = matrix.packing.mode == "affine"
        return mx.dequantize(
            matrix.weight[x],
            matrix.scales[x],
            None if matrix.biases is None else matrix.biases[x],
            group_size=matrix.packing.group_size,
            bits=matrix.packing.bits,
            mode=matrix.packing.mode,
            dtype=None if is_affine else self._dtype,
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
    """`first` gives the gate's half and the other half at once, or, not gated, all that is activated."""

    def __init__(self, first: Part, down: Part, gated: Gated, *, is_gated: bool) -> None:
        self._first, self._down, self._gated, self._is_gated = first, down, gated, is_gated

    def __call__(self, x: mx.array) -> mx.array:
        inner = self._first(x)
        return self._down(self._gated(*mx.split(inner, 2, axis=-1)) if self._is_gated else self._gated(inner))

    def arrays(self) -> list[mx.array]:
        return [*self._first.arrays(), *self._down.arrays()]


class Gathered:
    """Stacked experts, of which the kernel picks those asked; many tokens are sorted by their expert first."""

    def __init__(self, gate: Matrix, up: Matrix, down: Matrix, gated: Gated) -> None:
        self._gate, self._up, self._down, self._gated = gate, up, down, gated
        mx.eval(self.arrays())

    def __call__(self, x: mx.array, chosen: mx.array, weights: mx.array) -> mx.array:
        tokens, used = chosen.shape
        order = mx.argsort(chosen.reshape(-1))
        is_sorted = tokens * used >= SORTED
        if is_sorted:
            rows, experts = x[order // used][:, None], chosen.reshape(-1)[order]
        else:
            rows, experts = x[:, None, None], chosen
        gate = gathered(self._gate, rows, experts, is_sorted=is_sorted)
        up = gathered(self._up, rows, experts, is_sorted=is_sorted)
        y = gathered(self._down, self._gated(gate, up), experts, is_sorted=is_sorted)
        if is_sorted:
            y = y[:, 0][mx.argsort(order)].reshape(tokens, used, -1)
        else:
            y = y[:, :, 0]
        return mx.sum(y * weights[:, :, None], axis=1)

    def arrays(self) -> list[mx.array]:
        return [*self._gate.arrays(), *self._up.arrays(), *self._down.arrays()]


def gathered(stack: Matrix, x: mx.array, experts: mx.array, *, is_sorted: bool = False) -> mx.array:
    """x [..., 1, columns] with the matrices of the stack that `experts` names."""
    if stack.packing is None:
        weight = stack.weight.swapaxes(-1, -2)
        return mx.gather_mm(x, weight, rhs_indices=experts, sorted_indices=is_sorted)
    return mx.gather_qmm(
        x,
        stack.weight,
        _present(stack.scales),
        stack.biases,
        rhs_indices=experts,
        transpose=True,
        group_size=stack.packing.group_size,
        bits=stack.packing.bits,
        mode=stack.packing.mode,
        sorted_indices=is_sorted,
    )


def _packing(matrix: Matrix) -> Packing:
    return _present(matrix.packing)


def _present(value: _T | None) -> _T:
    if value is None:
        raise TypeError("a packed matrix has scales")
    return value
