"""The KV cache: every layer's keys and values of the tokens seen so far, or of those that a window still shows."""

from collections.abc import Sequence

import mlx.core as mx

STEP = 256


class KVCache:
    """`length` tokens have been seen. A layer without a window keeps them all, one with a window the last of them.

    Keys and values are [1, kv heads, tokens, head_dim], oldest first, in room that grows by 256 tokens. What leaves a
    window is dropped some hundred tokens at a time, so that a few tokens can be taken back.
    """

    def __init__(self, windows: Sequence[int | None]) -> None:
        self._layers = [_Layer(window) for window in windows]
        self.length = 0

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays())

    def update(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write after the `length` tokens, and return the keys and values of all tokens that the new ones may see.

        With a window w, the first of n new tokens sees w - 1 before it: those are at most w - 1 + n.
        """
        return self._layers[layer].update(self.length, keys, values)

    def rewind(self, length: int) -> bool:
        """Forget what came after `length` tokens. False, and nothing changed, where a window has dropped too much."""
        if length > self.length or not all(layer.reaches(length) for layer in self._layers):
            return False
        self.length = length
        return True

    def arrays(self) -> list[mx.array]:
        return [array for layer in self._layers for array in (layer.keys, layer.values) if array is not None]


class _Layer:
    """Tokens from `first` on."""

    def __init__(self, window: int | None) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self._window = window
        self._first = 0

    def reaches(self, length: int) -> bool:
        """Whether the token after `length` tokens would see all that its window shows."""
        return self._first == 0 or (self._window is not None and length - self._window + 1 >= self._first)

    def update(self, length: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        start = length - self._first
        end = start + keys.shape[2]
        if self.keys is None or self.values is None or end > self.keys.shape[2]:
            kept = start if self._window is None else min(start, self._window - 1 + STEP)
            self._first += start - kept
            end = kept + keys.shape[2]
            # Room for the next tokens too, where the old ones must be moved to make it.
            room = -(-end // STEP) * STEP + (0 if self._first == 0 else STEP)
            self.keys = _moved(self.keys, start - kept, start, room, keys)
            self.values = _moved(self.values, start - kept, start, room, values)
            start = kept
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values
        seen = 0 if self._window is None else max(start - self._window + 1, 0)
        return self.keys[:, :, seen:end], self.values[:, :, seen:end]


def _moved(held: mx.array | None, start: int, stop: int, room: int, like: mx.array) -> mx.array:
    """New room that begins with the tokens from `start` to `stop`."""
    _, heads, _, dim = like.shape
    empty = mx.zeros((1, heads, room - (stop - start), dim), dtype=like.dtype)
    return empty if held is None or stop == start else mx.concatenate([held[:, :, start:stop], empty], axis=2)
