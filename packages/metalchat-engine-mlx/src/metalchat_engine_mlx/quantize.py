"""A plain checkpoint written again with packed weights, one tensor after the other, as MLX stores them."""

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx
import numpy as np
from metalchat_engine import InvalidModel, Quantization, UnsupportedModel, UnsupportedRequest

from metalchat_engine_mlx import blas
from metalchat_engine_mlx.checkpoint import Checkpoint
from metalchat_engine_mlx.config import ExpertsSpec
from metalchat_engine_mlx.quantization import BITS, FLOATS, GROUP_SIZES, Packing
from metalchat_engine_mlx.strict_json import read_object
from metalchat_engine_mlx.weights import Tensor, matrices

WEIGHTS = "model.safetensors"
_COPIED = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
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


def quantize(checkpoint: Checkpoint, destination: Path, packing: Packing, progress: Progress | None = None) -> None:
    """Write the model into a folder: weights in one file, config, tokenizer and papers.

    Routers, and matrices whose rows are no whole number of groups, stay as they are. One tensor is in memory at a time.
    Raises UnsupportedModel for what is not plain safetensors, InvalidModel where the files have changed.
    """
    if checkpoint.gguf is not None:
        raise UnsupportedModel(f"'{checkpoint.name}' is a GGUF file; quantise the safetensors that it was made from")
    if checkpoint.quantization is not None:
        raise UnsupportedModel(
            f"'{checkpoint.name}' is quantised already ({checkpoint.quantization}); quantise the model it was made from"
        )
    packed = _packed(checkpoint, packing)
    if not packed:
        raise UnsupportedModel(f"'{checkpoint.name}' has no matrix with rows of whole groups of {packing.group_size}")
    outputs = [output for name, tensor in _used(checkpoint) for output in _outputs(name, tensor, packed, packing)]
    with (destination / WEIGHTS).open("xb") as file:
        file.write(_header(outputs))
        _write(checkpoint, file, packed, packing, progress)
    _write_config(checkpoint, destination / "config.json", packed, packing)
    for path in sorted(checkpoint.path.iterdir()):
        if path.is_file() and (path.name in _COPIED or path.name.lower().startswith(_PAPERS)):
            shutil.copyfile(path, destination / path.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Output:
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def _used(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """The tensors that the text model needs, in the order of the files."""
    config = checkpoint.config
    for name, tensor in sorted(checkpoint.tensors.items(), key=lambda item: (item[1].file, item[1].start)):
        if config.needs(name) and not (config.tie_word_embeddings and name.startswith(f"{config.head}.")):
            yield name, tensor


def _packed(checkpoint: Checkpoint, packing: Packing) -> frozenset[str]:
    """The modules that are quantised."""
    config = checkpoint.config
    routers = {
        f"{layer.name}.{layer.feed_forward.router.name}"
        for layer in config.layers
        if isinstance(layer.feed_forward, ExpertsSpec)
    }
    found = matrices(config, checkpoint.tensors)
    return frozenset(
        module for module, shape, _ in found if module not in routers and shape[-1] % packing.group_size == 0
    )


def _outputs(name: str, tensor: Tensor, packed: frozenset[str], packing: Packing) -> Iterator[_Output]:
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
    checkpoint: Checkpoint, file: BinaryIO, packed: frozenset[str], packing: Packing, progress: Progress | None
) -> None:
    total = sum(prod(tensor.shape) for _, tensor in _used(checkpoint))
    done, opened = 0, ""
    arrays: dict[str, mx.array] = {}
    for name, tensor in _used(checkpoint):
        if tensor.file != opened:
            found = mx.load(str(checkpoint.path / tensor.file), format="safetensors")
            arrays, opened = found if isinstance(found, dict) else {}, tensor.file
        array = arrays.pop(name, None)
        if array is None or array.shape != tensor.shape:
            raise InvalidModel(f"'{checkpoint.name}' was changed while it was being read")
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


def _write_config(checkpoint: Checkpoint, path: Path, packed: frozenset[str], packing: Packing) -> None:
    table: dict[str, Any] = {"group_size": packing.group_size, "bits": packing.bits}
    if packing.mode != "affine":
        table["mode"] = packing.mode
    plain = [module for module, _, _ in matrices(checkpoint.config, checkpoint.tensors) if module not in packed]
    table |= dict.fromkeys(plain, False)
    document = read_object(checkpoint.path / "config.json") | {"quantization": table, "quantization_config": table}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
