"""The arrays of a checkpoint, handed out module by module so that what was used can be freed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
from metalchat_engine import InvalidModel

from metalchat_engine_mlx.lowrank import Addition, Choice, joined
from metalchat_engine_mlx.quantization import Packing
from metalchat_engine_mlx.weights import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """The weight of a linear map: `rows` outputs, `columns` inputs, and a bias for each row or None.

    With a packing, `weight` is uint32 [rows, columns * bits / 32], scales and biases are [rows, columns / group_size];
    small floats have scales of 8 bits, which are no numbers, and no biases.
    Those of experts are stacked: one more axis comes first. `addition` is what adapters add to the map.
    """

    weight: mx.array
    bias: mx.array | None = None
    packing: Packing | None = None
    scales: mx.array | None = None
    biases: mx.array | None = None
    addition: Addition | None = None

    @property
    def rows(self) -> int:
        return self.weight.shape[-2]

    @property
    def columns(self) -> int:
        width = self.weight.shape[-1]
        return width if self.packing is None else width * 32 // self.packing.bits

    def arrays(self) -> list[mx.array]:
        return [array for array in (self.weight, self.bias, self.scales, self.biases) if array is not None]

    def select_rows(self, start: int, stop: int) -> "Matrix":
        return self._of_rows(lambda array: array[start:stop])

    def take_rows(self, rows: mx.array) -> "Matrix":
        return self._of_rows(lambda array: array[rows])

    def expert(self, number: int) -> "Matrix":
        """One of the stack; a view where the stack has been evaluated."""
        return self._each(lambda array: array[number])

    def cast(self, dtype: mx.Dtype) -> "Matrix":
        """All that is not packed in another dtype."""
        weight = self.weight if self.packing else self.weight.astype(dtype)
        cast = dataclasses.replace(self._each(lambda array: array.astype(dtype)), weight=weight)
        is_affine = self.packing is None or self.packing.mode == "affine"
        return cast if is_affine else dataclasses.replace(cast, scales=self.scales)

    def _of_rows(self, select: Callable[[mx.array], mx.array]) -> "Matrix":
        addition = None if self.addition is None else self.addition.of_rows(select)
        return dataclasses.replace(self._each(select), addition=addition)

    def _each(self, change: Callable[[mx.array], mx.array]) -> "Matrix":
        def changed(array: mx.array | None) -> mx.array | None:
            return None if array is None else change(array)

        return Matrix(
            weight=change(self.weight),
            bias=changed(self.bias),
            packing=self.packing,
            scales=changed(self.scales),
            biases=changed(self.biases),
            addition=self.addition,
        )

    def select_columns(self, start: int, stop: int) -> "Matrix":
        """Some of the inputs, without the bias. The cuts fall between groups of a packed matrix."""
        addition = None if self.addition is None else self.addition.of_columns(start, stop)
        if self.packing is None or self.scales is None:
            return Matrix(weight=self.weight[:, start:stop], addition=addition)
        bits, group = self.packing.bits, self.packing.group_size
        return Matrix(
            weight=self.weight[:, start * bits // 32 : stop * bits // 32],
            packing=self.packing,
            scales=self.scales[:, start // group : stop // group],
            biases=None if self.biases is None else self.biases[:, start // group : stop // group],
            addition=addition,
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
        addition=joined([matrix.addition for matrix in matrices], [matrix.rows for matrix in matrices]),
    )


def load_arrays(directory: Path, tensors: Mapping[str, Tensor], *, name: str) -> dict[str, mx.array]:
    """The arrays of a directory's checked headers, lazily. Raises InvalidModel where a file has changed since."""
    arrays: dict[str, mx.array] = {}
    for file in sorted({tensor.file for tensor in tensors.values()}):
        found = mx.load(str(directory / file), format="safetensors")
        if not isinstance(found, dict):
            raise InvalidModel(f"'{file}' is not a valid safetensors file")
        arrays |= found
    if arrays.keys() != tensors.keys() or any(arrays[key].shape != tensor.shape for key, tensor in tensors.items()):
        raise InvalidModel(f"'{name}' was changed while it was being loaded")
    return arrays


class Parameters:
    """Named arrays with the packing of each module, and what adapters add to it. Taking one removes it.

    `choice` is that of all additions.
    """

    def __init__(
        self,
        arrays: dict[str, mx.array],
        packings: Mapping[str, Packing],
        additions: Mapping[str, Addition] | None = None,
        choice: Choice | None = None,
    ) -> None:
        self._arrays = arrays
        self._packings = packings
        self._additions = additions or {}
        self.choice = choice or Choice()

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
            addition=self._additions.get(module),
        )

    def stack(self, module: str, single: str, count: int) -> Matrix:
        """The matrices of `count` experts, all packed alike: stored as one, or each under `single` with its number."""
        if f"{module}.weight" in self._arrays:
            return self.matrix(module)
        found = [self.matrix(single.format(expert)) for expert in range(count)]

        def stacked(arrays: Sequence[mx.array | None]) -> mx.array | None:
            given = [array for array in arrays if array is not None]
            return mx.stack(given) if given else None

        return Matrix(
            weight=mx.stack([matrix.weight for matrix in found]),
            packing=found[0].packing,
            scales=stacked([matrix.scales for matrix in found]),
            biases=stacked([matrix.biases for matrix in found]),
        )
