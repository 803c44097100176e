"""The tensors of a GGUF file as MLX arrays, quantised ones without loss in MLX's affine layout."""

import os
from io import FileIO
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np
from metalchat_engine import InvalidModel
from numpy.typing import NDArray

from metalchat_engine_mlx.gguf._metadata import invalid
from metalchat_engine_mlx.gguf.config import LONG_FACTORS, ROPE_FACTORS
from metalchat_engine_mlx.gguf.header import GgufHeader, GgufTensor
from metalchat_engine_mlx.gguf.tensors import BITS, Parameter, model_config, parameters

_CHUNK: Final = 4096  # blocks; what is in work stays in the cache
_BLOCKS: Final = {  # ggml's block of 32 values: scale, minimum, quants
    "Q4_0": np.dtype([("d", "<f2"), ("q", "V16")]),
    "Q4_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "V16")]),
    "Q8_0": np.dtype([("d", "<f2"), ("q", "V32")]),
}

Bytes = NDArray[np.uint8]


def load_weights(
    path: str | os.PathLike[str], header: GgufHeader, *, dtype: mx.Dtype | None = None
) -> dict[str, mx.array]:
    """All parameters, under the names of a Hugging Face checkpoint; experts are stacked, as MLX has them.

    A quantised matrix is three arrays: `.weight` (uint32, values packed along the rows, low bits first), `.scales` and
    `.biases` (one value for a group of 32), as `mx.quantized_matmul(..., group_size=32, bits=bits)` takes them; `bits`
    is what `quantization(header)` says. value = q * scale + bias, with, from ggml's block of 32 values:

        Q4_0   4 bits, scale d, bias -8 d
        Q4_1   4 bits, scale d, bias m
        Q8_0   8 bits, scale d, bias -128 d, q = quant + 128

    `dtype` is that of scales, biases and plain tensors. None keeps what the file has: float16 for scales and biases,
    and each plain tensor's own. Dequantised in float32 the values equal ggml's exactly, but for the sign of zeros;
    float16 holds the scales exactly too. The rows of query and key projections are put back from ggml's order of rotary
    pairs (2 i, 2 i + 1) to that of Hugging Face (i, i + head_dim / 2), those of GPT-NeoX head by head, and Gemma's
    norms are less by one, as in its checkpoints. A missing output bias is zeros where the other attention biases exist.
    "rope_freqs" (float32 in any case) is there where `config_from_gguf` says so.

    The file is read tensor by tensor. Raises what `parameters` raises, before anything is read, and InvalidModel where
    the file is no longer the one the header was read from.
    """
    todo = parameters(header)
    try:
        with Path(path).open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != header.size:
                raise _changed(header)
            weights = _read_all(todo, file, header, dtype)
            _add_rope_factors(weights, file, header)
    except OSError as error:
        raise InvalidModel(f"'{header.file}' cannot be read: {error.strerror}") from error
    _add_output_biases(weights, header)
    return weights


def _read_all(
    todo: tuple[Parameter, ...], file: FileIO, header: GgufHeader, dtype: mx.Dtype | None
) -> dict[str, mx.array]:
    weights: dict[str, mx.array] = {}
    for parameter in todo:
        tensor = parameter.tensor
        raw = _read(file, tensor, header).reshape(tensor.shape[0], -1)
        if parameter.fused:
            raw = _head_order(raw, parameter.heads)
        elif parameter.heads:
            raw = _rotary_order(raw, parameter.heads)
        if tensor.type in BITS:
            _add_quantised(weights, parameter, raw, dtype or mx.float16)
        else:
            array = _plain(raw, tensor.type).reshape(tensor.shape)
            if parameter.less:
                array = array - parameter.less
            weights[f"{parameter.module}.{parameter.part}"] = array if dtype is None else array.astype(dtype)
    return weights


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


def _add_quantised(weights: dict[str, mx.array], parameter: Parameter, raw: Bytes, dtype: mx.Dtype) -> None:
    rows, kind = parameter.tensor.shape[:-1], parameter.tensor.type
    blocks = np.ascontiguousarray(raw).reshape(-1).view(_BLOCKS[kind])
    scales = _halves(blocks["d"], rows).astype(dtype)
    if kind == "Q8_0":
        quants = np.ascontiguousarray(blocks["q"]).view("<u4") ^ np.uint32(0x80808080)
        biases = scales * -128  # a power of two: exact in every dtype
    else:
        quants = _nibbles(blocks["q"]).view("<u4")
        biases = scales * -8 if kind == "Q4_0" else _halves(blocks["m"], rows).astype(dtype)
    weights[f"{parameter.module}.weight"] = _array(quants.reshape(*rows, -1))
    weights[f"{parameter.module}.scales"] = scales
    weights[f"{parameter.module}.biases"] = biases


def _halves(values: NDArray[np.float16], rows: tuple[int, ...]) -> mx.array:
    return _array(np.ascontiguousarray(values).reshape(*rows, -1))


def _array(values: Any) -> mx.array:
    """A copy in MLX. (Any: the two libraries declare `__dlpack__` differently.)"""
    return mx.array(values)


def _nibbles(blocks: NDArray[np.void]) -> NDArray[np.uint64]:
    """16 bytes a block, value i < 16 in the low half of byte i and i + 16 in its high half, to the order of the values.

    In 16-bit words: the low halves of a word's two bytes are values 2 i and 2 i + 1, neighbours in the result.
    """
    result = np.empty(len(blocks) * 2, np.uint64)
    for start in range(0, len(blocks), _CHUNK):
        source = np.ascontiguousarray(blocks[start : start + _CHUNK]).view("<u2")
        shifted = source >> 4
        low = (source & 0x000F) | (shifted & 0x00F0)
        high = (shifted & 0x000F) | ((shifted >> 4) & 0x00F0)
        into = result[2 * start : 2 * (start + _CHUNK)]
        into[0::2] = low.astype(np.uint8).view(np.uint64)
        into[1::2] = high.astype(np.uint8).view(np.uint64)
    return result


def _add_rope_factors(weights: dict[str, mx.array], file: FileIO, header: GgufHeader) -> None:
    found: list[NDArray[np.float32]] = []
    for name in (ROPE_FACTORS, *LONG_FACTORS):
        tensor = header.tensors.get(name)
        if tensor is not None:
            found.append(_read(file, tensor, header).view("<f4"))
            if not np.all((found[-1] >= 1e-6) & (found[-1] <= 1e6)):
                raise invalid(header, f"the tensor '{name}' has a factor that is not from 1e-06 to 1e+06")
    if found:
        weights["rope_freqs"] = _array(np.concatenate(found))


def _add_output_biases(weights: dict[str, mx.array], header: GgufHeader) -> None:
    for layer in model_config(header).layers:
        output = layer.attention.output
        name = f"{layer.name}.{output.name}.bias"
        if output.bias and name not in weights:
            like = weights[f"{layer.name}.{layer.attention.projections[-1].name}.bias"]
            weights[name] = mx.zeros(output.rows, dtype=like.dtype)
