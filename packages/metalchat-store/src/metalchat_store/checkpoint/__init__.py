"""Checkpoints as Meta gives them out, read without running anything in them and written as safetensors."""
