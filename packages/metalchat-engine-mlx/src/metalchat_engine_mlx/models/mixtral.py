"""Mixtral (arXiv 2401.04088): a Mistral with a few of several feed-forwards for each token."""

from metalchat_engine_mlx.config import ModelConfig
from metalchat_engine_mlx.fields import Fields
from metalchat_engine_mlx.models._base import pre_norm, read_activation, read_base, read_experts, read_window
from metalchat_engine_mlx.rope import read_rope


def read(fields: Fields) -> ModelConfig:
    base = read_base(fields, eps=1e-5, kv_heads=8, positions=131072)
    attention = base.attention(
        rope=read_rope(fields, head_dim=base.head_dim, positions=base.positions, theta=1e6),
        window=read_window(fields),
    )
    experts = read_experts(
        base,
        "block_sparse_moe",
        names={"gate": "w1", "up": "w3", "down": "w2"},
        count=fields.integer("num_local_experts", 1, 1024, default=8),
        used=2,
        inner=base.inner,
        normalised=True,
        activation=read_activation(fields),
    )
    return base.model(base.layers(lambda index: pre_norm(base, index, attention, experts)))
