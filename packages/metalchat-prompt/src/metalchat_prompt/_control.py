"""Where text spells a control token, or could take part in spelling one together with what comes next to it."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]


class Spellings:
    """A set of strings to be found in text, whole or in part."""

    def __init__(self, contents: Collection[str]) -> None:
        known = sorted({content for content in contents if content}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, known))) if known else None
        self._longest = len(known[0]) if known else 0
        self._starts = frozenset(content[:size] for content in known for size in range(1, len(content)))
        self._ends = frozenset(content[-size:] for content in known for size in range(1, len(content)))
        self._all = "\0".join(known)

    def found(self, text: str) -> bool:
        """Whether the text spells one out."""
        return self._pattern is not None and self._pattern.search(text) is not None

    def whole(self, text: str) -> list[Span]:
        """The places that spell one out, left to right, the longest first where several begin."""
        return [] if self._pattern is None else [match.span() for match in self._pattern.finditer(text)]

    def edges(self, text: str) -> list[Span]:
        """Beginnings of the text that end one, and ends of the text that begin one."""
        sizes = range(1, min(self._longest, len(text) + 1))
        spans = [(0, size) for size in sizes if text[:size] in self._ends]
        return spans + [(len(text) - size, len(text)) for size in sizes if text[-size:] in self._starts]

    def inside(self, text: str) -> bool:
        """Whether the whole text is a part of one."""
        return 0 < len(text) < self._longest and text in self._all


class ControlTokens:
    """Control tokens as they are spelt, and as they are spelt once the tokenizer has normalised the text.

    `normalized` are those that the tokenizer looks for in normalised text, where `＜` may have become `<`.
    """

    def __init__(
        self, contents: Iterable[str], *, normalized: Iterable[str] = (), normalize: Callable[[str], str]
    ) -> None:
        contents = tuple(contents)
        normalized = tuple(normalized)
        self.characters = frozenset("".join(contents))
        self._normalize = normalize
        self._longest = max(map(len, contents), default=0)
        self._plain = Spellings(contents)
        # A normaliser may put a space before whatever it is given.
        self._prefix = normalize("a").removesuffix("a") if normalized else ""
        self._folded = Spellings([self._fold(content) for content in normalized]) if normalized else None

    def found(self, text: str) -> bool:
        """Whether the text spells out a control token."""
        return self._plain.found(text) or (self._folded is not None and self._folded.found(self._normalize(text)))

    def whole(self, text: str) -> list[Span]:
        """The places that spell one out."""
        spans = self._plain.whole(text)
        if self._folded is not None and self._folded.found(self._normalize(text)):
            folded, places = self._aligned(text)
            spans += [(places[start], places[end - 1] + 1) for start, end in self._folded.whole(folded)]
        return spans

    def edges(self, text: str) -> list[Span]:
        """The ends of the text that could take part in one, together with what comes before or after."""
        spans = self._plain.edges(text)
        if self._folded is not None:
            for offset in {0, max(0, len(text) - self._longest)}:
                folded, places = self._aligned(text[offset : offset + self._longest])
                found = [
                    (offset + places[start], offset + places[end - 1] + 1) for start, end in self._folded.edges(folded)
                ]
                spans += [(start, end) for start, end in found if start == 0 or end == len(text)]
        return spans

    def inside(self, text: str) -> bool:
        """Whether the text is a part of one."""
        if self._plain.inside(text):
            return True
        return self._folded is not None and len(text) <= self._longest and self._folded.inside(self._fold(text))

    def count(self, text: str) -> Counter[str]:
        """How often each is spelt out."""
        counts = Counter(text[start:end] for start, end in self._plain.whole(text))
        if self._folded is not None:
            folded = self._normalize(text)
            counts += Counter(folded[start:end] for start, end in self._folded.whole(folded))
        return counts

    def _fold(self, text: str) -> str:
        return self._normalize(text).removeprefix(self._prefix)

    def _aligned(self, text: str) -> tuple[str, list[int]]:
        """The text normalised character by character, and the place that each character came from."""
        folded = [self._fold(character) for character in text]
        return "".join(folded), [place for place, piece in enumerate(folded) for _ in piece]
