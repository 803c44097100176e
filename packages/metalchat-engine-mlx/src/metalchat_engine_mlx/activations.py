"""The activations of feed-forwards, in MLX."""

import math

import mlx.core as mx

from metalchat_engine_mlx.config import Activation


def activate(activation: Activation, x: mx.array) -> mx.array:
    """GELU by the error function, its approximation by tanh, ReLU or SiLU."""
    if activation == "silu":
        return x * mx.sigmoid(x)
    if activation == "relu":
        return mx.maximum(x, 0)
    if activation == "gelu":
        return x * (1 + mx.erf(x * math.sqrt(0.5))) * 0.5
    return 0.5 * x * (1 + mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def gated(activation: Activation, x: mx.array, up: mx.array | None = None) -> mx.array:
    """activation(x), times `up` where there is one."""
    y = activate(activation, x)
    return y if up is None else y * up
