"""What a model remembers of earlier texts: in memory, and of long prompts on disk."""

import threading
from collections.abc import Sequence

from metalchat_engine_mlx.cache import KVCache
from metalchat_engine_mlx.prefix import PrefixCache, Taken
from metalchat_engine_mlx.room import Room
from metalchat_engine_mlx.rope import Regime
from metalchat_engine_mlx.states import MIN_TOKENS, State, StateFiles


class Recall:
    """Not safe to share between threads, save for `nbytes`. Files are written by a thread of their own.

    What is kept takes no more than the answers under way leave of the `room`.
    """

    def __init__(self, prefixes: PrefixCache, room: Room, files: StateFiles | None = None) -> None:
        self._prefixes, self._files, self.room = prefixes, files, room
        self._writer: threading.Thread | None = None

    @property
    def nbytes(self) -> int:
        return self._prefixes.nbytes

    def take(self, tokens: Sequence[int], regime: Regime, *, most: int, adapter: str | None = None) -> Taken:
        """A new cache with the longest known beginning of `tokens`, less their last, and room for `most` at most."""
        taken = self._prefixes.take(tokens, regime, most=most, adapter=adapter)
        if self._files is None or len(tokens) - 1 - taken.cache.length < MIN_TOKENS:
            return taken
        state = self._files.find(tokens, regime, adapter, known=taken.cache.length)
        if state is None or not self._makes_way(state.nbytes):
            return taken
        del taken
        self._prefixes.load(state.tokens, regime, state.segments, state.tails, adapter)
        return self._prefixes.take(tokens, regime, most=most, adapter=adapter)

    def saves(self, computed: int) -> bool:
        """Whether a prompt of which so many tokens had to be computed is saved to disk."""
        return self._files is not None and computed >= MIN_TOKENS

    def move(self, cache: KVCache, tokens: Sequence[int], regime: Regime) -> None:
        """Keep in memory what a cache holds of `tokens`; the cache is of no more use."""
        self._prefixes.put(cache, tokens, regime, release=True)

    def put(self, cache: KVCache, tokens: Sequence[int], regime: Regime, computed: int = 0) -> None:
        """Keep what a cache holds of `tokens`; on disk too where enough of it was `computed` for a prompt."""
        if self._makes_way(cache.nbytes):
            self._prefixes.put(cache, tokens, regime)
        busy = self._writer is not None and self._writer.is_alive()
        if self._files is None or not self.saves(computed) or busy:
            return
        end, spare = self._prefixes.whole(cache, len(tokens)), self.room.spare
        # What is being written is a copy.
        if end >= MIN_TOKENS and (spare is None or cache.nbytes + self._prefixes.nbytes <= spare):
            write = self._files.saving(State.of(cache, tokens[:end], regime))
            self._writer = threading.Thread(target=write, name="metalchat-mlx-state")
            self._writer.start()

    def _makes_way(self, nbytes: int) -> bool:
        """Forget what is in the way of so many bytes more. False where there is not so much."""
        spare = self.room.spare
        if spare is None:
            return True
        self._prefixes.shrink(max(spare - nbytes, 0))
        return nbytes <= spare

    def close(self) -> None:
        """Forget, and wait for the file that is being written."""
        self._prefixes.clear()
        if self._writer is not None:
            self._writer.join()
