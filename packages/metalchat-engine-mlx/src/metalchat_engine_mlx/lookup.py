"""Prompt look-up: the last tokens of a text stood in it before, and what followed them then is proposed again."""

from collections.abc import Sequence

# Tokens that must be the same for what follows them to be proposed.
GRAM = 3


class Lookup:
    """Follows one text, which only ever grows. Its latest place wins (prompt look-up decoding, Saxena 2023)."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._seen = 0

    def propose(self, known: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens that may follow `known`; none where its end is new."""
        # The end itself is no earlier place.
        for end in range(max(self._seen, GRAM), len(known)):
            self._after[tuple(known[end - GRAM : end])] = end
        self._seen = len(known)
        place = self._after.get(tuple(known[-GRAM:]))
        if place is None:
            return []
        found: list[int] = []
        for source in range(place, place + most):
            # What repeats itself without end is proposed without end.
            found.append(known[source] if source < len(known) else found[source - len(known)])
        return found
