"""Gemma 2 (arXiv 2408.00118): norms around everything, capped scores and logits, every other layer in a window."""

from metalchat_engine_mlx.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig, NormSpec
from metalchat_engine_mlx.fields import Fields
from metalchat_engine_mlx.models._base import Base, read_activation, read_base, read_softcap, read_windows
from metalchat_engine_mlx.rope import read_rope


def read(fields: Fields) -> ModelConfig:
    base = read_base(fields, head_dim=256, positions=8192)
    fields.only("use_bidirectional_attention", False)
    rope = read_rope(fields, head_dim=base.head_dim, positions=base.positions)
    windows = read_windows(fields, base, lambda index: index % 2 == 0, default=4096)
    feed_forward = base.gated(read_activation(fields, "hidden_activation", "gelu_pytorch_tanh"))

    def layer(index: int) -> LayerSpec:
        attention = base.attention(
            rope=rope,
            bias=fields.flag("attention_bias", False),
            window=windows[index],
            scale=fields.number("query_pre_attn_scalar", 1e-3, 1e6, default=256) ** -0.5,
            softcap=read_softcap(fields, "attn_logit_softcapping", 50.0),
        )
        return sandwich(base, index, attention, feed_forward)

    return base.model(
        base.layers(layer),
        tied=True,
        norm=norm(base, "model.norm"),
        embedding_scale=base.hidden**0.5,
        logit_softcap=read_softcap(fields, "final_logit_softcapping", 30.0),
    )


def norm(base: Base, name: str, size: int | None = None) -> NormSpec:
    """Gemma's weights say by how much a factor differs from one."""
    return NormSpec(name=name, size=size or base.hidden, eps=base.eps, kind="rms_plus_one")


def sandwich(base: Base, index: int, attention: AttentionSpec, feed_forward: FeedForwardSpec) -> LayerSpec:
    """A layer with norms on both sides of attention and feed-forward."""
    return LayerSpec(
        name=f"model.layers.{index}",
        attention=attention,
        feed_forward=feed_forward,
        before_attention=norm(base, "input_layernorm"),
        after_attention=norm(base, "post_attention_layernorm"),
        before_feed_forward=norm(base, "pre_feedforward_layernorm"),
        after_feed_forward=norm(base, "post_feedforward_layernorm"),
    )
