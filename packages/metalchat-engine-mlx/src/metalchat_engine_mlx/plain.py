"""A checkpoint as plain numbers, one tensor at a time, with the documents that belong beside them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import mlx.core as mx
from metalchat_engine import InvalidModel

from metalchat_engine_mlx.checkpoint import Checkpoint
from metalchat_engine_mlx.strict_json import read_object
from metalchat_engine_mlx.weights.header import BITS

_COPIED = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTensor:
    """A tensor of numbers; `dtype` as safetensors spells it."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * BITS[self.dtype] // 8


class PlainSource(Protocol):
    """The text model of a checkpoint. `config` is its config.json, `files` are the others that lie beside weights."""

    @property
    def tensors(self) -> Mapping[str, PlainTensor]: ...

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def files(self) -> Mapping[str, bytes]: ...

    def arrays(self) -> Iterator[mx.array]:
        """Those of `tensors`, in their order. Raises InvalidModel where the files have changed."""
        ...


def plain_source(checkpoint: Checkpoint) -> PlainSource:
    """Raises UnsupportedModel for a GGUF file that says what no config.json or tokenizer.json can; InvalidModel."""
    if checkpoint.gguf is None:
        return FolderSource(checkpoint)
    from metalchat_engine_mlx.gguf.plain import GgufSource

    return GgufSource(checkpoint.gguf, checkpoint.dtype)


class FolderSource:
    """Safetensors that are not quantised, with their config."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        config = checkpoint.config
        used = [
            (name, tensor)
            for name, tensor in checkpoint.tensors.items()
            if config.needs(name) and not (config.tie_word_embeddings and name.startswith(f"{config.head}."))
        ]
        self._used = dict(sorted(used, key=lambda item: (item[1].file, item[1].start)))
        self.tensors = {
            name: PlainTensor(dtype=tensor.dtype, shape=tensor.shape) for name, tensor in self._used.items()
        }
        self.config = read_object(checkpoint.path / "config.json")
        files = (checkpoint.path / name for name in _COPIED)
        self.files = {file.name: file.read_bytes() for file in files if file.is_file()}

    def arrays(self) -> Iterator[mx.array]:
        checkpoint, opened = self._checkpoint, ""
        arrays: dict[str, mx.array] = {}
        for name, tensor in self._used.items():
            if tensor.file != opened:
                found = mx.load(str(checkpoint.path / tensor.file), format="safetensors")
                arrays, opened = found if isinstance(found, dict) else {}, tensor.file
            array = arrays.pop(name, None)
            if array is None or array.shape != tensor.shape:
                raise InvalidModel(f"'{checkpoint.name}' was changed while it was being read")
            yield array
            del array
