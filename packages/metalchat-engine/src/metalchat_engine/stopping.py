"""Stop strings, found in a text that arrives piece by piece."""

from collections.abc import Sequence


class StopStrings:
    """Lets text through up to the first stop string, and holds back what may be the beginning of one.

    The answer does not depend on where the pieces are cut: of several stop strings the one that ends
    first wins, and of those that end together the longest.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self._found: str | None = None

    @property
    def found(self) -> str | None:
        """The stop string that ended the text, None so far."""
        return self._found

    def push(self, text: str) -> str:
        """Take the next piece; return the text that certainly belongs to the answer. After `found`, nothing does."""
        if self._found is not None:
            return ""
        text = self._held + text
        ends = [(at + len(stop), at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if ends:
            _, at, self._found = min(ends)
            self._held = ""
            return text[:at]
        cut = len(text) - self._beginning(text)
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """The text held back, once no more is to come."""
        held, self._held = self._held, ""
        return held

    def _beginning(self, text: str) -> int:
        # The length of the longest end of `text` that begins a stop string.
        longest = max((len(stop) for stop in self._stop), default=1)
        for length in range(min(longest - 1, len(text)), 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stop):
                return length
        return 0
