"""The architectures, one a module: each turns its config.json into the parts that `config` knows. Nothing needs MLX.

To add one, write a module with `read(fields: Fields) -> ModelConfig`, name its `model_type` in FAMILIES, and prove it
by a variant in `tests/golden/variants.py`.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from metalchat_engine import UnsupportedModel

from metalchat_engine_mlx.config import ModelConfig
from metalchat_engine_mlx.fields import Fields, Options, shown

FAMILIES: Mapping[str, str] = {
    "gemma2": "gemma2",
    "gemma3": "gemma3:read_with_pictures",
    "gemma3_text": "gemma3",
    "gpt_neox": "gpt_neox",
    "granite": "granite",
    "llama": "llama",
    "ministral": "mistral",
    "mistral": "mistral",
    "mixtral": "mixtral",
    "olmo2": "olmo2",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3_moe",
    "smollm3": "smollm3",
    "starcoder2": "starcoder2",
}
"""The module of every `model_type`, and after a colon its function where it is not `read`."""


def read_config(
    document: Mapping[str, Any], *, what: str = "config.json", options: Options | None = None
) -> ModelConfig:
    """Check a config of any family.

    Raises:
        UnsupportedModel: another architecture, activation, or a quantisation that is not MLX's.
        InvalidModel: a value out of its range; no memory has been taken for it.
        UnsupportedRequest: an option out of its range, or one that does nothing.
    """
    fields = Fields(document, what, options)
    model_type = fields.document.get("model_type")
    module = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if module is None:
        raise UnsupportedModel(
            f"'{what}': 'model_type' is {shown(model_type)}, this engine runs {', '.join(sorted(FAMILIES))}"
            f" (another one takes a module in {__name__}, as its docstring says;{_fallback()})"
        )
    name, _, function = module.partition(":")
    config: ModelConfig = getattr(importlib.import_module(f"{__name__}.{name}"), function or "read")(fields)
    fields.check_options()
    return config


def _fallback() -> str:
    """What to know about mlx-lm where a family is unknown."""
    from metalchat_engine_mlx.fallback.library import installed_version

    version = installed_version()
    if version is None:
        return " mlx-lm may know it: install metalchat-engine-mlx[mlx-lm]"
    return f" mlx-lm {version} has no model for it that could be used"
