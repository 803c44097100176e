"""Seeded LoRA adapters for the tiny Llama."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metalchat_engine_mlx.testing._tiny import write_safetensors

_MAPS = {"model.layers.0.self_attn.q_proj": (64, 64), "model.layers.1.mlp.down_proj": (64, 128)}


def write_tiny_adapter(directory: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write what PEFT does, of two linear maps of `write_tiny_model`'s own sizes. Returns `directory`.

    It is strong enough to change what the model says. `changes` go to adapter_config.json.
    """
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(seed)
    tensors: dict[str, NDArray[Any]] = {}
    for module, (rows, columns) in _MAPS.items():
        for half, shape in (("lora_A", (4, columns)), ("lora_B", (rows, 4))):
            values = random.standard_normal(shape) / 2
            tensors[f"base_model.model.{module}.{half}.weight"] = values.astype(np.float32)
    write_safetensors(directory / "adapter_model.safetensors", tensors)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]}
    (directory / "adapter_config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    return directory
