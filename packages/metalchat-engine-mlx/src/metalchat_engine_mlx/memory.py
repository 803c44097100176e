"""What a model takes in memory, told from its headers: weights, keys and values, and what a prompt takes meanwhile."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

from metalchat_engine import EngineSettings, ModelSource, OutOfMemory

from metalchat_engine_mlx.adapters import Adapter, read_adapter
from metalchat_engine_mlx.checkpoint import Checkpoint, read_own
from metalchat_engine_mlx.config import AttentionSpec, ExpertsSpec, LayerSpec
from metalchat_engine_mlx.machine import default_threads
from metalchat_engine_mlx.quantization import FLOATS, Packing
from metalchat_engine_mlx.settings import MlxSettings
from metalchat_engine_mlx.weights import matrices, tied, vectors

if TYPE_CHECKING:
    from metalchat_engine_mlx.fallback.bounds import Bounds

STEP = 256  # tokens by which room for keys and values grows
GUESSED = 128  # tokens that are guessed for all texts together, unless they are more
HOST_CHUNK, DEVICE_CHUNK = 128, 2048

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_STORED = {"F32": 4, "F16": 2, "BF16": 2}
# Heads of these sizes have kernels that keep no scores.
_FUSED = (64, 80, 128)
# Weights that a thread of the CPU unpacks at once.
_BLOCK = 2**19


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What one model takes with its settings, with its `adapters`, and with its `draft`.

    `wide` weights are float32, whatever the checkpoint has.
    """

    checkpoint: Checkpoint
    own: MlxSettings
    on_cpu: bool
    chunk: int
    wide: bool = False
    draft: "Demand | None" = None
    adapters: tuple[Adapter, ...] = ()

    @classmethod
    def of(cls, checkpoint: Checkpoint, settings: EngineSettings, own: MlxSettings, *, on_cpu: bool) -> "Demand":
        if checkpoint.fallback is not None:
            checkpoint.fallback.check_settings(settings, name=checkpoint.name)
        chunk = settings.prefill_chunk or (HOST_CHUNK if on_cpu else DEVICE_CHUNK)
        draft = None
        if own.draft is not None:
            found = read_own(ModelSource(path=own.draft), "guess ahead")
            plain = dataclasses.replace(own, draft=None, lookup=0, cache_bits=None, adapters={})
            draft = cls(checkpoint=found, own=plain, on_cpu=on_cpu, chunk=chunk)
        tied = checkpoint.ties_head
        adapters = tuple(read_adapter(*found, checkpoint.config, tied=tied) for found in own.adapters.items())
        return cls(checkpoint=checkpoint, own=own, on_cpu=on_cpu, chunk=chunk, draft=draft, adapters=adapters)

    @cached_property
    def weights(self) -> int:
        """Bytes of all weights once loaded."""
        if self._bounds is not None:
            return self._bounds.weights
        adapted = sum(adapter.parameters for adapter in self.adapters) * self._value
        return self._own_weights() + adapted + (0 if self.draft is None else self.draft.weights)

    def cache(self, tokens: int) -> int:
        """Bytes of the keys and values of one text of so many tokens."""
        if self._bounds is not None:
            return self._bounds.cache(tokens)
        layers = self.checkpoint.config.layers
        found = sum(self._layer(layer.attention, tokens) for layer in layers)
        if self.draft is not None:
            found += self.draft.cache(min(tokens, self.draft.checkpoint.config.context_length))
        return found

    @property
    def cache_per_token(self) -> int:
        """Bytes of a token's keys and values, until windows drop some."""
        if self._bounds is not None:
            return self._bounds.cache_per_token
        return sum(self._token(layer.attention) for layer in self.checkpoint.config.layers)

    def transient(self, tokens: int, requests: int = 1) -> int:
        """Bytes besides, while a piece of a prompt is computed, and the next tokens of so many texts are drawn."""
        if self._bounds is not None:
            return self._bounds.transient(tokens, requests, min(self.chunk, tokens), on_cpu=self.on_cpu)
        found = self._passing(tokens, requests) + self._kept(tokens)
        if self.draft is not None:
            # The models take turns, and each has its own scratch memory.
            longest = min(tokens, self.draft.checkpoint.config.context_length)
            found = max(found, self.draft._passing(longest, 1) + self._kept(tokens)) + self.draft._kept(longest)
        return found

    def _kept(self, tokens: int) -> int:
        """Bytes of the scores, and of what is unpacked: a CPU never gives them back."""
        rows = min(self.chunk, tokens)
        return max(self._scores(layer.attention, rows, tokens) for layer in self.checkpoint.config.layers)

    def _passing(self, tokens: int, requests: int) -> int:
        config = self.checkpoint.config
        ahead = min(requests * self.own.ahead, max(GUESSED, requests))
        rows = max(min(self.chunk, tokens), ahead)
        widest = max(map(_width, config.layers))
        attentions = [layer.attention for layer in config.layers]
        rotated = max((spec.heads + 2 * spec.kv_heads) * spec.head_dim for spec in attentions)
        found = rows * self._value * (6 * config.hidden_size + 3 * rotated + 4 * widest)
        found += (requests * 4 + ahead) * config.vocab_size * 4
        # A layer is copied where its room grows, and unpacked as a whole.
        found += max(self._layer(spec, tokens) for spec in attentions)
        if self.own.cache_bits is not None:
            found += max(2 * spec.kv_heads * spec.head_dim * tokens * self._value for spec in attentions)
        if config.recomputes:
            found += self.cache(tokens)
        return found

    def total(self, tokens: int, requests: int = 1) -> int:
        return self.weights + requests * self.cache(tokens) + self.transient(tokens, requests)

    def largest(self, available: int, requests: int = 1) -> int:
        """The longest context that fits for so many texts at once, at most the model's own; 0 where none does."""
        low, high = 0, self.checkpoint.config.context_length
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.total(middle, requests) <= available else (low, middle - 1)
        return low

    @property
    def _bounds(self) -> "Bounds | None":
        return None if self.checkpoint.fallback is None else self.checkpoint.fallback.bounds

    def _own_weights(self) -> int:
        config, wide = self.checkpoint.config, self._widened()
        found = matrices(config, dict.fromkeys(self._names))
        return sum(self._matrix(module, shape, bias, wide=module in wide) for module, shape, bias in found) + sum(
            size * self._value for _, size in vectors(config)
        )

    @property
    def _value(self) -> int:
        """Bytes of a number of the arithmetic."""
        return 4 if self.on_cpu else _BYTES[self.own.dtype or self.checkpoint.dtype]

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(f"{module}.weight" for module in (*self.checkpoint.packings, *self.checkpoint.plain))

    def _matrix(self, module: str, shape: tuple[int, ...], bias: bool, *, wide: bool) -> int:
        count, checkpoint, dtype = prod(shape), self.checkpoint, self.own.dtype
        found = shape[0] * self._value if bias else 0
        packing = checkpoint.packings.get(module)
        if wide:
            return found + 4 * count
        if packing is not None:
            return found + count * packing.bits // 8 + count // packing.group_size * self._scales(packing)
        if dtype is None and self.on_cpu:
            return found + count * _STORED[checkpoint.plain[module]]
        return found + count * _BYTES[dtype or checkpoint.dtype]

    def _widened(self) -> set[str]:
        """Neither what only rows are taken from, nor experts, most of which are idle."""
        config = self.checkpoint.config
        if not self.wide:
            return set()
        linears = {f"{layer.name}.{linear.name}" for layer in config.layers for linear in layer.linears()}
        return linears | {config.embedding if tied(config, dict.fromkeys(self._names)) else config.head}

    def _scales(self, packing: Packing) -> int:
        return 1 if packing.mode in FLOATS else 2 * self._value

    @cached_property
    def _unpacked(self) -> int:
        """Bytes that a thread of the CPU unpacks weights into."""
        checkpoint, widened, most = self.checkpoint, self._widened(), 0
        for module, shape, _ in matrices(checkpoint.config, dict.fromkeys(self._names)):
            is_wide = self.own.dtype == "float32" or checkpoint.plain.get(module) == "F32"
            if module in widened:
                most = max(most, 64 * 4 * shape[-1])  # rows that are widened at a time
                continue
            if is_wide and module in checkpoint.plain:
                continue
            count = prod(shape[-2:]) // (self.own.threads or default_threads())
            most = max(most, min(_BLOCK, count // 2) * 5 if module in checkpoint.packings else min(_BLOCK, count) * 4)
        return most

    def _token(self, spec: AttentionSpec) -> int:
        values = 2 * spec.kv_heads * spec.head_dim
        if self.own.cache_bits is None:
            return values * self._value
        group = 64 if spec.head_dim % 64 == 0 else 32
        return values * self.own.cache_bits // 8 + values // group * 2 * self._value

    def _layer(self, spec: AttentionSpec, tokens: int) -> int:
        if spec.window is not None:
            most = _up(spec.window - 1 + STEP + self.chunk) + STEP
            tokens = min(_up(tokens), most)
        return tokens * self._token(spec)

    def _scores(self, spec: AttentionSpec, rows: int, tokens: int) -> int:
        seen = tokens if spec.window is None else min(tokens, spec.window + rows)
        if self.on_cpu:
            threads = self.own.threads or default_threads()
            shared = spec.heads // spec.kv_heads
            return threads * max(4 * shared * rows * seen, self._unpacked) + 4 * rows * rows
        plain = spec.softcap is not None or spec.window is not None or spec.head_dim not in _FUSED
        return 2 * spec.heads * rows * seen * self._value if plain else 0


def fitting_context(demand: Demand, settings: EngineSettings, available: int | None) -> int:
    """The context length to load a model with: the one asked for, else the model's own or what fits of it.

    Raises OutOfMemory where the one asked for does not fit, or not even the shortest.
    """
    longest = demand.checkpoint.config.context_length
    wanted = min(settings.context_length or longest, longest)
    if available is None or demand.total(wanted) <= available:
        return wanted
    largest, name = demand.largest(available), demand.checkpoint.name
    there = (
        f"{size(available)} are {'allowed by memory_limit' if demand.own.memory_limit == available else 'available'}"
    )
    if largest < min(STEP, wanted):
        shortest = min(STEP, wanted)
        raise OutOfMemory(
            f"'{name}' needs {size(demand.total(shortest))}, {size(demand.weights)} of it for its weights and the rest"
            f" for {shortest} tokens of context; {there};"
            f" {_remedy(demand, available)}"
        )
    if settings.context_length is None:
        return largest
    raise OutOfMemory(
        f"'{name}' needs {size(demand.total(wanted))} for {wanted} tokens of context; {there},"
        f" which is enough for {largest} tokens",
        largest_context=largest,
    )


def _remedy(demand: Demand, available: int) -> str:
    if demand.wide and demand.own.weights is not None:
        return "leave the setting 'weights' out, or choose a smaller model"
    return f"{'raise it, or ' if demand.own.memory_limit == available else ''}choose a smaller model"


def is_bound(demand: Demand, context_length: int, available: int | None) -> bool:
    """Whether one token more would not fit."""
    longest = demand.checkpoint.config.context_length
    return available is not None and context_length < longest and demand.total(context_length + 1) > available


def size(count: int) -> str:
    """For example "1.25 GB"."""
    return f"{count / 1e9:.2f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"


def _width(layer: LayerSpec) -> int:
    """The inner features that a token has at once."""
    block = layer.feed_forward
    if isinstance(block, ExpertsSpec):
        return block.used * block.up.shape.rows
    linear = block.fused or block.up or block.down
    return linear.rows if block.fused is None else linear.rows // 2


def _up(tokens: int) -> int:
    return -(-tokens // STEP) * STEP
