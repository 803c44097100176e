"""Tiny models for tests: real checkpoints of random weights, the same every time, written in milliseconds."""

from metalchat_engine_mlx.testing._adapter import write_tiny_adapter
from metalchat_engine_mlx.testing._fallback import write_fallback_model
from metalchat_engine_mlx.testing._tiny import tiny_config, tiny_weights, write_safetensors, write_tiny_model

__all__ = [
    "tiny_config",
    "tiny_weights",
    "write_fallback_model",
    "write_safetensors",
    "write_tiny_adapter",
    "write_tiny_model",
]
