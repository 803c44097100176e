"""A model written again with packed weights, one tensor after the other, as MLX stores them."""

import json
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx
import numpy as np
from metalchat_engine import Quantization, UnsupportedModel, UnsupportedRequest

from metalchat_engine_mlx import blas
from metalchat_engine_mlx.checkpoint import Checkpoint
from metalchat_engine_mlx.config import ExpertsSpec
from metalchat_engine_mlx.plain import PlainSource, PlainTensor, plain_source
from metalchat_engine_mlx.quantization import BITS, FLOATS, GROUP_SIZES, Packing
from metalchat_engine_mlx.weights import matrices

WEIGHTS = "model.safetensors"
_PAPERS = ("licen", "notice", "use_policy", "copying")

Progress = Callable[[int, int], None]


def read_packing(quantization: Quantization) -> Packing:
    """The packing that is asked for. Raises UnsupportedRequest for one that MLX does not have."""
    mode, bits, group_size = quantization.mode, quantization.bits, quantization.group_size
    if mode in FLOATS:
        size, width = FLOATS[mode]
        if bits not in (None, width) or group_size not in (None, size):
            raise UnsupportedRequest(f"{mode} has {width} bits in groups of {size}; leave both out", option="bits")
        return Packing(group_size=size, bits=width, mode=mode)
    if mode != "affine":
        raise UnsupportedRequest(f"mode is {mode!r}, expected affine, {', '.join(FLOATS)}", option="mode")
    if bits is not None and bits not in BITS:
        raise UnsupportedRequest(f"bits is {bits}, expected {', '.join(map(str, BITS))}", option="bits")
    if group_size is not None and group_size not in GROUP_SIZES:
        raise UnsupportedRequest(f"group size is {group_size}, expected 32, 64 or 128", option="group_size")
    return Packing(group_size=group_size or 64, bits=bits or 4)


def quantize(
    checkpoint: Checkpoint,
    destination: Path,
    packing: Packing,
    progress: Progress | None = None,
    *,
    papers: Path | None = None,
) -> None:
    """Write the model into a folder: weights in one file, config, tokenizer and, from the folder `papers`, its papers.

    Routers, and matrices whose rows are no whole number of groups, stay as they are. One tensor is in memory at a time.
    Raises UnsupportedModel for safetensors that are not plain, and for a GGUF file that says what a config.json and a
    tokenizer.json cannot; InvalidModel where the files have changed.
    """
    if checkpoint.gguf is None and checkpoint.quantization is not None:
        raise UnsupportedModel(
            f"'{checkpoint.name}' is quantised already ({checkpoint.quantization}); quantise the model it was made from"
        )
    source = plain_source(checkpoint)
    packed = _packed(checkpoint, source.tensors, packing)
    if not packed:
        raise UnsupportedModel(f"'{checkpoint.name}' has no matrix with rows of whole groups of {packing.group_size}")
    plain = [module for module, _, _ in matrices(checkpoint.config, source.tensors) if module not in packed]
    documents = {**source.files, "config.json": _config(source.config, plain, packing)}
    outputs = [output for name, tensor in source.tensors.items() for output in _outputs(name, tensor, packed, packing)]
    with (destination / WEIGHTS).open("xb") as file, np.errstate(all="ignore"):
        try:
            file.write(_header(outputs))
            _write(source, file, packed, packing, progress)
        except BaseException:
            (destination / WEIGHTS).unlink(missing_ok=True)
            raise
    for name, data in documents.items():
        (destination / name).write_bytes(data)
    for path in sorted(papers.iterdir()) if papers is not None else ():
        if path.is_file() and path.name.lower().startswith(_PAPERS):
            shutil.copyfile(path, destination / path.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Output:
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def _packed(checkpoint: Checkpoint, tensors: Mapping[str, PlainTensor], packing: Packing) -> frozenset[str]:
    """The modules that are quantised."""
    config = checkpoint.config
    routers = {
        f"{layer.name}.{layer.feed_forward.router.name}"
        for layer in config.layers
        if isinstance(layer.feed_forward, ExpertsSpec)
    }
    found = matrices(config, tensors)
    return frozenset(
        module for module, shape, _ in found if module not in routers and shape[-1] % packing.group_size == 0
    )


def _outputs(name: str, tensor: PlainTensor, packed: frozenset[str], packing: Packing) -> Iterator[_Output]:
    module, _, part = name.rpartition(".")
    if part != "weight" or module not in packed:
        yield _Output(name=name, dtype=tensor.dtype, shape=tensor.shape, nbytes=tensor.nbytes)
        return
    *outer, columns = tensor.shape
    rows, words = prod(outer), columns * packing.bits // 32
    groups = columns // packing.group_size
    yield _Output(name=name, dtype="U32", shape=(*outer, words), nbytes=rows * words * 4)
    is_float = packing.mode in FLOATS
    width = 1 if is_float else tensor.nbytes // (rows * columns)
    scales = {"dtype": "U8" if is_float else tensor.dtype, "shape": (*outer, groups), "nbytes": rows * groups * width}
    for scale in ("scales",) if is_float else ("scales", "biases"):
        yield _Output(name=f"{module}.{scale}", **scales)


def _header(outputs: list[_Output]) -> bytes:
    document: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    position = 0
    for output in outputs:
        offsets = [position, position + output.nbytes]
        document[output.name] = {"dtype": output.dtype, "shape": list(output.shape), "data_offsets": offsets}
        position += output.nbytes
    data = json.dumps(document, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    return struct.pack("<Q", len(data)) + data


def _write(
    source: PlainSource, file: BinaryIO, packed: frozenset[str], packing: Packing, progress: Progress | None
) -> None:
    total = sum(prod(tensor.shape) for tensor in source.tensors.values())
    done, arrays = 0, source.arrays()
    for name, tensor in source.tensors.items():
        array = next(arrays)
        module, _, part = name.rpartition(".")
        if part == "weight" and module in packed:
            parts = mx.quantize(array, group_size=packing.group_size, bits=packing.bits, mode=packing.mode)
        else:
            parts = (array,)
        for held in parts:
            file.write(_bytes(held))
        del array, parts
        mx.clear_cache()
        done += prod(tensor.shape)
        if progress is not None:
            progress(done, total)


def _bytes(array: mx.array) -> memoryview:
    plain = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
    mx.eval(plain)
    return np.ascontiguousarray(blas.view(plain)).reshape(-1).view(np.uint8).data


def _config(document: Mapping[str, Any], plain: list[str], packing: Packing) -> bytes:
    table: dict[str, Any] = {"group_size": packing.group_size, "bits": packing.bits}
    if packing.mode != "affine":
        table["mode"] = packing.mode
    table |= dict.fromkeys(plain, False)
    whole = {**document, "quantization": table, "quantization_config": table}
    return f"{json.dumps(whole, indent=2)}\n".encode()
