"""Qwen 2 and 2.5 (arXiv 2412.15115): a Llama with biases on queries, keys and values."""

from metalchat_engine_mlx.config import LayerSpec, ModelConfig
from metalchat_engine_mlx.fields import Fields
from metalchat_engine_mlx.models._base import pre_norm, read_activation, read_base, read_late_windows
from metalchat_engine_mlx.rope import read_rope


def read(fields: Fields) -> ModelConfig:
    base = read_base(fields, positions=32768)
    rope = read_rope(fields, head_dim=base.head_dim, positions=base.positions)
    windows = read_late_windows(fields, base)
    feed_forward = base.gated(read_activation(fields))

    def layer(index: int) -> LayerSpec:
        attention = base.attention(rope=rope, bias=True, output_bias=False, window=windows[index])
        return pre_norm(base, index, attention, feed_forward)

    return base.model(base.layers(layer))
