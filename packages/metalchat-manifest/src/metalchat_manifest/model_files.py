"""The settings that a model brings itself, in config.json and generation_config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalchat_manifest import _json
from metalchat_manifest._keys import join_key
from metalchat_manifest.errors import InvalidModelFile
from metalchat_manifest.schema import KEYS
from metalchat_manifest.values import Value, is_value

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"

_SAMPLING = "inference.sampling"
_GENERATION_KEYS: Mapping[str, str] = {
    "do_sample": f"{_SAMPLING}.type",
    "temperature": f"{_SAMPLING}.temperature",
    "top_p": f"{_SAMPLING}.probability",
    "top_k": f"{_SAMPLING}.k",
    "min_p": f"{_SAMPLING}.min_p",
    "repetition_penalty": f"{_SAMPLING}.repetition_penalty",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """One of the two files: its values by dotted key, and the name in the file that each comes from."""

    path: Path
    values: Mapping[str, Value]
    _names: Mapping[str, str]
    _text: str

    def line(self, key: str) -> int | None:
        """The line, from 1, that the value of `key` comes from."""
        name = self._names.get(key)
        return None if name is None else _json.line_of(self._text, name)


def read_config(folder: Path) -> ModelFile | None:
    """config.json: each scalar as `options.<name>`, and the context length; None where there is no such file.

    Raises InvalidModelFile, and ManifestUnreadable.
    """
    path = folder / CONFIG
    loaded = _json.load_object(path)
    if loaded is None:
        return None
    text, content = loaded
    names = {join_key(("options", name)): name for name, value in content.items() if is_value(value)}
    values: dict[str, Value] = {key: content[name] for key, name in names.items()}
    length = content.get("max_position_embeddings")
    if length is not None:
        key = "inference.max_sequence_length"
        values[key] = _checked(path, "max_position_embeddings", key, length)
        names[key] = "max_position_embeddings"
    return ModelFile(path=path, values=values, _names=names, _text=text)


def read_generation_config(folder: Path) -> ModelFile | None:
    """generation_config.json: the model's own choice of sampling; None where there is no such file.

    `do_sample: false` is the type "greedy", true is "nucleus"; `top_k: -1` is 0, which is off. A null says
    nothing. Raises InvalidModelFile, and ManifestUnreadable.
    """
    path = folder / GENERATION_CONFIG
    loaded = _json.load_object(path)
    if loaded is None:
        return None
    text, content = loaded
    values: dict[str, Value] = {}
    names: dict[str, str] = {}
    for name, key in _GENERATION_KEYS.items():
        value = content.get(name)
        if value is None:
            continue
        if name == "do_sample" and isinstance(value, bool):
            value = "nucleus" if value else "greedy"
        elif name == "top_k" and value == -1:
            value = 0
        values[key] = _checked(path, name, key, value)
        names[key] = name
    return ModelFile(path=path, values=values, _names=names, _text=text)


def _checked(path: Path, name: str, key: str, value: Any) -> Value:
    known = KEYS[key]
    problem = known.problem(value)
    if problem is not None:
        raise InvalidModelFile(f"'{name}' {problem}", path=path, key=key)
    return float(value) if known.kind is float else value
