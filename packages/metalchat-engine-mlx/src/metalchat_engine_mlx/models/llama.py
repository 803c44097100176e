"""Llama 2, 3, 3.1, 3.2 and 3.3 (arXiv 2307.09288, 2407.21783), and what shares their architecture, such as SmolLM2."""

from metalchat_engine_mlx.config import ModelConfig
from metalchat_engine_mlx.fields import Fields
from metalchat_engine_mlx.models._base import pre_norm, read_activation, read_base
from metalchat_engine_mlx.rope import read_rope


def read(fields: Fields) -> ModelConfig:
    activation = read_activation(fields)
    base = read_base(fields)
    attention = base.attention(
        rope=read_rope(fields, head_dim=base.head_dim, positions=base.positions),
        bias=fields.flag("attention_bias", False),
    )
    feed_forward = base.gated(activation, bias=fields.flag("mlp_bias", False))
    return base.model(base.layers(lambda index: pre_norm(base, index, attention, feed_forward)))
