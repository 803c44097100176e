"""Seeded checkpoints of some hundred kilobytes, of every family."""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from metalchat_prompt.testing import CHATML_TEMPLATE, chatml_tokenizer_json
from numpy.typing import NDArray

from metalchat_engine_mlx.config import ExpertsSpec, NormSpec
from metalchat_engine_mlx.models import read_config

_DTYPES = {
    "float32": "F32",
    "float16": "F16",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "int32": "I32",
    "int64": "I64",
}


def tiny_config(**changes: Any) -> dict[str, Any]:
    """A config.json with 2 layers, 4 heads that share 2 keys, and 544 tokens; `changes` replace keys.

    It is a Llama's unless `model_type` is changed too. A change to None removes the key.
    """
    config: dict[str, Any] = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 544,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
    }
    config |= changes
    return {key: value for key, value in config.items() if value is not None}


def tiny_weights(config: Mapping[str, Any], *, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """The float32 parameters of a config, under the names of its checkpoints; the same on every machine."""
    # RandomState, unlike Generator, promises the same numbers in every version of NumPy.
    random = np.random.RandomState(seed)
    return {name: _values(random, name, shape) for name, shape in _shapes(config)}


def write_safetensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], *, dtypes: Mapping[str, str] | None = None
) -> None:
    """Write arrays; `dtypes` names the dtype of those that NumPy cannot name, such as BF16 held as uint16."""
    header: dict[str, Any] = {}
    position = 0
    for name, tensor in tensors.items():
        dtype = (dtypes or {}).get(name, _DTYPES[str(tensor.dtype)])
        end = position + tensor.nbytes
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    data = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(data)))
        file.write(data)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).tobytes())


def write_tiny_model(
    directory: Path,
    *,
    seed: int = 0,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    bits: int | None = None,
    group_size: int = 32,
    mixed: Mapping[str, int] | None = None,
    stacked: bool = False,
    shards: int = 1,
    generation_config: Mapping[str, Any] | None = None,
    chat_template: str = CHATML_TEMPLATE,
    **changes: Any,
) -> Path:
    """Write a whole model directory: config, weights, a ChatML tokenizer and a template. Returns `directory`.

    With `bits`, every matrix is quantised as MLX does it, which needs MLX; `mixed` gives modules whose names end so
    other bits, or none with 0. `stacked` puts all experts of a layer in one matrix, as MLX does. `changes` go to
    `tiny_config`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = tiny_config(**changes)
    weights: dict[str, NDArray[Any]] = dict(tiny_weights(config, seed=seed))
    if stacked:
        weights = _stacked(config, weights)
    if bits is not None:
        other = {
            module: next(width for ending, width in (mixed or {}).items() if module.endswith(ending))
            for module in (name.removesuffix(".weight") for name, values in weights.items() if values.ndim > 1)
            if module.endswith(tuple(mixed or ()))
        }
        weights = _quantised(weights, bits, group_size, other)
        tables = {
            module: {"group_size": group_size, "bits": width} if width else False for module, width in other.items()
        }
        config["quantization"] = {"group_size": group_size, "bits": bits, **tables}
    dtypes: dict[str, str] = {}
    for name, values in weights.items():
        if values.dtype != np.float32 or dtype == "float32":
            continue
        if dtype == "float16":
            weights[name] = values.astype(np.float16)
        else:
            weights[name] = _rounded(values)
            dtypes[name] = "BF16"
    names = list(weights)
    files = [f"model-{place + 1:05}-of-{shards:05}.safetensors" for place in range(shards)]
    if shards == 1:
        files = ["model.safetensors"]
    weight_map: dict[str, str] = {}
    for place, file in enumerate(files):
        held = names[place * len(names) // shards : (place + 1) * len(names) // shards]
        weight_map |= dict.fromkeys(held, file)
        write_safetensors(directory / file, {name: weights[name] for name in held}, dtypes=dtypes)
    if shards > 1:
        _write(directory / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    _write(directory / "config.json", config | {"torch_dtype": dtype})
    if generation_config is not None:
        _write(directory / "generation_config.json", generation_config)
    (directory / "tokenizer.json").write_bytes(chatml_tokenizer_json())
    _write(
        directory / "tokenizer_config.json",
        {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "chat_template": chat_template},
    )
    return directory


def _shapes(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    model = read_config(config)
    yield f"{model.embedding}.weight", (model.vocab_size, model.hidden_size)
    for layer in model.layers:
        yield from _norms(f"{layer.name}.", layer.norms())
        for linear in layer.linears():
            yield f"{layer.name}.{linear.name}.weight", (linear.rows, linear.columns)
            if linear.bias:
                yield f"{layer.name}.{linear.name}.bias", (linear.rows,)
        if isinstance(layer.feed_forward, ExpertsSpec):
            block = layer.feed_forward
            for expert in range(block.count):
                for part in (block.gate, block.up, block.down):
                    yield f"{layer.name}.{part.single.format(expert)}.weight", (part.shape.rows, part.shape.columns)
    yield from _norms("", (model.norm,))
    if not model.tie_word_embeddings:
        yield f"{model.head}.weight", (model.vocab_size, model.hidden_size)


def _norms(prefix: str, norms: Iterable[NormSpec]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for norm in norms:
        yield f"{prefix}{norm.name}.weight", (norm.size,)
        if norm.bias:
            yield f"{prefix}{norm.name}.bias", (norm.size,)


def _values(random: np.random.RandomState, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    values = random.standard_normal(shape)
    if len(shape) == 1:
        # Norms near one, biases near nought.
        values = values / 10 + (1.0 if "norm" in name else 0.0)
    else:
        values = values * 1.5 / np.sqrt(shape[1])
    return values.astype(np.float32)


def _stacked(config: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    result = dict(weights)
    for layer in read_config(config).layers:
        block = layer.feed_forward
        if isinstance(block, ExpertsSpec):
            for part in (block.gate, block.up, block.down):
                names = [f"{layer.name}.{part.single.format(expert)}.weight" for expert in range(block.count)]
                result[f"{layer.name}.{part.shape.name}.weight"] = np.stack([result.pop(name) for name in names])
    return result


def _quantised(
    weights: Mapping[str, NDArray[Any]], bits: int, group_size: int, other: Mapping[str, int]
) -> dict[str, NDArray[Any]]:
    import mlx.core as mx

    from metalchat_engine_mlx import blas

    result: dict[str, NDArray[Any]] = {}
    for name, values in weights.items():
        module = name.removesuffix(".weight")
        width = other.get(module, bits)
        if values.ndim == 1 or width == 0:
            result[name] = values
            continue
        packed, scales, biases = mx.quantize(blas.array(values), group_size=group_size, bits=width)
        for part, array in (("weight", packed), ("scales", scales), ("biases", biases)):
            result[f"{module}.{part}"] = np.array(array)
    return result


def _rounded(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 to bfloat16, to the nearest even."""
    whole = values.view(np.uint32)
    return ((whole + 0x7FFF + ((whole >> 16) & 1)) >> 16).astype(np.uint16)


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")
