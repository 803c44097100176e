"""Meta's Llama checkpoints as one safetensors file: shards joined, names and the order of rows those of Hugging Face.

Meta splits a model into as many `consolidated.NN.pth` as it was to run on devices. What a device computes whole rows
of (queries, keys, values, gate, up, the embedding and the head) is split by rows, what it reads a part of the input
for (the attention's output, down) by columns; norms are the same in all. A rotary embedding turns pairs of values: in
Meta's order a pair stands side by side, in Hugging Face's half a head apart, so the rows of queries and keys move.

Everything is planned from the indexes; the bytes flow through in pieces of a few megabytes.
"""

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from metalchat_store._files import open_regular
from metalchat_store.checkpoint.archive import Malformed, read_at
from metalchat_store.checkpoint.params import Params
from metalchat_store.checkpoint.tensors import Tensor, named_errors, read_tensors
from metalchat_store.errors import NotAModel

_PIECE = 4 << 20
_DTYPES = ("BF16", "F16", "F32")
_ROWS, _COLUMNS, _SAME = 0, 1, -1
_EMBEDDING = "tok_embeddings.weight"
_OUTER = {
    _EMBEDDING: "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.wq.weight": "self_attn.q_proj.weight",
    "attention.wk.weight": "self_attn.k_proj.weight",
    "attention.wv.weight": "self_attn.v_proj.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
}
_IGNORED = frozenset({"rope.freqs"})

Shape = tuple[int, ...]
Chunks = Callable[[Sequence[int]], Iterator[bytes]]
"""The bytes of a tensor, given the descriptors of all shards."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A tensor of the model under its new name."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    length: int
    chunks: Chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the shards become one file. `tied`: the head is the embedding, and is left out."""

    shards: tuple[Path, ...]
    tensors: tuple[Joined, ...]
    vocabulary: int
    intermediate: int
    dtype: str
    tied: bool

    @property
    def header(self) -> bytes:
        """The beginning of the safetensors file."""
        return header((tensor.name, tensor.dtype, tensor.shape, tensor.length) for tensor in self.tensors)

    @property
    def size(self) -> int:
        """Bytes of the safetensors file."""
        return len(self.header) + sum(tensor.length for tensor in self.tensors)

    def open(self) -> IO[bytes]:
        """The safetensors file from its start; nothing of it is held but a piece."""
        return io.BufferedReader(_Stream(self), _PIECE)


def plan(shards: Mapping[str, Path], params: Params) -> Plan:
    """Read the indexes of `shards`, names in the order of their numbers, and check every tensor against `params`.

    Raises `NotAModel` for what is missing, is too much, or has another shape.
    """
    names = tuple(shards)
    indexes = [read_tensors(path, name) for name, path in shards.items()]
    planner = _Planner(names, indexes, params)
    with named_errors(names[0]), ExitStack() as stack:
        descriptors = [stack.enter_context(_opened(path)) for path in shards.values()]
        return planner.plan(tuple(shards.values()), descriptors)


def header(tensors: Iterable[tuple[str, str, tuple[int, ...], int]]) -> bytes:
    """The beginning of a safetensors file of tensors: name, type, shape and bytes of each."""
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dtype, shape, length in tensors:
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def shapes(params: Params, *, vocabulary: int, intermediate: int, tied: bool) -> Iterator[tuple[str, Shape, int]]:
    """Every tensor of the whole model under its name at Meta, in order, and the axis along which files share it."""
    dim, head = params.dim, params.head_dim
    yield _EMBEDDING, (vocabulary, dim), _ROWS
    for layer in range(params.layers):
        inner: dict[str, tuple[Shape, int]] = {
            "attention_norm.weight": ((dim,), _SAME),
            "attention.wq.weight": ((params.heads * head, dim), _ROWS),
            "attention.wk.weight": ((params.kv_heads * head, dim), _ROWS),
            "attention.wv.weight": ((params.kv_heads * head, dim), _ROWS),
            "attention.wo.weight": ((dim, params.heads * head), _COLUMNS),
            "ffn_norm.weight": ((dim,), _SAME),
            "feed_forward.w1.weight": ((intermediate, dim), _ROWS),
            "feed_forward.w2.weight": ((dim, intermediate), _COLUMNS),
            "feed_forward.w3.weight": ((intermediate, dim), _ROWS),
        }
        for name, (shape, split) in inner.items():
            yield f"layers.{layer}.{name}", shape, split
    yield "norm.weight", (dim,), _SAME
    if not tied:
        yield "output.weight", (vocabulary, dim), _ROWS


