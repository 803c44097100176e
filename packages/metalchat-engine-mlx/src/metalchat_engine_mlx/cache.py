"""The KV cache: every layer's keys and values of the tokens seen so far, or of those that a window still shows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from metalchat_engine_mlx.gemm import Floats
from metalchat_engine_mlx.memory import STEP

Parts = tuple[mx.array, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """What a layer with a window still holds: arrays whose first token is number `first`."""

    first: int
    parts: Parts


class KVCache:
    """`length` tokens have been seen. A layer without a window keeps them all, one with a window the last of them.

    Keys and values are [1, kv heads, tokens, head_dim], oldest first, in room that grows by 256 tokens. What leaves a
    window is dropped some hundred tokens at a time, so that a few tokens can be taken back: `length` may be lowered by
    as many tokens as were written last. With `bits`, 4 or 8, they are kept quantised, in groups of 64 or 32 values of a
    head, and nobody ever sees more of them than that keeps.
    """

    def __init__(
        self,
        windows: Sequence[int | None],
        bits: int | None = None,
        *,
        most: int | None = None,
        adapter: str | None = None,
    ) -> None:
        """No room is made for more than `most` tokens before they come."""
        self.adapter = adapter
        self._layers = [_Layer(window, bits, most) for window in windows]
        self.length = 0

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays())

    def update(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write after the `length` tokens, and return the keys and values of all tokens that the new ones may see.

        With a window w, the first of n new tokens sees w - 1 before it: those are at most w - 1 + n.
        """
        return self._layers[layer].update(self.length, keys, values)

    def write(self, layer: int, keys: Floats, values: Floats) -> tuple[Floats, Floats]:
        """What `update` does, at once, with [kv heads, tokens, head_dim]; the result is a view of the cache."""
        return self._layers[layer].write(self.length, keys, values)

    def arrays(self) -> list[mx.array]:
        return [array for layer in self._layers for array in layer.parts]

    def segments(self, spans: Sequence[tuple[int, int]], *, release: bool = False) -> list[list[Parts]]:
        """For each span of tokens, copies of what the layers without a window hold of it.

        With `release` each of these layers is let go once it is copied, and the cache is of no more use.
        """
        found: list[list[Parts]] = [[] for _ in spans]
        for layer in self._layers:
            if layer.window is not None:
                continue
            pieces = [copied(layer.parts, start, stop) for start, stop in spans]
            mx.eval(pieces)
            for held, piece in zip(found, pieces, strict=True):
                held.append(piece)
            if release:
                layer.parts = ()
        return found

    def tails(self) -> list[Tail]:
        """Copies of what the layers with a window hold of the `length` tokens, lazily."""
        return [
            Tail(first=layer.first, parts=copied(layer.parts, 0, self.length - layer.first))
            for layer in self._layers
            if layer.window is not None
        ]

    def fill(self, length: int, segments: Sequence[Iterable[Parts]], tails: Sequence[Tail]) -> None:
        """Begin with `length` tokens: the segments of each layer without a window, a tail of each with one."""
        whole, windowed = iter(segments), iter(tails)
        for layer in self._layers:
            if layer.window is None:
                layer.fill(0, length, next(whole))
            else:
                tail = next(windowed)
                layer.fill(tail.first, length, [tail.parts])
        self.length = length
        mx.eval(self.arrays())


def reaches(tail: Tail, window: int, length: int) -> bool:
    """Whether the token after `length` tokens would see all that its window shows."""
    return tail.first <= max(length - window + 1, 0)


def copied(parts: Parts, start: int, stop: int) -> Parts:
    """The tokens from `start` to `stop`, in memory of their own."""
    # A slice alone may share the memory, room and all, and would keep a cache from being written in place.
    return tuple(mx.concatenate([part[:, :, start:stop], part[:, :, :0]], axis=2) for part in parts)


def cache_group(dim: int) -> int:
    """The size of the groups in which a head of `dim` values is quantised, 0 where it cannot be."""
    return next((size for size in (64, 32) if dim % size == 0), 0)


