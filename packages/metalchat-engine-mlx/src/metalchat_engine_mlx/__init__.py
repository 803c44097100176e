"""Inference on MLX."""
