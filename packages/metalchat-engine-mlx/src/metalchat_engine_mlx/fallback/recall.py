"""What a model that mlx-lm runs remembers: the text that ended last."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metalchat_engine_mlx.fallback.decoder import FallbackCache
from metalchat_engine_mlx.room import Room
from metalchat_engine_mlx.rope import Regime


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A cache that begins with `common` tokens of a text."""

    cache: FallbackCache
    common: int


class LastText:
    """A prompt that begins as the last text did takes its cache over, as far as that can go back.

    No more than `budget` bytes are kept, and never two texts. Caches of windows and of states do not go back: they
    serve a prompt that goes on where the text ended. `size` tells the bytes of a text of so many tokens, of which
    `limit` are there for all.
    """

    def __init__(
        self,
        new_cache: Callable[[], FallbackCache],
        *,
        limit: int | None,
        size: Callable[[int], int],
        budget: int,
    ) -> None:
        self.room = Room(limit, size, self._give_way)
        self._new_cache: Callable[[], FallbackCache] | None = new_cache
        self._budget = budget
        self._kept: tuple[tuple[int, ...], FallbackCache] | None = None

    @property
    def nbytes(self) -> int:
        kept = self._kept
        return 0 if kept is None else kept[1].nbytes

    def take(self, tokens: Sequence[int], regime: Regime, *, most: int, adapter: str | None = None) -> Taken:
        if self._kept is not None:
            known, cache = self._kept
            common = _common(known, tokens[:-1])
            if common and cache.goes_back_to(common):
                self._kept = None
                return Taken(cache=cache, common=common)
        if self._new_cache is None:
            raise TypeError("the model is closed")
        return Taken(cache=self._new_cache(), common=0)

    def saves(self, computed: int) -> bool:
        """Nothing is saved to disk."""
        return False

    def move(self, cache: FallbackCache, tokens: Sequence[int], regime: Regime) -> None:
        """Keep what a cache holds of `tokens`, in place of what was kept before."""
        spare = self.room.spare
        most = self._budget if spare is None else min(self._budget, spare)
        self._kept = (tuple(tokens), cache) if cache.length == len(tokens) and 0 < cache.nbytes <= most else None

    def put(self, cache: FallbackCache, tokens: Sequence[int], regime: Regime, computed: int = 0) -> None:
        """Nothing is kept of a text that goes on: its cache would have to be copied."""

    def close(self) -> None:
        """Forget the text, and let go of the model."""
        self._kept = self._new_cache = None

    def _give_way(self, most: int) -> None:
        if self.nbytes > most:
            self._kept = None


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    return next(
        (place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other),
        min(len(first), len(second)),
    )