class _Planner:
    def __init__(self, names: tuple[str, ...], indexes: list[Mapping[str, Tensor]], params: Params) -> None:
        self._names = names
        self._indexes = indexes
        self._params = params
        self._count = len(indexes)
        if params.heads % self._count:
            raise NotAModel(f"the {params.heads} heads of the model cannot be split into {self._count} files")

    def plan(self, paths: tuple[Path, ...], descriptors: Sequence[int]) -> Plan:
        params = self._params
        embedding = self._parts(_EMBEDDING)
        by_rows = len(embedding[0].shape) == 2 and embedding[0].shape[1] == params.dim
        vocabulary = embedding[0].shape[0] * (self._count if by_rows else 1)
        gate = self._parts("layers.0.feed_forward.w1.weight")
        intermediate = gate[0].shape[0] * self._count
        if not 0 < vocabulary <= 1 << 20 or not 0 < intermediate <= 1 << 20:
            raise Malformed("its embedding or its feed-forward is larger than any known model's")
        tied = self._is_tied(embedding, descriptors)
        joined = [
            self._joined(name, shape, _COLUMNS if name == _EMBEDDING and not by_rows else split)
            for name, shape, split in shapes(params, vocabulary=vocabulary, intermediate=intermediate, tied=tied)
        ]
        self._nothing_else()
        dtype = embedding[0].dtype
        return Plan(
            shards=paths,
            tensors=tuple(joined),
            vocabulary=vocabulary,
            intermediate=intermediate,
            dtype=dtype,
            tied=tied,
        )

    def _joined(self, name: str, shape: tuple[int, ...], split: int) -> Joined:
        """One tensor of the whole model, its parts checked."""
        parts = list(enumerate(self._parts(name)))
        module = name.split(".", 2)[-1] if name.startswith("layers.") else name
        if module in ("attention.wk.weight", "attention.wv.weight"):
            # More files than key-value heads: each head is in several files.
            parts = parts[:: max(1, self._count // self._params.kv_heads)]
        if split == _SAME:
            parts = parts[:1]
        dtype, width = parts[0][1].dtype, parts[0][1].width
        expected = tuple(size // len(parts) if axis == split else size for axis, size in enumerate(shape))
        if split != _SAME and shape[split] % len(parts):
            raise Malformed(f"'{name}' cannot be split into {len(parts)} files")
        for number, part in parts:
            if part.shape != expected or part.dtype != dtype or dtype not in _DTYPES:
                found = "x".join(map(str, part.shape))
                wanted = "x".join(map(str, expected))
                raise NotAModel(
                    f"'{self._names[number]}' has '{name}' as {part.dtype} {found}, 'params.json' needs {wanted}"
                )
        if module in ("attention.wq.weight", "attention.wk.weight"):
            if expected[0] % self._params.head_dim:
                raise Malformed(f"'{name}' is split within a head")
            chunks = _turned(parts, self._params.head_dim)
        elif split == _COLUMNS and len(parts) > 1:
            chunks = _side_by_side(parts)
        else:
            chunks = _one_after_the_other(parts)
        length = width
        for size in shape:
            length *= size
        return Joined(renamed(name), dtype, shape, length, chunks)

    def _parts(self, name: str) -> list[Tensor]:
        for number, index in enumerate(self._indexes):
            if name not in index:
                raise NotAModel(f"'{self._names[number]}' has no '{name}'")
            if not index[name].shape:
                raise Malformed(f"'{name}' is a single number")
        return [index[name] for index in self._indexes]

    def _nothing_else(self) -> None:
        layers = {f"layers.{layer}.{name}" for layer in range(self._params.layers) for name in _LAYER}
        for number, index in enumerate(self._indexes):
            others = sorted(index.keys() - layers - _OUTER.keys() - _IGNORED)
            if others:
                raise NotAModel(f"'{self._names[number]}' has {others[0][:60]!a}, which no Llama text model has")

    def _is_tied(self, embedding: list[Tensor], descriptors: Sequence[int]) -> bool:
        """Whether the head is missing, or byte for byte the embedding."""
        found = [index.get("output.weight") for index in self._indexes]
        if not any(found):
            return True
        for tensor, other, descriptor in zip(embedding, found, descriptors, strict=True):
            if other is None or (other.shape, other.dtype) != (tensor.shape, tensor.dtype):
                return False
            same = other.start == tensor.start or all(
                one == two
                for one, two in zip(
                    _pieces(descriptor, tensor.start, tensor.length),
                    _pieces(descriptor, other.start, other.length),
                    strict=True,
                )
            )
            if not same:
                return False
        return True


class _Stream(io.RawIOBase):
    """The safetensors file of a plan, made while it is read."""

    def __init__(self, plan: Plan) -> None:
        self._stack = ExitStack()
        self._descriptors = [self._stack.enter_context(_opened(path)) for path in plan.shards]
        self._chunks = self._made(plan)
        self._left = memoryview(b"")

    # pyrefly: ignore[missing-override-decorator] - typing has it from 3.12 on
    def readable(self) -> bool:
        return True

    # pyrefly: ignore - collections.abc has Buffer, and typing override, from 3.12 on
    def readinto(self, buffer: "bytearray | memoryview") -> int:
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    # pyrefly: ignore[missing-override-decorator] - the same
    def close(self) -> None:
        self._stack.close()
        super().close()

    def _made(self, plan: Plan) -> Iterator[bytes]:
        yield plan.header
        for tensor in plan.tensors:
            with named_errors(tensor.name):
                yield from tensor.chunks(self._descriptors)


def renamed(name: str) -> str:
    """What Hugging Face calls a tensor of Meta's."""
    if name in _OUTER:
        return _OUTER[name]
    _, number, rest = name.split(".", 2)
    return f"model.layers.{number}.{_LAYER[rest]}"


def _pieces(descriptor: int, start: int, length: int) -> Iterator[bytes]:
    for at in range(start, start + length, _PIECE):
        yield read_at(descriptor, at, min(_PIECE, start + length - at))


def _one_after_the_other(parts: list[tuple[int, Tensor]]) -> Chunks:
    def chunks(descriptors: Sequence[int]) -> Iterator[bytes]:
        for number, part in parts:
            yield from _pieces(descriptors[number], part.start, part.length)

    return chunks


def _side_by_side(parts: list[tuple[int, Tensor]]) -> Chunks:
    """Each row of the whole is a row of the first part, then one of the second, and so on."""
    rows, columns = parts[0][1].shape
    width = columns * parts[0][1].width
    together = max(1, _PIECE // (width * len(parts)))

    def chunks(descriptors: Sequence[int]) -> Iterator[bytes]:
        for first in range(0, rows, together):
            count = min(together, rows - first)
            blocks = [read_at(descriptors[number], part.start + first * width, count * width) for number, part in parts]
            yield b"".join(block[row * width : (row + 1) * width] for row in range(count) for block in blocks)

    return chunks


def _turned(parts: list[tuple[int, Tensor]], head_dim: int) -> Chunks:
    """Within each head the even rows, then the odd ones."""
    width = parts[0][1].shape[1] * parts[0][1].width
    order = [*range(0, head_dim, 2), *range(1, head_dim, 2)]

    def chunks(descriptors: Sequence[int]) -> Iterator[bytes]:
        for number, part in parts:
            for first in range(0, part.shape[0], head_dim):
                block = read_at(descriptors[number], part.start + first * width, head_dim * width)
                yield b"".join(block[row * width : (row + 1) * width] for row in order)

    return chunks


class _opened:
    """A descriptor for as long as a block runs."""

    def __init__(self, path: Path) -> None:
        self._descriptor = open_regular(path)

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
