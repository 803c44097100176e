"""Gemma 3, text (arXiv 2503.19786): five of six layers in a window with a rope of their own, and normalised heads."""

from metalchat_engine_mlx.config import LayerSpec, ModelConfig
from metalchat_engine_mlx.fields import Fields
from metalchat_engine_mlx.models._base import Base, read_activation, read_base, read_softcap, read_windows
from metalchat_engine_mlx.models.gemma2 import norm, sandwich
from metalchat_engine_mlx.rope import Rope, read_rope


def read(fields: Fields) -> ModelConfig:
    base = read_base(fields, head_dim=256, positions=131072)
    fields.only("use_bidirectional_attention", False)
    every = fields.integer("sliding_window_pattern", 1, 1000, default=6)
    windows = read_windows(fields, base, lambda index: (index + 1) % every != 0, default=4096)
    ropes = {
        False: read_rope(
            fields, head_dim=base.head_dim, positions=base.positions, theta=1e6, layer_type="full_attention"
        ),
        True: _local_rope(fields, base),
    }
    feed_forward = base.gated(read_activation(fields, "hidden_activation", "gelu_pytorch_tanh"))

    def layer(index: int) -> LayerSpec:
        attention = base.attention(
            rope=ropes[windows[index] is not None],
            bias=fields.flag("attention_bias", False),
            window=windows[index],
            scale=fields.number("query_pre_attn_scalar", 1e-3, 1e6, default=256) ** -0.5,
            softcap=read_softcap(fields, "attn_logit_softcapping"),
            query_norm=norm(base, "self_attn.q_norm", base.head_dim),
            key_norm=norm(base, "self_attn.k_norm", base.head_dim),
        )
        return sandwich(base, index, attention, feed_forward)

    return base.model(
        base.layers(layer),
        tied=True,
        norm=norm(base, "model.norm"),
        context_length=base.positions,  # what scales the rope is in it already
        embedding_scale=base.hidden**0.5,
        logit_softcap=read_softcap(fields, "final_logit_softcapping"),
    )


def _local_rope(fields: Fields, base: Base) -> Rope:
    """That of the windows, which nothing scales."""
    tables = fields.document.get("rope_parameters")
    table = tables.get("sliding_attention") if isinstance(tables, dict) else None
    plain = Fields(
        {"rope_parameters": table, "rope_theta": fields.document.get("rope_local_base_freq")},
        fields.what,
        {"rope_theta": value} if (value := fields.options.get("rope_local_base_freq")) is not None else None,
    )
    rope = read_rope(plain, head_dim=base.head_dim, positions=base.positions)
    if rope.kind in ("dynamic", "longrope"):
        fields.unsupported("rope_parameters.sliding_attention.rope_type", rope.kind, "default, linear, yarn and llama3")
    return rope
