"""The cases of lora.json, and the numbers that the adapters' tensors hold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "queries and values": ({"vocab_size": 300}, {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}),
    "every linear map": (
        {"vocab_size": 300, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
        {
            "r": 4,
            "lora_alpha": 8,
            "use_rslora": True,
            "rank_pattern": {"down_proj": 2},
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"],
        },
    ),
    "phi3": (
        {"model_type": "phi3", "vocab_size": 300, "num_attention_heads": 2, "num_key_value_heads": 1},
        {"r": 3, "lora_alpha": 6, "target_modules": ["qkv_proj", "gate_up_proj", "down_proj"]},
    ),
    "gpt_neox": (
        {
            "model_type": "gpt_neox",
            "vocab_size": 300,
            "num_key_value_heads": None,
            "rope_theta": None,
            "attention_bias": None,
            "tie_word_embeddings": False,
            "hidden_act": "gelu",
            "rotary_pct": 0.25,
            "rotary_emb_base": 10000,
        },
        {"r": 4, "lora_alpha": 4, "target_modules": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]},
    ),
}


def values(place: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """The tensor that comes at `place` in the order of the names."""
    # RandomState, unlike Generator, promises the same numbers in every version of NumPy.
    random = np.random.RandomState(1000 + place)
    return (random.standard_normal(tuple(shape)) * 0.15).astype(np.float32)
