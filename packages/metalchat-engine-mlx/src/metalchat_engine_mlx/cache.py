"""The KV cache: the keys and values of every layer for the tokens seen so far."""

import mlx.core as mx

STEP = 256


class KVCache:
    """Room for tokens, grown in steps of 256; `length` of them are filled.

    Each layer holds keys and values of [1, kv heads, room, head_dim].
    """

    def __init__(self, *, layers: int, kv_heads: int, head_dim: int) -> None:
        self._keys: list[mx.array | None] = [None] * layers
        self._values: list[mx.array | None] = [None] * layers
        self._shape = (kv_heads, head_dim)
        self._room = 0
        self.length = 0

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (*self._keys, *self._values) if array is not None)

    def reserve(self, tokens: int) -> None:
        """See that `tokens` fit in all, before they are written layer by layer."""
        if tokens > self._room:
            self._room = -(-tokens // STEP) * STEP

    def update(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write after the `length` tokens, and return the keys and values of all tokens."""
        end = self.length + keys.shape[2]
        held_keys = self._with_room(self._keys[layer], keys.dtype)
        held_values = self._with_room(self._values[layer], values.dtype)
        held_keys[:, :, self.length : end] = keys
        held_values[:, :, self.length : end] = values
        self._keys[layer], self._values[layer] = held_keys, held_values
        return held_keys[:, :, :end], held_values[:, :, :end]

    def arrays(self) -> list[mx.array]:
        return [array for array in (*self._keys, *self._values) if array is not None]

    def _with_room(self, held: mx.array | None, dtype: mx.Dtype) -> mx.array:
        kv_heads, head_dim = self._shape
        if held is None:
            return mx.zeros((1, kv_heads, self._room, head_dim), dtype=dtype)
        missing = self._room - held.shape[2]
        if missing <= 0:
            return held
        return mx.concatenate([held, mx.zeros((1, kv_heads, missing, head_dim), dtype=dtype)], axis=2)
