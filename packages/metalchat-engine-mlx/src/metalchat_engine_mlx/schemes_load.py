"""Matrices that other tools have quantised, turned into MLX's affine layout or into plain numbers."""

from collections.abc import Iterable
from typing import Any, Final

import mlx.core as mx
import numpy as np
from metalchat_engine import InvalidModel, UnsupportedModel
from numpy.typing import NDArray

from metalchat_engine_mlx import blas
from metalchat_engine_mlx.bits import pack, unpack
from metalchat_engine_mlx.schemes import Floats, Integers, Scheme

# The row of a word's eight that each four bits hold, lowest first (AutoAWQ, `awq/utils/packing_utils.py`).
_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)
_CHUNK: Final = 2**22  # values that are unpacked at a time

Arrays = dict[str, mx.array]


def convert(scheme: Scheme, modules: Iterable[tuple[str, bool]], arrays: Arrays) -> None:
    """Replace, in `arrays`, the tensors of each module by `weight`, `scales` and `biases`, or by a plain `weight`.

    A module comes with whether the model has a bias there; a bias of zeros that some writers add is dropped. One matrix
    is in work at a time. Raises InvalidModel for groups that are out of range, UnsupportedModel for another bias.
    """
    for module, has_bias in modules:
        if not has_bias and (bias := arrays.pop(f"{module}.bias", None)) is not None and mx.any(bias != 0).item():
            raise UnsupportedModel(f"'{module}.bias' is not zeros, but the model has no bias there")
        if isinstance(scheme, Floats):
            weight = arrays.pop(f"{module}.weight")
            found = {"weight": _from_floats(scheme, weight, arrays.pop(f"{module}.{scheme.name}"))}
        else:
            found = _from_integers(scheme, module, arrays)
        mx.eval(*found.values())
        arrays.update({f"{module}.{part}": array for part, array in found.items()})
    for name in [name for name in arrays if name.endswith(scheme.ignored)] if scheme.ignored else []:
        del arrays[name]


def _from_floats(scheme: Floats, weight: mx.array, scales: mx.array) -> mx.array:
    rows, columns = weight.shape
    scales = scales.astype(mx.float32)
    if scheme.block is not None:
        scales = mx.repeat(mx.repeat(scales, scheme.block[0], axis=0)[:rows], scheme.block[1], axis=1)[:, :columns]
    else:
        scales = scales.reshape(-1, 1)
    step = max(_CHUNK // columns, 1)
    pieces: list[mx.array] = []
    for start in range(0, rows, step):
        of_rows = scales if scales.shape[0] == 1 else scales[start : start + step]
        numbers = mx.from_fp8(weight[start : start + step], mx.float32)
        pieces.append((numbers * of_rows).astype(mx.bfloat16))
        mx.eval(pieces[-1])
    return mx.concatenate(pieces)


def _from_integers(scheme: Integers, module: str, arrays: Arrays) -> Arrays:
    words = blas.view(arrays.pop(f"{module}.qweight")).view(np.uint32)
    zeros: NDArray[Any] = unpack(blas.view(arrays.pop(f"{module}.qzeros")).view(np.uint32), scheme.bits)
    scales: NDArray[np.float32] = blas.view(arrays.pop(f"{module}.scales").astype(mx.float32))
    indices = arrays.pop(f"{module}.g_idx", None)
    if scheme.is_awq:
        quants, zeros = _in_order(unpack(words, 4)), _in_order(zeros)
        words = pack(np.ascontiguousarray(quants.T), 4).reshape(quants.shape[1], -1)
    else:
        # Version 1 stores one less; a zero of 0 is then all ones.
        zeros = (zeros + np.uint8(scheme.offset)) & np.uint8(2**scheme.bits - 1)
        words = np.ascontiguousarray(words.T)
    columns = words.shape[1] * 32 // scheme.bits
    biases = -(scales * zeros.astype(np.float32))
    groups = np.arange(columns) // scheme.group(columns)
    if indices is not None:
        given = blas.view(indices)
        if scheme.reorders:
            groups = given
        elif not np.array_equal(given, groups):
            raise UnsupportedModel(f"'{module}.g_idx' puts the columns in another order, though 'desc_act' is false")
    if scheme.reorders:
        return {"weight": _reordered(words, scales, biases, groups, module, scheme.bits)}
    times = scheme.group(columns) // (scheme.packed_group(columns) or columns)
    return {
        "weight": blas.array(words),
        "scales": blas.array(np.repeat(scales.T, times, axis=1)),
        "biases": blas.array(np.repeat(biases.T, times, axis=1)),
    }


def _reordered(
    words: NDArray[np.uint32],
    scales: NDArray[np.float32],
    biases: NDArray[np.float32],
    groups: NDArray[Any],
    module: str,
    bits: int,
) -> mx.array:
    """float16, of [rows, words] and what `groups` says of each column."""
    if groups.min() < 0 or groups.max() >= len(scales):
        raise InvalidModel(f"'{module}.g_idx' names a group that is not there")
    result = np.empty((len(words), len(groups)), np.float16)
    step = max(_CHUNK // len(groups), 1)
    for start in range(0, len(words), step):
        rows = slice(start, start + step)
        quants = unpack(words[rows], bits).astype(np.float32)
        result[rows] = quants * scales[groups, rows].T + biases[groups, rows].T
    return blas.array(result)


def _in_order(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    eights = values.reshape(len(values), -1, 8)
    result = np.empty_like(eights)
    result[:, :, list(_AWQ_ORDER)] = eights
    return result.reshape(values.shape)
