"""OLMo 2 (arXiv 2501.00656): norms after attention and feed-forward, and of all queries and keys at once."""

from metalchat_engine_mlx.config import LayerSpec, ModelConfig
from metalchat_engine_mlx.fields import Fields
from metalchat_engine_mlx.models._base import read_activation, read_base
from metalchat_engine_mlx.rope import read_rope


def read(fields: Fields) -> ModelConfig:
    base = read_base(fields, eps=1e-5)
    attention = base.attention(
        rope=read_rope(fields, head_dim=base.head_dim, positions=base.positions),
        bias=fields.flag("attention_bias", False),
        query_norm=base.norm("self_attn.q_norm", base.heads * base.head_dim),
        key_norm=base.norm("self_attn.k_norm", base.kv_heads * base.head_dim),
    )
    feed_forward = base.gated(read_activation(fields))

    def layer(index: int) -> LayerSpec:
        return LayerSpec(
            name=f"model.layers.{index}",
            attention=attention,
            feed_forward=feed_forward,
            after_attention=base.norm("post_attention_layernorm"),
            after_feed_forward=base.norm("post_feedforward_layernorm"),
        )

    return base.model(base.layers(layer))
