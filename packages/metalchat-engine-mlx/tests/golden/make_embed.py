"""Writes embed.json: the mean of the last hidden states that transformers gives, of length one, in float32.

Run by hand with an interpreter that has torch and transformers: `python make_embed.py`.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), *(str(path) for path in HERE.parents[2].glob("metalchat-*/src"))]

import torch  # noqa: E402 - after the path is set
import transformers  # noqa: E402
from make import build  # noqa: E402
from metalchat_engine_mlx.testing import tiny_config  # noqa: E402
from variants import GEMMA3, NEOX  # noqa: E402

CASES = {"llama": {"vocab_size": 300}, "gemma3": GEMMA3, "gpt_neox": NEOX}


def main() -> None:
    torch.set_num_threads(1)
    found = {}
    for name, changes in CASES.items():
        config = tiny_config(**changes)
        prompt = [(17 + place * 7919) % config["vocab_size"] for place in range(20)]
        with torch.no_grad():
            states = build(config)(torch.tensor([prompt]), output_hidden_states=True).hidden_states[-1][0]
        vector = torch.nn.functional.normalize(states.mean(dim=0), dim=0)
        found[name] = {"config": changes, "tokens": prompt, "vector": [round(value, 6) for value in vector.tolist()]}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items())
    (HERE / "embed.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}: {len(found)} variants")


if __name__ == "__main__":
    main()
