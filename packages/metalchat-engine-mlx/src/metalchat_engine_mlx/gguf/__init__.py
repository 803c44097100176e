"""GGUF files: a checked header, and from it configuration, tokenizer and MLX weights."""

from typing import TYPE_CHECKING

from metalchat_engine_mlx.gguf.config import config_from_gguf
from metalchat_engine_mlx.gguf.header import GgufHeader, GgufNumbers, GgufStrings, GgufTensor
from metalchat_engine_mlx.gguf.reader import read_header
from metalchat_engine_mlx.gguf.tensors import quantization
from metalchat_engine_mlx.gguf.tokenizer import GgufTokenizer, tokenizer_from_gguf

if TYPE_CHECKING:
    from metalchat_engine_mlx.gguf.weights import load_weights

__all__ = [
    "GgufHeader",
    "GgufNumbers",
    "GgufStrings",
    "GgufTensor",
    "GgufTokenizer",
    "config_from_gguf",
    "load_weights",
    "quantization",
    "read_header",
    "tokenizer_from_gguf",
]


def __getattr__(name: str) -> object:
    if name == "load_weights":  # imports mlx and numpy
        from metalchat_engine_mlx.gguf.weights import load_weights

        return load_weights
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