class _Layer:
    """Tokens from `first` on."""

    def __init__(self, window: int | None, bits: int | None, most: int | None) -> None:
        self.parts: Parts = ()
        self.window = window
        self._most = most if window is None else None
        self._bits = bits
        self.first = 0

    def fill(self, first: int, length: int, pieces: Iterable[Parts]) -> None:
        """Hold the tokens from `first` to `length`, one piece after the other, and room for more."""
        count = length - first
        self.first = first
        room = self._room(count, count // STEP * STEP + STEP)
        self.parts = tuple(_held(column, room) for column in zip(*pieces, strict=True))

    def update(self, length: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        bits = self._bits
        new = (keys, values) if bits is None else (*_packed(keys, bits), *_packed(values, bits))
        start, end = self._reach(length, new)
        for part, values in zip(self.parts, new, strict=True):
            part[:, :, start:end] = values
        seen = 0 if self.window is None else max(start - self.window + 1, 0)
        shown = [part[:, :, seen:end] for part in self.parts]
        if bits is None:
            return shown[0], shown[1]
        return _unpacked(shown[:3], bits), _unpacked(shown[3:], bits)

    def write(self, length: int, keys: Floats, values: Floats) -> tuple[Floats, Floats]:
        if self._bits is not None:
            seen_keys, seen_values = self.update(length, *(_array(new)[None] for new in (keys, values)))
            mx.eval(seen_keys, seen_values)
            return np.asarray(seen_keys)[0], np.asarray(seen_values)[0]
        shape = (1, *keys.shape)
        if not self.parts or length - self.first + shape[2] > self.parts[0].shape[2]:
            like = mx.broadcast_to(mx.zeros(1), shape)
            start, end = self._reach(length, (like, like))
        else:
            start, end = length - self.first, length - self.first + shape[2]
        mx.eval(self.parts)
        held = [np.asarray(part)[0] for part in self.parts]
        for part, new in zip(held, (keys, values), strict=True):
            part[:, start:end] = new
        seen = 0 if self.window is None else max(start - self.window + 1, 0)
        return held[0][:, seen:end], held[1][:, seen:end]

    def _reach(self, length: int, new: Parts) -> tuple[int, int]:
        """Have room for `new` after `length` tokens; where they begin and end in it."""
        start = length - self.first
        end = start + new[0].shape[2]
        if not self.parts or end > self.parts[0].shape[2]:
            kept = start if self.window is None else min(start, self.window - 1 + STEP)
            self.first += start - kept
            end = kept + new[0].shape[2]
            # Room for the next tokens too, where the old ones must be moved to make it.
            room = self._room(end, -(-end // STEP) * STEP + (0 if self.first == 0 else STEP))
            held: Sequence[mx.array | None] = self.parts or (None,) * len(new)
            self.parts = tuple(
                _moved(part, start - kept, start, room, like) for part, like in zip(held, new, strict=True)
            )
            start = kept
        return start, end

    def _room(self, needed: int, wanted: int) -> int:
        return wanted if self._most is None else max(needed, min(wanted, self._most))


def _array(values: Any) -> mx.array:
    """A copy in MLX. (Any: the two libraries declare `__dlpack__` differently.)"""
    return mx.array(values)


def _packed(values: mx.array, bits: int) -> Parts:
    """Packed values, scales and biases."""
    return tuple(mx.quantize(values, group_size=cache_group(values.shape[3]), bits=bits))


def _unpacked(parts: Sequence[mx.array], bits: int) -> mx.array:
    packed, scales, biases = parts
    group = packed.shape[3] * 32 // bits // scales.shape[3]
    return mx.dequantize(packed, scales, biases, group_size=group, bits=bits)


def _held(pieces: Sequence[mx.array], room: int) -> mx.array:
    """The tokens of all pieces together, in room for `room`."""
    missing = room - sum(piece.shape[2] for piece in pieces)
    _, heads, _, dim = pieces[0].shape
    empty = [mx.zeros((1, heads, missing, dim), dtype=pieces[0].dtype)] if missing > 0 else []
    return mx.concatenate([*pieces, *empty], axis=2)


def _moved(held: mx.array | None, start: int, stop: int, room: int, like: mx.array) -> mx.array:
    """New room that begins with the tokens from `start` to `stop`."""
    _, heads, _, dim = like.shape
    empty = mx.zeros((1, heads, room - (stop - start), dim), dtype=like.dtype)
    return empty if held is None or stop == start else mx.concatenate([held[:, :, start:stop], empty], axis=2)
