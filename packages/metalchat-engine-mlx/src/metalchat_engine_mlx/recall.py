"""What a model remembers of earlier texts: in memory, and of long prompts on disk."""

import threading
from collections.abc import Sequence

from metalchat_engine_mlx.cache import KVCache
from metalchat_engine_mlx.prefix import PrefixCache, Taken
from metalchat_engine_mlx.rope import Regime
from metalchat_engine_mlx.states import MIN_TOKENS, State, StateFiles


class Recall:
    """Not safe to share between threads, save for `nbytes`. Files are written by a thread of their own."""

    def __init__(self, prefixes: PrefixCache, files: StateFiles | None = None) -> None:
        self._prefixes, self._files = prefixes, files
        self._writer: threading.Thread | None = None

    @property
    def nbytes(self) -> int:
        return self._prefixes.nbytes

    def take(self, tokens: Sequence[int], regime: Regime, *, most: int) -> Taken:
        """A new cache with the longest known beginning of `tokens`, less their last, and room for `most` at most."""
        taken = self._prefixes.take(tokens, regime, most=most)
        if self._files is None or len(tokens) - 1 - taken.cache.length < MIN_TOKENS:
            return taken
        state = self._files.find(tokens, regime, known=taken.cache.length)
        if state is None:
            return taken
        del taken
        self._prefixes.load(state.tokens, regime, state.segments, state.tails)
        return self._prefixes.take(tokens, regime, most=most)

    def saves(self, computed: int) -> bool:
        """Whether a prompt of which so many tokens had to be computed is saved to disk."""
        return self._files is not None and computed >= MIN_TOKENS

    def move(self, cache: KVCache, tokens: Sequence[int], regime: Regime) -> None:
        """Keep in memory what a cache holds of `tokens`; the cache is of no more use."""
        self._prefixes.put(cache, tokens, regime, release=True)

    def put(self, cache: KVCache, tokens: Sequence[int], regime: Regime, computed: int = 0) -> None:
        """Keep what a cache holds of `tokens`; on disk too where enough of it was `computed` for a prompt."""
        self._prefixes.put(cache, tokens, regime)
        if self._files is None or not self.saves(computed) or (self._writer is not None and self._writer.is_alive()):
            return
        end = self._prefixes.whole(cache, len(tokens))
        if end >= MIN_TOKENS:
            write = self._files.saving(State.of(cache, tokens[:end], regime))
            self._writer = threading.Thread(target=write, name="metalchat-mlx-state")
            self._writer.start()

    def close(self) -> None:
        """Forget, and wait for the file that is being written."""
        self._prefixes.clear()
        if self._writer is not None:
            self._writer.join()
