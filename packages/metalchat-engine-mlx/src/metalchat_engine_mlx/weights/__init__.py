"""The weights of a checkpoint directory: what is there, whether it is what it claims, and the arrays."""

from metalchat_engine_mlx.weights.files import weight_files
from metalchat_engine_mlx.weights.header import Tensor, read_header
from metalchat_engine_mlx.weights.shapes import check_tensors, is_foreign, matrices, tied, vectors

__all__ = ["Tensor", "check_tensors", "is_foreign", "matrices", "read_header", "tied", "vectors", "weight_files"]
