"""Writes golden.json: what transformers answers for every variant of a tiny model, in float32.

Run by hand with an interpreter that has torch and transformers: `python make.py`. The weights are those that
`metalchat_engine_mlx.testing` makes from the seed, so only the answers are stored.
"""

import copy
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), *(str(path) for path in HERE.parents[2].glob("metalchat-*/src"))]

import torch  # noqa: E402 - after the path is set
import transformers  # noqa: E402
from metalchat_engine_mlx.testing import tiny_config, tiny_weights  # noqa: E402
from variants import VARIANTS  # noqa: E402


def build(config: dict) -> transformers.PreTrainedModel:
    """A fresh model: a dynamic rope remembers the longest sequence it has seen."""
    # transformers writes into the config it is given.
    described = transformers.AutoConfig.for_model(**copy.deepcopy(config) | {"pad_token_id": 0})
    model = transformers.AutoModelForCausalLM.from_config(described, attn_implementation="eager").float().eval()
    weights = {name: torch.from_numpy(values) for name, values in tiny_weights(config).items()}
    _stack_experts(weights, config)
    if "embed_out.weight" in weights:
        weights["lm_head.weight"] = weights.pop("embed_out.weight")
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    model.tie_weights()
    return model


def _stack_experts(weights: dict[str, torch.Tensor], config: dict) -> None:
    """The experts of a checkpoint, as transformers 5 has them in memory: gate above up, all in one tensor."""
    names = {"mixtral": ("block_sparse_moe", "w1", "w3", "w2")}
    block, gate, up, down = names.get(config["model_type"], ("mlp", "gate_proj", "up_proj", "down_proj"))
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        pairs, downs = [], []
        while f"{prefix}{block}.experts.{len(pairs)}.{gate}.weight" in weights:
            expert = f"{prefix}{block}.experts.{len(pairs)}."
            pairs.append(torch.cat([weights.pop(f"{expert}{gate}.weight"), weights.pop(f"{expert}{up}.weight")]))
            downs.append(weights.pop(f"{expert}{down}.weight"))
        if pairs:
            weights[f"{prefix}mlp.experts.gate_up_proj"] = torch.stack(pairs)
            weights[f"{prefix}mlp.experts.down_proj"] = torch.stack(downs)
            weights[f"{prefix}mlp.gate.weight"] = weights.pop(f"{prefix}{block}.gate.weight")


def answer(config: dict, prompt: list[int]) -> dict:
    model = build(config)
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]
    model = build(config)
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
        found[name] = {"config": changes, "prompt": prompt, **answer(config, prompt)}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items())
    (HERE / "golden.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}: {len(found)} variants")


if __name__ == "__main__":
    main()
