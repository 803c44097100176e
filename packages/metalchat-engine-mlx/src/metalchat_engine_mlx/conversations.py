"""The KV caches of recent conversations, so that the next turn computes only what is new."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from metalchat_engine_mlx.cache import KVCache
from metalchat_engine_mlx.rope import Regime


@dataclass(frozen=True, slots=True)
class _Held:
    cache: KVCache
    tokens: tuple[int, ...]
    regime: Regime


class Conversations:
    """At most `limit` caches, the least recently used dropped first. One that is taken belongs to the taker alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._guard = threading.Lock()
        self._held: OrderedDict[str, _Held] = OrderedDict()

    @property
    def nbytes(self) -> int:
        with self._guard:
            return sum(held.cache.nbytes for held in self._held.values())

    def take(self, key: str, tokens: Sequence[int], regime: Regime) -> KVCache | None:
        """The conversation's cache, cut back to the longest common prefix with `tokens`, less their last; or None."""
        with self._guard:
            held = self._held.pop(key, None)
        if held is None or held.regime != regime:
            return None
        shared = 0
        for mine, theirs in zip(held.tokens, tokens[:-1], strict=False):
            if mine != theirs:
                break
            shared += 1
        # A window may have dropped what the tokens after the common ones must see; then all is computed again.
        return held.cache if shared and held.cache.rewind(shared) else None

    def put(self, key: str, cache: KVCache, tokens: Sequence[int], regime: Regime) -> None:
        """Keep a cache that holds `tokens`, all rotated under one regime."""
        if self._limit == 0:
            return
        with self._guard:
            self._held[key] = _Held(cache, tuple(tokens), regime)
            self._held.move_to_end(key)
            while len(self._held) > self._limit:
                self._held.popitem(last=False)

    def clear(self) -> None:
        with self._guard:
            self._held.clear()
