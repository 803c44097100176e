"""Families that this engine has no decoder for: the models of the optional package mlx-lm, and nothing else of it."""
