"""Qwen 3 (arXiv 2505.09388): a Llama that normalises the queries and keys of every head."""

from metalchat_engine_mlx.config import AttentionSpec, LayerSpec, ModelConfig
from metalchat_engine_mlx.fields import Fields
from metalchat_engine_mlx.models._base import Base, pre_norm, read_activation, read_base, read_late_windows
from metalchat_engine_mlx.rope import read_rope


def read(fields: Fields) -> ModelConfig:
    base = read_base(fields, head_dim=128, positions=32768)
    windows = read_late_windows(fields, base)
    feed_forward = base.gated(read_activation(fields))

    def layer(index: int) -> LayerSpec:
        return pre_norm(base, index, attention(fields, base, windows[index]), feed_forward)

    return base.model(base.layers(layer))


def attention(fields: Fields, base: Base, window: int | None) -> AttentionSpec:
    """That of the mixtures of experts too."""
    return base.attention(
        rope=read_rope(fields, head_dim=base.head_dim, positions=base.positions),
        bias=fields.flag("attention_bias", False),
        window=window,
        query_norm=base.norm("self_attn.q_norm", base.head_dim),
        key_norm=base.norm("self_attn.k_norm", base.head_dim),
    )
