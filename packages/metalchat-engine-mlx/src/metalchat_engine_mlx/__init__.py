"""Inference on MLX: an engine for decoders of many families in the safetensors and GGUF formats."""

from typing import TYPE_CHECKING, Any

from metalchat_engine_mlx.engine import MlxEngine

if TYPE_CHECKING:
    from metalchat_engine_mlx.model import MlxModel

__all__ = ["MlxEngine", "MlxModel"]


def __getattr__(name: str) -> Any:
    # MlxModel imports MLX itself.
    if name == "MlxModel":
        from metalchat_engine_mlx.model import MlxModel

        return MlxModel
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
