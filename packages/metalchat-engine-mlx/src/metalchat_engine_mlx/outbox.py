"""What has been computed for a request and not yet taken by the thread that asked for it."""

from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeAlias

from metalchat_engine import FinishReason

from metalchat_engine_mlx.drawing import Drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """So many tokens of the prompt are in the cache; `cached`, if they were before."""

    processed: int
    cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """No token follows."""

    reason: FinishReason


Item: TypeAlias = Progress | Drawn | End | BaseException


class Outbox:
    """One thread puts, one takes. `taken` is called after each item that was taken.

    Tokens are computed ahead of their taker, but not far: from `AHEAD` waiting items on, it is `full`. Of the tokens
    that were put, `accepted` were among those `proposed` by a guess.
    """

    AHEAD = 3

    def __init__(self, taken: Callable[[], None]) -> None:
        self._queue: SimpleQueue[Item] = SimpleQueue()
        self._taken = taken
        self.cancelled = False
        self.proposed = self.accepted = 0

    @property
    def full(self) -> bool:
        return self._queue.qsize() >= self.AHEAD

    def put(self, item: Item) -> None:
        self._queue.put(item)

    def take(self) -> Item:
        """The next item; waits for it. An exception is returned, not raised."""
        item = self._queue.get()
        self._taken()
        return item

    def cancel(self) -> None:
        """Nobody will take what comes."""
        self.cancelled = True
        self._taken()
