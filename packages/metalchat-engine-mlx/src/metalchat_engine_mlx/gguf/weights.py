"""The tensors of a GGUF file as MLX arrays, quantised ones without loss in MLX's affine layout where it has them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from metalchat_engine import InvalidModel
from numpy.typing import NDArray

from metalchat_engine_mlx.gguf._metadata import invalid
from metalchat_engine_mlx.gguf._types import AFFINE_BITS, BLOCKS, EXPANDED
from metalchat_engine_mlx.gguf.blocks import Bytes, affine, numbers
from metalchat_engine_mlx.gguf.config import LONG_FACTORS, ROPE_FACTORS
from metalchat_engine_mlx.gguf.header import GgufHeader, GgufTensor
from metalchat_engine_mlx.gguf.tensors import Parameter, model_config, parameters


def load_weights(
    path: str | os.PathLike[str], header: GgufHeader, *, dtype: mx.Dtype | None = None
) -> dict[str, mx.array]:
    """All parameters, under the names of a Hugging Face checkpoint; experts are stacked, as MLX has them.

    A quantised matrix is three arrays: `.weight` (uint32, values packed along the rows, low bits first), `.scales` and
    `.biases` (one value for a group of 32), as `mx.quantized_matmul(..., group_size=32, bits=bits)` takes them; `bits`
    is what `quantization(header)` says. value = q * scale + bias, with, from ggml's block of 32 values:

        Q4_0, Q5_0     4 or 5 bits, scale d, bias -8 d or -16 d
        Q4_1, Q5_1     4 or 5 bits, scale d, bias m
        Q8_0           8 bits, scale d, bias -128 d, q = quant + 128
        Q4_K, Q5_K     4 or 5 bits, scale d * scales[i], bias -dmin * mins[i]
        IQ4_NL, IQ4_XS 8 bits, scale d, times scales[i] of IQ4_XS, bias -128 scale, q = the level of the quant + 128

    Q2_K, Q3_K and Q6_K, which have a scale for 16 values, become plain matrices.

    `dtype` is that of scales, biases and plain tensors. None keeps what the file has: float16 for scales and biases,
    float32 where they are products of two numbers, and each plain tensor's own; the matrices of Q2_K, Q3_K and Q6_K
    are then float16. Dequantised in float32 the values equal ggml's exactly, but for the sign of zeros.

    The rows of query and key projections are put back from ggml's order of rotary pairs (2 i, 2 i + 1) to that of
    Hugging Face (i, i + head_dim / 2), those of GPT-NeoX head by head, and Gemma's norms are less by one, as in its
    checkpoints. A missing output bias is zeros where the other attention biases exist. "rope_freqs" (float32 in any
    case) is there where `config_from_gguf` says so.

    The file is read tensor by tensor. Raises what `parameters` raises, before anything is read, and InvalidModel where
    the file is no longer the one the header was read from.
    """
    todo = parameters(header)
    weights: dict[str, mx.array] = {}
    with opened(path, header) as file:
        for parameter in todo:
            weights |= read_parameter(parameter, file, header, dtype)
        factors = rope_factors(file, header)
    if factors:
        weights["rope_freqs"] = _array(np.concatenate(factors))
    for name, rows, like in missing_biases(header):
        weights[name] = mx.zeros(rows, dtype=weights[like].dtype)
    return weights


@contextmanager
def opened(path: str | os.PathLike[str], header: GgufHeader) -> Iterator[FileIO]:
    """The file that a header was read from. Raises InvalidModel where it cannot be read, or is another by now."""
    try:
        with Path(path).open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != header.size:
                raise _changed(header)
            yield file
    except OSError as error:
        raise InvalidModel(f"'{header.file}' cannot be read: {error.strerror}") from error


def read_parameter(
    parameter: Parameter, file: FileIO, header: GgufHeader, dtype: mx.Dtype | None
) -> dict[str, mx.array]:
    """The arrays of one parameter, as `load_weights` has them."""
    tensor = parameter.tensor
    raw = _read(file, tensor, header).reshape(tensor.shape[0], -1)
    if parameter.fused:
        raw = _head_order(raw, parameter.heads)
    elif parameter.heads:
        raw = _rotary_order(raw, parameter.heads)
    if tensor.type in AFFINE_BITS:
        return _quantised(parameter, raw, dtype)
    if tensor.type in EXPANDED:
        return {parameter.name: _expanded(header, tensor, raw, dtype)}
    array = _plain(raw, tensor.type).reshape(tensor.shape)
    if parameter.less:
        array = array - parameter.less
    return {parameter.name: array if dtype is None else array.astype(dtype)}


def rope_factors(file: FileIO, header: GgufHeader) -> list[NDArray[np.float32]]:
    """The divisors of each pair's frequency that the file spells out: none, a row, or those of a longrope."""
    found: list[NDArray[np.float32]] = []
    # Of the others, if they are there, nobody has looked at the type and the shape.
    for name in LONG_FACTORS if LONG_FACTORS[0] in header.tensors else (ROPE_FACTORS,):
        tensor = header.tensors.get(name)
        if tensor is not None:
            found.append(_read(file, tensor, header).view("<f4"))
            if not np.all((found[-1] >= 1e-6) & (found[-1] <= 1e6)):
                raise invalid(header, f"the tensor '{name}' has a factor that is not from 1e-06 to 1e+06")
    return found


