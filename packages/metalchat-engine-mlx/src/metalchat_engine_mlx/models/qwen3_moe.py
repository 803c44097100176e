"""Qwen 3 as a mixture of experts (arXiv 2505.09388)."""

from typing import Any

from metalchat_engine_mlx.config import LayerSpec, ModelConfig
from metalchat_engine_mlx.fields import Fields
from metalchat_engine_mlx.models._base import pre_norm, read_activation, read_base, read_experts, read_window
from metalchat_engine_mlx.models.qwen3 import attention


def read(fields: Fields) -> ModelConfig:
    base = read_base(fields, kv_heads=4, positions=32768)
    window = read_window(fields) if fields.flag("use_sliding_window", False) else None
    attending = attention(fields, base, window)
    activation = read_activation(fields)
    dense = base.gated(activation)
    experts = read_experts(
        base,
        "mlp",
        names={"gate": "gate_proj", "up": "up_proj", "down": "down_proj"},
        count=fields.integer("num_experts", 1, 1024, default=128),
        used=8,
        inner=fields.integer("moe_intermediate_size", 1, 2**20, default=768),
        normalised=fields.flag("norm_topk_prob", False),
        activation=activation,
    )
    step = fields.integer("decoder_sparse_step", 1, 1000, default=1)
    plain: Any = fields.document.get("mlp_only_layers") or []
    if not isinstance(plain, list) or any(index not in range(base.count) for index in plain):
        fields.refuse("mlp_only_layers", plain, f"a list of layers below {base.count}")

    def layer(index: int) -> LayerSpec:
        is_sparse = index not in plain and (index + 1) % step == 0
        return pre_norm(base, index, attending, experts if is_sparse else dense)

    return base.model(base.layers(layer))
