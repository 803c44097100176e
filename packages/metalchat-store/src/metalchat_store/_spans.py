"""Which bytes of a file are there: disjoint ranges in order."""

from collections.abc import Iterable

Span = tuple[int, int]


class Spans:
    """Ranges `[start, end)`; ranges that touch are one."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._spans: list[Span] = []
        for start, end in spans:
            self.add(start, end)

    @property
    def spans(self) -> tuple[Span, ...]:
        """All ranges in order."""
        return tuple(self._spans)

    @property
    def total(self) -> int:
        """How many bytes are there."""
        return sum(end - start for start, end in self._spans)

    def add(self, start: int, end: int) -> None:
        """These bytes are there too."""
        if start >= end:
            return
        apart = [span for span in self._spans if span[1] < start or span[0] > end]
        touching = [span for span in self._spans if not (span[1] < start or span[0] > end)]
        joined = (min([start, *(span[0] for span in touching)]), max([end, *(span[1] for span in touching)]))
        self._spans = sorted([*apart, joined])

    def reach(self, start: int) -> int:
        """The end of the bytes that are there from `start` on without a gap."""
        return next((end for first, end in self._spans if first <= start < end), start)

    def gaps(self, size: int, piece: int) -> list[Span]:
        """What is missing of a file of `size` bytes, in order, in ranges of at most `piece` bytes."""
        found: list[Span] = []
        at = 0
        for start, end in [*self._spans, (size, size)]:
            found += [(first, min(first + piece, start)) for first in range(at, start, piece)]
            at = end
        return found
