"""The memory that keys and values may take: who gets some of it, and who waits for others to end."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from metalchat_engine_mlx.memory import STEP

# A step computes at most so many tokens of a text at once.
AHEAD = 65


@dataclass(slots=True)
class _Share:
    """Tokens that a text has room for, and those that it may have in the end."""

    tokens: int
    most: int


class Room:
    """Shares out `limit` bytes, None for no end of them; `size` tells the bytes of a text of so many tokens.

    `gives_way` is told how many bytes are left whenever somebody gets some, to let go of what it has beyond that.

    A text gets its room step by step, since few grow as long as they may, and a step is given only where afterwards all
    texts could still come to their end, one after the other (Dijkstra's banker's algorithm): so nobody waits for ever.
    """

    def __init__(self, limit: int | None, size: Callable[[int], int], gives_way: Callable[[int], None]) -> None:
        self._limit, self._size, self._gives_way = limit, size, gives_way
        self._shares: dict[Hashable, _Share] = {}

    @property
    def spare(self) -> int | None:
        """Bytes that nobody has; None for no end of them."""
        return None if self._limit is None else max(self._limit - self._held(), 0)

    def enter(self, text: Hashable, tokens: int, most: int) -> bool:
        """Take in a text of `tokens`, which may become `most`. False where it has to wait."""
        return self._give(text, _Share(min(tokens + AHEAD, most), most))

    def grow(self, text: Hashable, tokens: int) -> bool:
        """Let a text have `tokens`, and what one step may add. False where it has to wait."""
        share = self._shares[text]
        wanted = min(tokens + AHEAD, share.most)
        return wanted <= share.tokens or self._give(text, _Share(wanted, share.most))

    def leave(self, text: Hashable) -> None:
        self._shares.pop(text, None)

    def _give(self, text: Hashable, share: _Share) -> bool:
        share.tokens = min(-(-share.tokens // STEP) * STEP, share.most)
        before = self._shares.get(text)
        self._shares[text] = share
        # Who is alone has nobody to wait for.
        if self._limit is None:
            return True
        if len(self._shares) == 1 or self._is_safe(self._limit):
            self._gives_way(max(self._limit - self._held(), 0))
            return True
        if before is None:
            del self._shares[text]
        else:
            self._shares[text] = before
        return False

    def _is_safe(self, limit: int) -> bool:
        free = limit - self._held()
        needs = sorted((self._size(share.most) - held, held) for share, held in self._each())
        for rest, held in needs:
            if rest > free:
                return False
            free += held
        return free >= 0

    def _held(self) -> int:
        return sum(held for _, held in self._each())

    def _each(self) -> list[tuple[_Share, int]]:
        return [(share, self._size(share.tokens)) for share in self._shares.values()]
