"""Phi-3 and Phi-4 (arXiv 2404.14219, 2412.08905): a Llama with fused maps and, at length, other rope periods."""

from metalchat_engine_mlx.config import FeedForwardSpec, LayerSpec, ModelConfig
from metalchat_engine_mlx.fields import Fields
from metalchat_engine_mlx.models._base import pre_norm, read_activation, read_base, read_window
from metalchat_engine_mlx.rope import read_rope


def read(fields: Fields) -> ModelConfig:
    base = read_base(fields, eps=1e-5, positions=4096)
    queries, keys = base.heads * base.head_dim, base.kv_heads * base.head_dim
    attention = base.attention(
        rope=read_rope(
            fields,
            head_dim=base.head_dim,
            positions=base.positions,
            partial=1.0,
            aliases={"su": "longrope", "yarn": "longrope"},  # names of the first releases
        ),
        projections=(base.linear("self_attn.qkv_proj", queries + 2 * keys, base.hidden),),
        window=read_window(fields),
    )
    feed_forward = FeedForwardSpec(
        fused=base.linear("mlp.gate_up_proj", 2 * base.inner, base.hidden),
        down=base.linear("mlp.down_proj", base.hidden, base.inner),
        activation=read_activation(fields),
    )

    def layer(index: int) -> LayerSpec:
        return pre_norm(base, index, attention, feed_forward)

    return base.model(base.layers(layer), recomputes=True)
