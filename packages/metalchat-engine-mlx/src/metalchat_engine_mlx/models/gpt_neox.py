"""GPT-NeoX (arXiv 2204.06745) and Pythia: attention and feed-forward side by side, a rope for a part of each head."""

from metalchat_engine_mlx.config import FeedForwardSpec, LayerSpec, ModelConfig, NormSpec
from metalchat_engine_mlx.fields import Fields
from metalchat_engine_mlx.models._base import read_activation, read_base
from metalchat_engine_mlx.rope import read_rope


def read(fields: Fields) -> ModelConfig:
    base = read_base(fields, eps_key="layer_norm_eps", eps=1e-5)
    fields.only("num_key_value_heads", base.heads)
    bias = fields.flag("attention_bias", True)
    width = base.heads * base.head_dim
    attention = base.attention(
        rope=read_rope(
            fields,
            head_dim=base.head_dim,
            positions=base.positions,
            theta_key="rotary_emb_base",
            partial=0.25,
            partial_key="rotary_pct",
        ),
        projections=(base.linear("attention.query_key_value", 3 * width, base.hidden, bias=bias),),
        by_head=True,
        output=base.linear("attention.dense", base.hidden, width, bias=bias),
    )
    feed_forward = FeedForwardSpec(
        up=base.linear("mlp.dense_h_to_4h", base.inner, base.hidden, bias=True),
        down=base.linear("mlp.dense_4h_to_h", base.hidden, base.inner, bias=True),
        activation=read_activation(fields, default="gelu"),
    )

    def norm(name: str) -> NormSpec:
        return NormSpec(name=name, size=base.hidden, eps=base.eps, kind="layer", bias=True)

    def layer(index: int) -> LayerSpec:
        return LayerSpec(
            name=f"gpt_neox.layers.{index}",
            attention=attention,
            feed_forward=feed_forward,
            before_attention=norm("input_layernorm"),
            before_feed_forward=norm("post_attention_layernorm"),
            parallel=fields.flag("use_parallel_residual", True),
        )

    return base.model(
        base.layers(layer),
        embedding="gpt_neox.embed_in",
        norm=norm("gpt_neox.final_layer_norm"),
        head="embed_out",
        other_names=({"gpt_neox.layers.": "model.h.", "gpt_neox.": "model.", "embed_out": "model.embed_out"},),  # MLX
        ignored=(".attention.bias", ".attention.masked_bias"),  # masks that old versions of transformers saved
    )
