"""SmolLM3: a Llama in which every fourth layer is not told the positions (NoPE, arXiv 2501.18795)."""

from typing import Any

from metalchat_engine_mlx.config import LayerSpec, ModelConfig
from metalchat_engine_mlx.fields import Fields
from metalchat_engine_mlx.models._base import pre_norm, read_activation, read_base, read_window, read_windows
from metalchat_engine_mlx.rope import read_rope


def read(fields: Fields) -> ModelConfig:
    base = read_base(fields, kv_heads=4, positions=32768)
    rope = read_rope(fields, head_dim=base.head_dim, positions=base.positions, theta=2e6)
    bias = fields.flag("attention_bias", False)
    feed_forward = base.gated(read_activation(fields), bias=fields.flag("mlp_bias", False))
    every = fields.integer("no_rope_layer_interval", 1, 1000, default=4)
    rotates: Any = fields.document.get("no_rope_layers")
    if rotates is None:
        rotates = [int((index + 1) % every != 0) for index in range(base.count)]
    if not isinstance(rotates, list) or len(rotates) < base.count or any(flag not in (0, 1) for flag in rotates):
        fields.refuse("no_rope_layers", rotates, f"a list of {base.count} ones and noughts, one where a layer rotates")
    window = read_window(fields) if fields.flag("use_sliding_window", False) else None
    windows = read_windows(fields, base, lambda index: window is not None and not rotates[index])

    def layer(index: int) -> LayerSpec:
        attention = base.attention(rope=rope if rotates[index] else None, bias=bias, window=windows[index])
        return pre_norm(base, index, attention, feed_forward)

    return base.model(base.layers(layer), tied=True)