def missing_biases(header: GgufHeader) -> Iterator[tuple[str, int, str]]:
    """Output biases that the file leaves out since they are zeros: name, size, and a bias of the same dtype."""
    known = {parameter.name for parameter in parameters(header)}
    for layer in model_config(header).layers:
        output = layer.attention.output
        name = f"{layer.name}.{output.name}.bias"
        if output.bias and name not in known:
            yield name, output.rows, f"{layer.name}.{layer.attention.projections[-1].name}.bias"


def _read(file: FileIO, tensor: GgufTensor, header: GgufHeader) -> Bytes:
    """The bytes of a tensor; a map would end the process where another one cuts the file."""
    data = np.empty(tensor.nbytes, np.uint8)
    file.seek(tensor.offset)
    view, done = data.data, 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise _changed(header)
        done += count
    return data


def _changed(header: GgufHeader) -> InvalidModel:
    return InvalidModel(f"'{header.file}' was changed while it was being loaded")


def _rotary_order(raw: Bytes, heads: int) -> Bytes:
    """Rows from (head, pair, 2) to (head, 2, pair). A row's quantised blocks move with it."""
    pairs = raw.shape[0] // heads // 2
    return raw.reshape(heads, pairs, 2, -1).swapaxes(1, 2).reshape(raw.shape)


def _head_order(raw: Bytes, heads: int) -> Bytes:
    """Rows from (query or key or value, head, dim) to (head, query or key or value, dim)."""
    return raw.reshape(3, heads, raw.shape[0] // heads // 3, -1).swapaxes(0, 1).reshape(raw.shape)


def _plain(raw: Bytes, kind: str) -> mx.array:
    """A flat array of F32, F16 or BF16."""
    flat = np.ascontiguousarray(raw).reshape(-1)
    if kind == "BF16":
        return _array(flat.view("<u2")).view(mx.bfloat16)
    return _array(flat.view("<f4" if kind == "F32" else "<f2"))


def _quantised(parameter: Parameter, raw: Bytes, dtype: mx.Dtype | None) -> dict[str, mx.array]:
    tensor = parameter.tensor
    found = affine(_blocks(raw, tensor.type), tensor.type)
    arrays: dict[str, mx.array] = {}
    for part, values in (("weight", found.quants), ("scales", found.scales), ("biases", found.biases)):
        array = _array(values.reshape(*tensor.shape[:-1], -1))
        arrays[f"{parameter.module}.{part}"] = array if part == "weight" or dtype is None else array.astype(dtype)
    return arrays


def _expanded(header: GgufHeader, tensor: GgufTensor, raw: Bytes, dtype: mx.Dtype | None) -> mx.array:
    size = np.float16 if dtype is None or dtype == mx.float16 else np.float32
    values = numbers(_blocks(raw, tensor.type), tensor.type, size)
    if size is np.float16 and not np.all(np.isfinite(values)):
        raise invalid(header, f"the tensor '{tensor.name}' has values that are not numbers of 16 bits")
    array = _array(values.reshape(tensor.shape))
    return array if dtype is None else array.astype(dtype)


def _blocks(raw: Bytes, kind: str) -> Bytes:
    return np.ascontiguousarray(raw).reshape(-1, BLOCKS[kind].nbytes)


def _array(values: Any) -> mx.array:
    """A copy in MLX. (Any: the two libraries declare `__dlpack__` differently.)"""
    return mx.array(values)
