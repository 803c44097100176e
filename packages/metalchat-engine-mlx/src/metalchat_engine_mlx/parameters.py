"""The arrays of a checkpoint, handed out module by module so that what was used can be freed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from metalchat_engine_mlx.quantization import Packing


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """The weight of a linear map: `rows` outputs, `columns` inputs, and a bias for each row or None.

    With a packing, `weight` is uint32 [rows, columns * bits / 32], scales and biases are [rows, columns / group_size].
    """

    weight: mx.array
    bias: mx.array | None = None
    packing: Packing | None = None
    scales: mx.array | None = None
    biases: mx.array | None = None

    @property
    def rows(self) -> int:
        return self.weight.shape[0]

    @property
    def columns(self) -> int:
        return self.weight.shape[1] if self.packing is None else self.weight.shape[1] * 32 // self.packing.bits

    def arrays(self) -> list[mx.array]:
        return [array for array in (self.weight, self.bias, self.scales, self.biases) if array is not None]

    def select_rows(self, start: int, stop: int) -> "Matrix":
        def cut(array: mx.array | None) -> mx.array | None:
            return None if array is None else array[start:stop]

        return Matrix(
            weight=self.weight[start:stop],
            bias=cut(self.bias),
            packing=self.packing,
            scales=cut(self.scales),
            biases=cut(self.biases),
        )

    def select_columns(self, start: int, stop: int) -> "Matrix":
        """Some of the inputs, without the bias. The cuts fall between groups of a packed matrix."""
        if self.packing is None or self.scales is None or self.biases is None:
            return Matrix(weight=self.weight[:, start:stop])
        bits, group = self.packing.bits, self.packing.group_size
        return Matrix(
            weight=self.weight[:, start * bits // 32 : stop * bits // 32],
            packing=self.packing,
            scales=self.scales[:, start // group : stop // group],
            biases=self.biases[:, start // group : stop // group],
        )


def join(matrices: Sequence[Matrix]) -> Matrix | None:
    """Matrices of the same inputs, one below the other; None where they are packed or biased differently."""
    first = matrices[0]
    if len(matrices) == 1:
        return first
    if any(
        matrix.packing != first.packing
        or (matrix.bias is None) != (first.bias is None)
        or matrix.weight.dtype != first.weight.dtype
        for matrix in matrices
    ):
        return None

    def stack(arrays: Sequence[mx.array | None]) -> mx.array | None:
        found = [array for array in arrays if array is not None]
        return mx.concatenate(found, axis=0) if found else None

    return Matrix(
        weight=mx.concatenate([matrix.weight for matrix in matrices], axis=0),
        bias=stack([matrix.bias for matrix in matrices]),
        packing=first.packing,
        scales=stack([matrix.scales for matrix in matrices]),
        biases=stack([matrix.biases for matrix in matrices]),
    )


class Parameters:
    """Named arrays with the packing of each module. Taking one removes it."""

    def __init__(self, arrays: dict[str, mx.array], packings: Mapping[str, Packing]) -> None:
        self._arrays = arrays
        self._packings = packings

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def vector(self, name: str) -> mx.array:
        return self._arrays.pop(name)

    def matrix(self, module: str) -> Matrix:
        return Matrix(
            weight=self._arrays.pop(f"{module}.weight"),
            bias=self._arrays.pop(f"{module}.bias", None),
            packing=self._packings.get(module),
            scales=self._arrays.pop(f"{module}.scales", None),
            biases=self._arrays.pop(f"{module}.biases", None),
        )
