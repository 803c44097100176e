"""Normalisations, with MLX's own kernels on every device."""

from typing import TYPE_CHECKING

import mlx.core as mx

from metalchat_engine_mlx.config import NormSpec
from metalchat_engine_mlx.parameters import Parameters

if TYPE_CHECKING:
    from metalchat_engine_mlx.device import Blocks


class Norm:
    """RMS or layer norm over the last axis."""

    def __init__(self, spec: NormSpec, prefix: str, parameters: Parameters, blocks: "Blocks") -> None:
        self.weight = norm_weight(spec, prefix, parameters, blocks)
        self.bias = blocks.vector(parameters.vector(f"{prefix}{spec.name}.bias")) if spec.bias else None
        self.eps = spec.eps
        self.is_rms = spec.kind != "layer"

    def __call__(self, x: mx.array) -> mx.array:
        if self.is_rms:
            return mx.fast.rms_norm(x, self.weight, self.eps)
        return mx.fast.layer_norm(x, self.weight, self.bias, self.eps)

    def arrays(self) -> list[mx.array]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]


def norm_weight(spec: NormSpec, prefix: str, parameters: Parameters, blocks: "Blocks") -> mx.array:
    """What the normalised values are multiplied by."""
    weight = parameters.vector(f"{prefix}{spec.name}.weight")
    if spec.kind == "rms_plus_one":
        weight = weight.astype(mx.float32) + 1
    return blocks.vector(weight)
