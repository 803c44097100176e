"""Gemma 3, text (arXiv 2503.19786): five of six layers in a window with a rope of their own, and normalised heads."""

import dataclasses

from metalchat_engine_mlx.config import LayerSpec, ModelConfig
from metalchat_engine_mlx.fields import Fields
from metalchat_engine_mlx.models._base import Base, read_activation, read_base, read_softcap, read_windows
from metalchat_engine_mlx.models.gemma2 import norm, sandwich
from metalchat_engine_mlx.rope import Rope, read_rope

# What the config of a model with pictures leaves out.
_DEFAULTS = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
_PROJECTOR = "multi_modal_projector"
_SHARED = ("dtype", "eos_token_id", "quantization", "quantization_config", "tie_word_embeddings", "torch_dtype")


def read_with_pictures(fields: Fields) -> ModelConfig:
    """The text model of one that sees pictures too: its config is nested, and its tensors are among others."""
    text = fields.document.get("text_config")
    if not isinstance(text, dict):
        fields.refuse("text_config", text, "an object")
    whole = {key: value for key in _SHARED if (value := fields.document.get(key)) is not None}
    document = {**_DEFAULTS, **text, **whole, "model_type": fields.document["model_type"]}
    return dataclasses.replace(
        read(fields.nested(document)),
        other_names=(
            {"model.": "language_model.model.", "lm_head": "language_model.lm_head"},
            {"model.": "model.language_model."},
        ),
        passed_over=tuple(f"{start}{part}." for start in ("", "model.") for part in ("vision_tower", _PROJECTOR)),
    )


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
