"""A GGUF file as a plain Hugging Face checkpoint: its tensors as numbers, and the documents beside them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
from metalchat_engine import UnsupportedModel

from metalchat_engine_mlx.gguf._types import AFFINE_BITS
from metalchat_engine_mlx.gguf.config import config_from_gguf
from metalchat_engine_mlx.gguf.header import GgufHeader
from metalchat_engine_mlx.gguf.tensors import GROUP_SIZE, parameters
from metalchat_engine_mlx.gguf.tokenizer import tokenizer_from_gguf
from metalchat_engine_mlx.gguf.weights import missing_biases, opened, read_parameter, rope_factors
from metalchat_engine_mlx.plain import PlainTensor
from metalchat_engine_mlx.rope import Rope

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
_STORED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# What every Llama since 3.1 has; the file holds only what follows from it.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_LARGEST, _CLOSE = 1024, 1e-4


class GgufSource:
    """Its numbers have the `dtype` that the model would be loaded in.

    Raises UnsupportedModel for a tokenizer or a rope that the documents of a checkpoint cannot say, InvalidModel.
    """

    def __init__(self, header: GgufHeader, dtype: str) -> None:
        self._header, self._dtype = header, _DTYPES[dtype]
        shapes = {parameter.name: parameter.tensor.shape for parameter in parameters(header)}
        shapes |= {name: (rows,) for name, rows, _ in missing_biases(header)}
        self.tensors = {name: PlainTensor(dtype=_STORED[dtype], shape=shape) for name, shape in shapes.items()}
        config = config_from_gguf(header) | {"torch_dtype": dtype}
        config["rope_scaling"] = _rope_scaling(header, config)
        self.config = {
            key: _meant(value) if isinstance(value, float) else value
            for key, value in config.items()
            if value not in (None, [])
        }
        tokenizer = tokenizer_from_gguf(header)
        own = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokenizer.bos_token,
            "eos_token": tokenizer.eos_token,
            "model_max_length": config["max_position_embeddings"],
            "chat_template": tokenizer.chat_template,
        }
        known = {key: value for key, value in own.items() if value is not None}
        self.files = {
            "tokenizer.json": tokenizer.tokenizer_json,
            "tokenizer_config.json": f"{json.dumps(known, indent=2)}\n".encode(),
        }

    def arrays(self) -> Iterator[mx.array]:
        """Computed in float32. Raises UnsupportedModel for numbers that the dtype does not have."""
        header = self._header
        with opened(header.path, header) as file:
            for parameter in parameters(header):
                found = read_parameter(parameter, file, header, mx.float32)
                array = found[parameter.name]
                if parameter.tensor.type in AFFINE_BITS:
                    scales, biases = found[f"{parameter.module}.scales"], found[f"{parameter.module}.biases"]
                    bits = AFFINE_BITS[parameter.tensor.type]
                    array = mx.dequantize(array, scales, biases, group_size=GROUP_SIZE, bits=bits)
                    del scales, biases
                del found
                array = array.reshape(parameter.tensor.shape).astype(self._dtype)
                if not mx.all(mx.isfinite(array)).item():
                    raise UnsupportedModel(
                        f"'{header.file}': the tensor '{parameter.tensor.name}' has values that are no numbers of"
                        f" {self.config['torch_dtype']}"
                    )
                yield array
                del array
        for _, rows, _ in missing_biases(header):
            yield mx.zeros(rows, dtype=self._dtype)


def _rope_scaling(header: GgufHeader, config: dict[str, Any]) -> dict[str, Any] | None:
    """What the file says of its rope, or what its factors are made of: config.json has no factors but a longrope's."""
    scaling: dict[str, Any] | None = config["rope_scaling"]
    if scaling is None or scaling["rope_type"] not in ("gguf_factors", "longrope"):
        return scaling
    with opened(header.path, header) as file:
        rows = [[_meant(value) for value in row.tolist()] for row in rope_factors(file, header)]
    if scaling["rope_type"] == "longrope":
        return scaling | dict(zip(("short_factor", "long_factor"), rows, strict=True))
    (row,) = rows
    factor = round(max(row), 3)
    if 1 < factor <= _LARGEST and _is_llama3(row, config["rope_theta"], factor):
        return {"rope_type": "llama3", "factor": factor, **_LLAMA3}
    if config["model_type"] != "llama":
        raise UnsupportedModel(
            f"'{header.file}' spells out the factors of its rope, which the config.json of a {config['model_type']}"
            " model cannot"
        )
    # A longrope that turns short and long texts alike.
    return {
        "rope_type": "longrope",
        "short_factor": row,
        "long_factor": row,
        "attention_factor": 1.0,
        "original_max_position_embeddings": config["max_position_embeddings"],
    }


def _is_llama3(row: list[float], theta: float, factor: float) -> bool:
    original = int(_LLAMA3["original_max_position_embeddings"])
    plain = Rope(dims=2 * len(row), theta=theta, original=original, positions=original)
    rope = replace(
        plain,
        kind="llama3",
        factor=factor,
        low_freq_factor=_LLAMA3["low_freq_factor"],
        high_freq_factor=_LLAMA3["high_freq_factor"],
    )
    expected = [period / base for period, base in zip(rope.periods(), plain.periods(), strict=True)]
    return all(abs(found / wanted - 1) < _CLOSE for found, wanted in zip(row, expected, strict=True))


def _meant(value: float) -> float:
    """The shortest number that is the same in 32 bits, as the file has it."""
    return float(str(np.float32(value)))
