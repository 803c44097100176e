"""Seeded checkpoints of families that only mlx-lm knows."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from metalchat_prompt.testing import CHATML_TEMPLATE, chatml_tokenizer_json
from numpy.typing import NDArray

from metalchat_engine_mlx.testing._tiny import write_safetensors


def write_fallback_model(
    directory: Path, config: Mapping[str, Any], *, bits: int | None = None, group_size: int = 32, seed: int = 0
) -> Path:
    """Write a whole model directory for a config.json, with a ChatML tokenizer of 544 tokens. Returns `directory`.

    Needs mlx-lm, whose names and shapes the weights have. With `bits`, it is quantised as MLX does it.
    """
    import mlx.core as mx
    from mlx import nn
    from mlx.utils import tree_flatten, tree_map_with_path

    from metalchat_engine_mlx import blas
    from metalchat_engine_mlx.fallback.library import find_family, import_model

    family = find_family(config["model_type"])
    if family is None:
        raise ValueError(f"mlx-lm alone knows no '{config['model_type']}'")
    library = import_model(family.module)
    network: Any = library.Model(library.ModelArgs.from_dict(dict(config)))
    random = np.random.RandomState(seed)

    def drawn(name: str, array: mx.array) -> mx.array:
        return blas.array(_values(random, name, np.array(array.astype(mx.float32))))

    def packs(_: str, module: Any) -> bool:
        return hasattr(module, "to_quantized") and module.weight.shape[-1] % group_size == 0

    network.update(tree_map_with_path(drawn, network.parameters()))
    document = dict(config)
    if bits is not None:
        nn.quantize(network, group_size=group_size, bits=bits, class_predicate=packs)
        document["quantization"] = {"group_size": group_size, "bits": bits}
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.array(array) for name, array in tree_flatten(network.parameters())}
    write_safetensors(directory / "model.safetensors", tensors)
    (directory / "config.json").write_text(json.dumps(document), encoding="utf-8")
    (directory / "tokenizer.json").write_bytes(chatml_tokenizer_json())
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "chat_template": CHATML_TEMPLATE}),
        encoding="utf-8",
    )
    return directory


def _values(random: np.random.RandomState, name: str, initial: NDArray[np.float32]) -> NDArray[np.float32]:
    """Random maps and biases; about what mlx-lm begins with for everything else, where that is not random."""
    values = random.standard_normal(initial.shape)
    if name.endswith("weight") and initial.ndim > 1:
        return (values * 1.5 / np.sqrt(initial.shape[-1])).astype(np.float32)
    if name.endswith("bias"):
        return (values / 10).astype(np.float32)
    return (initial + values / 10).astype(np.float32)
