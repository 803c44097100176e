"""A checkpoint of a family that only mlx-lm knows, described by its headers alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from metalchat_engine import EngineSettings, UnsupportedModel, UnsupportedRequest

from metalchat_engine_mlx.checkpoint import DTYPES, Checkpoint, generation_defaults, names_template
from metalchat_engine_mlx.config import ModelConfig, NormSpec
from metalchat_engine_mlx.fallback.bounds import Bounds
from metalchat_engine_mlx.fallback.library import Family
from metalchat_engine_mlx.fallback.sizes import check_numbers, parameters, read_sizes
from metalchat_engine_mlx.fields import Fields, Options, shown
from metalchat_engine_mlx.quantization import FLOATS, Packing, Quantization, read_quantization
from metalchat_engine_mlx.weights import weight_files

HONOURED = ("deterministic", "device", "memory_limit", "prefix_cache_bytes")
"""The engine's settings that a model of mlx-lm takes, besides the length of its context and of a piece of a prompt."""

_SCALES = (".scales", "_scales")
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_STORED = (*DTYPES, "U8", "U32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """How mlx-lm runs a model: by a `family` of its own, with the config.json and its options as `document`."""

    family: Family
    bounds: Bounds
    document: Mapping[str, Any]

    def check_settings(self, settings: EngineSettings, *, name: str) -> None:
        """Raises UnsupportedRequest for one that only this engine's own decoder honours."""
        for key in sorted(settings.extra.keys() - set(HONOURED)):
            raise UnsupportedRequest(
                f"engine setting '{key}' is not for '{name}', a {self.family.model_type} model that mlx-lm runs: it"
                f" takes {', '.join(HONOURED)}",
                option=key,
            )


def read_fallback(path: Path, name: str, document: Mapping[str, Any], options: Options, family: Family) -> Checkpoint:
    """Raises UnsupportedModel, InvalidModel, and UnsupportedRequest for an option that does nothing."""
    fields = Fields(document, "config.json", options)
    tensors = weight_files(path, name=name)
    if not (path / "tokenizer.json").is_file():
        raise UnsupportedModel(f"'{name}' has no tokenizer.json")
    for key, tensor in tensors.items():
        if tensor.dtype not in _STORED:
            raise UnsupportedModel(
                f"the tensor '{key[:80]}' is {tensor.dtype}, a model that mlx-lm runs has {', '.join(_STORED)}"
            )
    check_numbers(fields, family, tensors)
    sizes = read_sizes(fields, family, tensors)
    quantization = _quantization(fields)
    packings = {
        module: packing
        for key in tensors
        if key.endswith(_SCALES) and (packing := quantization.packing(module := key[: -len(_SCALES[0])]))
    }
    config = ModelConfig(
        model_type=family.model_type,
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.hidden,
        layers=(),
        norm=NormSpec(name="", size=sizes.hidden, eps=0.0),
        context_length=sizes.context_length,
        eos_token_ids=fields.ids("eos_token_id", sizes.vocab_size),
        quantization=quantization,
    )
    fields.document.asked |= family.fields.keys()
    fields.check_options()
    floats = {dtype: sum(prod(one.shape) for one in tensors.values() if one.dtype == dtype) for dtype in DTYPES}
    dtype = DTYPES[max(floats, key=lambda dtype: floats[dtype])]
    return Checkpoint(
        name=name,
        path=path,
        config=config,
        defaults=generation_defaults(path, config),
        dtype=dtype,
        parameters=parameters(tensors, {module: packing.bits for module, packing in packings.items()}),
        packings=packings,
        plain={},
        has_template=True if names_template(path) else None,
        tensors=tensors,
        fallback=Fallback(
            family=family,
            bounds=Bounds(
                sizes=sizes,
                weights=sum(tensor.nbytes for tensor in tensors.values()),
                value=_BYTES[dtype],
            ),
            document=dict(fields.document),
        ),
    )


def _quantization(fields: Fields) -> Quantization:
    """MLX's own, or the mxfp4 of a checkpoint that mlx-lm unpacks; UnsupportedModel for any other."""
    document = fields.document
    table = document.get("quantization") or document.get("quantization_config")
    if document.get("quantization") is None and isinstance(table, dict) and table.get("quant_method") is not None:
        if table["quant_method"] != "mxfp4":
            fields.unsupported("quantization_config.quant_method", shown(table["quant_method"]), "MLX's own or mxfp4")
        group_size, bits = FLOATS["mxfp4"]
        return Quantization(default=Packing(group_size=group_size, bits=bits, mode="mxfp4"))
    if document.get("quantize_activations"):
        fields.unsupported("quantize_activations", True, "activations as they are")
    return read_quantization(fields)
