"""Writes lora.json: what transformers and PEFT answer for tiny models with adapters, in float32.

Run by hand with an interpreter that has torch, transformers and peft: `python make_lora.py`. Weights come from seeds,
so only PEFT's config, the names and shapes of its tensors, and the answers are stored.
"""

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), *(str(path) for path in HERE.parents[2].glob("metalchat-*/src"))]

import peft  # noqa: E402 - after the path is set
import torch  # noqa: E402
import transformers  # noqa: E402
from lora import CASES, values  # noqa: E402
from make import build  # noqa: E402
from metalchat_engine_mlx.testing import tiny_config  # noqa: E402
from safetensors.torch import load_file  # noqa: E402


def answer(changes: dict, options: dict) -> dict:
    config = tiny_config(**changes)
    prompt = [(17 + place * 7919) % config["vocab_size"] for place in range(40)]
    model = peft.get_peft_model(build(config), peft.LoraConfig(task_type="CAUSAL_LM", **options)).eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_embedding_layers=False)
        described = json.loads((Path(folder) / "adapter_config.json").read_text())
        shapes = {
            name: list(tensor.shape) for name, tensor in load_file(Path(folder) / "adapter_model.safetensors").items()
        }
    own = {name.replace(".default.", "."): parameter for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for place, (name, shape) in enumerate(sorted(shapes.items())):
            own[name].copy_(torch.from_numpy(values(place, shape)))
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        tokens = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=16,
            min_new_tokens=16,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(prompt) :]
    return {
        "config": changes,
        "prompt": prompt,
        "adapter_config": described,
        "shapes": shapes,
        "logits": [round(value, 5) for value in logits.tolist()],
        "tokens": tokens.tolist(),
    }


def main() -> None:
    torch.set_num_threads(1)
    found = {name: answer(changes, options) for name, (changes, options) in CASES.items()}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items())
    (HERE / "lora.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}: {len(found)}")


if __name__ == "__main__":
    main()
