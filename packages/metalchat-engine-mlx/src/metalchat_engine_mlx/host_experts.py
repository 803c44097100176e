"""A mixture of experts on a CPU: one token picks from the stacks, of many tokens each expert gets its own."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from metalchat_engine_mlx import blas
from metalchat_engine_mlx.device import Gated, Part, gathered
from metalchat_engine_mlx.parameters import Matrix


class HostExperts:
    """`stacks` are gate, up and down; `part` makes a map of one expert's matrix without copying it."""

    def __init__(self, stacks: Sequence[Matrix], gated: Gated, part: Callable[[Matrix], Part]) -> None:
        self._stacks, self._gated, self._part = stacks, gated, part
        mx.eval(self.arrays())

    def __call__(self, x: mx.array, chosen: mx.array, weights: mx.array) -> mx.array:
        if x.shape[0] == 1:
            gate, up, down = self._stacks
            rows, experts = x[:, None], chosen[0]
            inner = self._gated(_picked(gate, rows, experts)[:, 0], _picked(up, rows, experts)[:, 0])
            return mx.sum(_picked(down, inner[:, None], experts)[:, 0] * weights[0, :, None], axis=0, keepdims=True)
        asked, shares, inputs = blas.view(chosen), blas.view(weights), blas.view(x)
        y = np.zeros((x.shape[0], self._stacks[2].rows), np.float32)
        for expert in np.unique(asked):
            tokens, places = np.nonzero(asked == expert)
            gate, up, down = (self._part(stack.expert(int(expert))) for stack in self._stacks)
            mine = blas.array(inputs[tokens])
            found = blas.view(down(self._gated(gate(mine), up(mine))))
            y[tokens] += found * shares[tokens, places][:, None]
        return blas.array(y)

    def arrays(self) -> list[mx.array]:
        return [array for stack in self._stacks for array in stack.arrays()]


def _picked(stack: Matrix, x: mx.array, experts: mx.array) -> mx.array:
    """x [experts or 1, 1, columns] with the matrices of `experts`: [experts, 1, rows]."""
    if stack.packing is None and stack.weight.dtype != mx.float32:
        # MLX would widen the whole stack.
        return x @ stack.weight[experts].astype(mx.float32).swapaxes(-1, -2)
    lhs = mx.broadcast_to(x, (experts.shape[0], *x.shape[1:]))
    return gathered(stack, lhs, experts)
