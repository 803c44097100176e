"""StarCoder 2 (arXiv 2402.19173): layer norms, biases, a feed-forward without a gate, a window."""

from metalchat_engine_mlx.config import FeedForwardSpec, LayerSpec, ModelConfig, NormSpec
from metalchat_engine_mlx.fields import Fields
from metalchat_engine_mlx.models._base import pre_norm, read_activation, read_base, read_window
from metalchat_engine_mlx.rope import read_rope


def read(fields: Fields) -> ModelConfig:
    base = read_base(fields, eps_key="norm_epsilon", eps=1e-5, kv_heads=2, positions=4096)
    fields.choice("norm_type", ("layer_norm",), "layer_norm")
    fields.choice("mlp_type", ("default",), "default")
    bias = fields.flag("use_bias", True)
    attention = base.attention(
        rope=read_rope(fields, head_dim=base.head_dim, positions=base.positions),
        bias=bias,
        window=read_window(fields),
    )
    feed_forward = FeedForwardSpec(
        up=base.linear("mlp.c_fc", base.inner, base.hidden, bias=bias),
        down=base.linear("mlp.c_proj", base.hidden, base.inner, bias=bias),
        activation=read_activation(fields, default="gelu_pytorch_tanh"),
    )

    def layer(index: int) -> LayerSpec:
        return pre_norm(base, index, attention, feed_forward, kind="layer")

    norm = NormSpec(name="model.norm", size=base.hidden, eps=base.eps, kind="layer", bias=True)
    return base.model(base.layers(layer), tied=True, norm=norm)
