"""Mistral (arXiv 2310.06825) and Ministral: a Llama whose layers, all or some, see a window."""

from metalchat_engine_mlx.config import LayerSpec, ModelConfig
from metalchat_engine_mlx.fields import Fields
from metalchat_engine_mlx.models._base import pre_norm, read_activation, read_base, read_window, read_windows
from metalchat_engine_mlx.rope import read_rope


def read(fields: Fields) -> ModelConfig:
    base = read_base(fields, kv_heads=8, positions=131072)
    rope = read_rope(fields, head_dim=base.head_dim, positions=base.positions)
    is_windowed = read_window(fields) is not None
    windows = read_windows(fields, base, lambda _: is_windowed)
    feed_forward = base.gated(read_activation(fields))

    def layer(index: int) -> LayerSpec:
        return pre_norm(base, index, base.attention(rope=rope, window=windows[index]), feed_forward)

    return base.model(base.layers(layer))
