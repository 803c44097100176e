"""The variants of golden.json: changes to the tiny config, and the length of the prompt where it is not 40.

Every family is there with its oddities switched on, and with a window smaller than the prompt where it has windows.
"""

from typing import Any

LONGROPE: dict[str, Any] = {
    "original_max_position_embeddings": 32,
    "rope_scaling": {
        "rope_type": "longrope",
        "short_factor": [1.0 + place / 8 for place in range(8)],
        "long_factor": [2.0 + place for place in range(8)],
    },
}
GEMMA2: dict[str, Any] = {
    "model_type": "gemma2",
    "vocab_size": 300,
    "head_dim": 32,
    "query_pre_attn_scalar": 24,
    "hidden_activation": "gelu_pytorch_tanh",
    "num_hidden_layers": 3,
    "sliding_window": 8,
}
GEMMA3: dict[str, Any] = {
    "model_type": "gemma3_text",
    "vocab_size": 300,
    "head_dim": 32,
    "query_pre_attn_scalar": 24,
    "hidden_activation": "gelu_pytorch_tanh",
    "num_hidden_layers": 4,
    "sliding_window": 8,
    "sliding_window_pattern": 3,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
}
PHI4: dict[str, Any] = {
    "model_type": "phi3",
    "vocab_size": 300,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "partial_rotary_factor": 0.5,
}
NEOX: dict[str, Any] = {
    "model_type": "gpt_neox",
    "vocab_size": 300,
    "num_key_value_heads": None,
    "rope_theta": None,
    "attention_bias": None,
    "tie_word_embeddings": False,
    "hidden_act": "gelu",
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
}
QWEN3_MOE: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "vocab_size": 300,
    "head_dim": 32,
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 96,
    "tie_word_embeddings": False,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "llama2": {"num_key_value_heads": None, "tie_word_embeddings": False, "vocab_size": 320, "rms_norm_eps": 1e-6},
    "llama3": {"tie_word_embeddings": False, "rope_theta": 500000.0},
    "llama3.1": {
        "tie_word_embeddings": False,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
            "rope_type": "llama3",
        },
    },
    "llama3.2": {
        "rope_theta": 500000.0,
        "head_dim": 32,
        "rope_scaling": {
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
            "rope_type": "llama3",
        },
    },
    "llama3.3": {
        "num_hidden_layers": 4,
        "tie_word_embeddings": False,
        "rope_theta": None,
        "rope_parameters": {
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
            "rope_type": "llama3",
        },
    },
    "smollm2": {"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 96, "rope_theta": 100000.0},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic": {"max_position_embeddings": 32, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    "dynamic-growing": {
        "prompt": 20,
        "max_position_embeddings": 32,
        "rope_scaling": {"rope_type": "dynamic", "factor": 4.0},
    },
    "yarn": {
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    },
    "yarn-mscale": {
        "head_dim": 64,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 16.0,
            "original_max_position_embeddings": 32,
            "beta_fast": 8.0,
            "beta_slow": 2.0,
            "mscale": 0.7,
            "mscale_all_dim": 0.4,
            "truncate": False,
        },
    },
    "longrope": LONGROPE,
    "longrope-growing": {"prompt": 20} | LONGROPE,
    "biases": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    "wide-heads": {"head_dim": 48, "num_hidden_layers": 3},
    "qwen2": {"model_type": "qwen2", "vocab_size": 300, "rope_theta": 1e6},
    "qwen2-window": {
        "model_type": "qwen2",
        "vocab_size": 300,
        "num_hidden_layers": 3,
        "tie_word_embeddings": False,
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 1,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    },
    "qwen3": {"model_type": "qwen3", "vocab_size": 300, "head_dim": 32, "rope_theta": 1e6},
    "qwen3-biases": {"model_type": "qwen3", "vocab_size": 300, "attention_bias": True, "head_dim": 24},
    "mistral": {"model_type": "mistral", "vocab_size": 300, "sliding_window": 8, "tie_word_embeddings": False},
    "mistral-nemo": {"model_type": "mistral", "vocab_size": 300, "sliding_window": None, "head_dim": 24},
    "ministral": {
        "model_type": "ministral",
        "head_dim": 16,
        "vocab_size": 300,
        "num_hidden_layers": 3,
        "sliding_window": 12,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    # Softcaps so low that scores and logits are bent.
    "gemma2": GEMMA2 | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma2-defaults": GEMMA2 | {"sliding_window": 64, "num_key_value_heads": 1},
    "gemma3": GEMMA3,
    "gemma3-scaled": GEMMA3
    | {
        "attention_bias": True,
        "final_logit_softcapping": 3.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "gemma3-new": GEMMA3
    | {
        "sliding_window_pattern": None,
        "rope_theta": None,
        "rope_local_base_freq": None,
        "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
        },
    },
    "phi3": {"model_type": "phi3", "vocab_size": 300, "tie_word_embeddings": False, "sliding_window": 16},
    "phi4": PHI4,
    "phi4-long": PHI4 | LONGROPE,
    "phi4-growing": PHI4 | LONGROPE | {"prompt": 20},
    "smollm3": {"model_type": "smollm3", "vocab_size": 300, "num_hidden_layers": 4, "rope_theta": 2e6},
    "smollm3-window": {
        "model_type": "smollm3",
        "vocab_size": 300,
        "num_hidden_layers": 4,
        "no_rope_layers": [1, 0, 0, 1],
        "use_sliding_window": True,
        "sliding_window": 8,
    },
    "olmo2": {"model_type": "olmo2", "vocab_size": 300, "tie_word_embeddings": False},
    "granite": {
        "model_type": "granite",
        "vocab_size": 300,
        "attention_multiplier": 0.1,
        "embedding_multiplier": 6.0,
        "residual_multiplier": 0.4,
        "logits_scaling": 3.0,
        "mlp_bias": True,
    },
    "starcoder2": {
        "model_type": "starcoder2",
        "vocab_size": 300,
        "hidden_act": "gelu_pytorch_tanh",
        "sliding_window": 8,
        "norm_epsilon": 1e-4,
    },
    "starcoder2-plain": {
        "model_type": "starcoder2",
        "vocab_size": 300,
        "hidden_act": "gelu_pytorch_tanh",
        "use_bias": False,
    },
    "gpt_neox": NEOX,
    "gpt_neox-sequential": NEOX
    | {"use_parallel_residual": False, "rotary_pct": 1.0, "attention_bias": False, "rotary_emb_base": 500},
    "mixtral": {
        "model_type": "mixtral",
        "vocab_size": 300,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 8,
        "tie_word_embeddings": False,
    },
    "qwen3_moe": QWEN3_MOE | {"norm_topk_prob": True},
    "qwen3_moe-mixed": QWEN3_MOE | {"num_hidden_layers": 4, "decoder_sparse_step": 2, "mlp_only_layers": [3]},
}
