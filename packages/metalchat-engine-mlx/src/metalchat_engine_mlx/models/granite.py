"""Granite 3: a Llama whose embedding, scores, sums and logits are scaled by numbers of their own."""

from metalchat_engine_mlx.config import LayerSpec, ModelConfig
from metalchat_engine_mlx.fields import Fields
from metalchat_engine_mlx.models._base import pre_norm, read_activation, read_base
from metalchat_engine_mlx.rope import read_rope


def read(fields: Fields) -> ModelConfig:
    base = read_base(fields)
    attention = base.attention(
        rope=read_rope(fields, head_dim=base.head_dim, positions=base.positions),
        bias=fields.flag("attention_bias", False),
        scale=fields.number("attention_multiplier", 1e-6, 1e6, default=1.0),
    )
    feed_forward = base.gated(read_activation(fields), bias=fields.flag("mlp_bias", False))
    residual = fields.number("residual_multiplier", 1e-6, 1e6, default=1.0)

    def layer(index: int) -> LayerSpec:
        return pre_norm(base, index, attention, feed_forward, residual=residual)

    return base.model(
        base.layers(layer),
        embedding_scale=fields.number("embedding_multiplier", 1e-6, 1e6, default=1.0),
        logit_scale=1 / fields.number("logits_scaling", 1e-6, 1e6, default=1.0),
    )
