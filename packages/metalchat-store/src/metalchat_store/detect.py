"""What a model is: its architecture and partitioning, read from a few bytes of its own files."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from metalchat_store._files import read_file
from metalchat_store.errors import IntegrityError, NotAModel
from metalchat_store.gguf import read_architecture
from metalchat_store.selection import INDEX, Selection

_LIMIT = 16 << 20
_WORD = re.compile(r"[a-z0-9][a-z0-9._+-]{0,63}")
_FAMILIES = {"llama": "llama3", "gemma3_text": "gemma3", "gptneox": "gpt_neox", "qwen3moe": "qwen3_moe"}


def family(name: object, *, source: str) -> str:
    """The architecture's name for a `model_type` or `general.architecture`: `llama3` for all that are like Llama.

    Names that are not in the table stand for themselves. `NotAModel` unless it is a plain word.
    """
    word = name.lower() if isinstance(name, str) else ""
    if _WORD.fullmatch(word) is None:
        raise NotAModel(f"{source} does not name the architecture of the model in plain letters")
    return _FAMILIES.get(word, word)


def config_architecture(path: Path) -> str:
    """The architecture that a `config.json` names in `model_type`."""
    config = read_json(path, "config.json")
    if "model_type" not in config:
        raise NotAModel("'config.json' has no 'model_type', which names the architecture of a model")
    return family(config["model_type"], source="'model_type' in 'config.json'")


def gguf_architecture(path: Path, name: str) -> str:
    """The architecture that the header of a GGUF file names."""
    return family(read_architecture(path, name), source=f"'general.architecture' in '{name}'")


def partitioning(selection: Selection) -> str:
    """`sharded` where an index or several files hold the weights, else `consolidated`."""
    return "sharded" if len(selection.weights) > 1 or INDEX in selection.others else "consolidated"


def indexed_shards(path: Path, names: Iterable[str]) -> tuple[str, ...]:
    """The files that the index of the shards names; `IntegrityError` if one of them is not among `names`."""
    shards = read_json(path, INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise NotAModel(f"'{INDEX}' has no 'weight_map'")
    known = frozenset(names)
    named = set(shards.values()) if all(isinstance(shard, str) for shard in shards.values()) else {None}
    if not named <= known or not all(str(shard).endswith(".safetensors") for shard in named):
        raise IntegrityError(f"'{INDEX}' names a file that is not part of the model")
    return tuple(sorted(map(str, named)))


def read_json(path: Path, name: str) -> dict[str, object]:
    """A JSON object of at most 16 MiB; `NotAModel` for anything else."""
    try:
        value = json.loads(read_file(path, _LIMIT))
    except (ValueError, RecursionError, MemoryError) as error:
        raise NotAModel(f"'{name}' is not valid JSON") from error
    if not isinstance(value, dict):
        raise NotAModel(f"'{name}' is not a JSON object")
    return value
