"""A case: a sound model, copied and damaged as its seed says."""

import json
import shutil
from pathlib import Path
from random import Random

from _binary import damage_gguf, damage_safetensors
from _hostile import damaged_template, damaged_tokenizer
from _values import bytes_damaged, damaged
from metalchat_engine_mlx.testing import write_tiny_adapter

KINDS = ("weights", "config", "tokenizer", "template", "generation", "index", "gguf", "adapter")
_SHARES = (3, 4, 3, 2, 1, 1, 4, 2)
ADAPTER = "adapter"  # the folder below the model in which its adapter is


def make(seed: int, bases: tuple[list[Path], list[Path]], place: Path) -> tuple[Path, str, str]:
    """The path of a model that is nearly one; what was damaged, and how."""
    random = Random(seed)
    directories, files = bases
    (kind,) = random.choices(KINDS, _SHARES)
    if kind == "gguf":
        path = place / "model.gguf"
        shutil.copy(random.choice(files), path)
        return path, kind, damage_gguf(path, random)
    names = {"index": ("sharded",), "adapter": ("plain", "packed", "biased")}.get(kind)
    base = random.choice([path for path in directories if names is None or path.name in names])
    model = place / "model"
    shutil.copytree(base, model)
    return model, kind, f"{base.name}: {_damage(kind, model, random)}"


def _damage(kind: str, model: Path, random: Random) -> str:
    if kind == "weights":
        return damage_safetensors(random.choice(sorted(model.glob("*.safetensors"))), random)
    if kind == "adapter":
        return _adapter(model / ADAPTER, random)
    if kind == "tokenizer":
        return _tokenizer(model, random)
    if kind == "template":
        return _template(model, random)
    name = {"config": "config.json", "index": "model.safetensors.index.json"}.get(kind, "generation_config.json")
    file = model / name
    document = json.loads(file.read_text()) if file.exists() else {"temperature": 1.0, "eos_token_id": 2}
    data, said = damaged(document, random)
    file.write_bytes(data)
    return said


def _adapter(folder: Path, random: Random) -> str:
    write_tiny_adapter(folder)
    if random.random() < 0.5:
        return damage_safetensors(folder / "adapter_model.safetensors", random)
    file = folder / "adapter_config.json"
    data, said = damaged(json.loads(file.read_text()), random)
    file.write_bytes(data)
    return said


def _tokenizer(model: Path, random: Random) -> str:
    name = random.choice(("tokenizer.json", "tokenizer.json", "tokenizer.json", "tokenizer_config.json"))
    file = model / name
    document = json.loads(file.read_text())
    if name == "tokenizer.json" and random.random() < 0.5:
        said = damaged_tokenizer(document, random)
        data = json.dumps(document).encode()
    elif name == "tokenizer_config.json" and random.random() < 0.3:
        document |= {"vocab_file": "/etc/passwd", "auto_map": {"AutoTokenizer": ["x.py", None]}}
        data, said = damaged(document, random)
    else:
        data, said = damaged(document, random)
    file.write_bytes(data)
    return f"{name}: {said}"


def _template(model: Path, random: Random) -> str:
    file = model / "tokenizer_config.json"
    document = json.loads(file.read_text())
    text = damaged_template(document["chat_template"], random)
    place = random.choice(("config", "file", "several", "bytes"))
    if place == "config":
        document["chat_template"] = text
        file.write_text(json.dumps(document))
    elif place == "several":
        document["chat_template"] = [{"name": "default", "template": text}, {"name": "tool_use", "template": text}]
        file.write_text(json.dumps(document))
    else:
        data = text.encode(errors="surrogatepass")
        if place == "bytes" and data:
            data, _ = bytes_damaged(data, random)
        (model / "chat_template.jinja").write_bytes(data)
    return f"{place}: {text[:80]!a}"
