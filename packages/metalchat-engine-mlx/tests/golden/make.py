"""Writes golden.json: what transformers answers for every variant of a tiny Llama, in float32.

Run by hand with an interpreter that has torch and transformers: `python make.py`. The weights are those that
`metalchat_engine_mlx.testing` makes from the seed, so only the answers are stored.
"""

import copy
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(path) for path in HERE.parents[2].glob("metalchat-*/src")]

import torch  # noqa: E402 - after the path is set
import transformers  # noqa: E402
from metalchat_engine_mlx.testing import tiny_config, tiny_weights  # noqa: E402

VARIANTS = {
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
    "longrope": {
        "original_max_position_embeddings": 32,
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": [1.0 + place / 8 for place in range(8)],
            "long_factor": [2.0 + place for place in range(8)],
        },
    },
    "longrope-growing": {
        "prompt": 20,
        "original_max_position_embeddings": 32,
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": [1.0 + place / 8 for place in range(8)],
            "long_factor": [2.0 + place for place in range(8)],
        },
    },
    "biases": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    "wide-heads": {"head_dim": 48, "num_hidden_layers": 3},
}


def answer(config: dict, prompt: list[int]) -> dict:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(copy.deepcopy(config))).float().eval()
    weights = {name: torch.from_numpy(values) for name, values in tiny_weights(config).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]
    # A fresh model: a dynamic rope remembers the longest sequence it has seen.
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(copy.deepcopy(config))).float().eval()
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    with torch.no_grad():
        tokens = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=32,
            min_new_tokens=32,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(prompt) :]
    return {"logits": [round(value, 5) for value in logits.tolist()], "tokens": tokens.tolist()}


def main() -> None:
    torch.set_num_threads(1)
    found = {}
    for name, changes in VARIANTS.items():
        changes = dict(changes)
        length = changes.pop("prompt", 40)
        config = tiny_config(**changes)
        prompt = [(17 + place * 7919) % config["vocab_size"] for place in range(length)]
        # transformers writes into the config it is given.
        found[name] = {"config": changes, "prompt": prompt, **answer(copy.deepcopy(config), prompt)}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items())
    (HERE / "golden.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}: {len(found)} variants")


if __name__ == "__main__":
    main()
