"""Where text spells a control token, or could take part in spelling one together with what comes next to it."""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]


class Spellings:
    """A set of strings to be found in text, whole or in part. Made for some hundred strings, bearable for 50,000."""

    def __init__(self, contents: Iterable[str]) -> None:
        self._contents = frozenset(content for content in contents if content)
        lengths: dict[str, set[int]] = {}
        for content in self._contents:
            lengths.setdefault(content[0], set()).add(len(content))
        self._lengths = {first: sorted(sizes, reverse=True) for first, sizes in lengths.items()}
        self._firsts = re.compile("|".join(map(re.escape, self._lengths)) or "(?!)")
        self._longest = max(map(len, self._contents), default=0)
        self._sorted = sorted(self._contents)
        self._reversed = sorted(content[::-1] for content in self._contents)
        self._all = "\0".join(self._sorted)

    def found(self, text: str) -> bool:
        """Whether the text spells one out."""
        return next(self._whole(text), None) is not None

    def whole(self, text: str) -> list[Span]:
        """The places that spell one out, left to right, the longest first where several begin."""
        return list(self._whole(text))

    def edges(self, text: str) -> list[Span]:
        """Beginnings of the text that end one, and ends of the text that begin one."""
        sizes = range(1, min(self._longest, len(text) + 1))
        spans = [(0, size) for size in sizes if _begins(text[:size][::-1], self._reversed)]
        return spans + [(len(text) - size, len(text)) for size in sizes if _begins(text[-size:], self._sorted)]

    def inside(self, text: str) -> bool:
        """Whether the whole text is a part of one."""
        return 0 < len(text) < self._longest and text in self._all

    def _whole(self, text: str) -> Iterator[Span]:
        last = 0
        for match in self._firsts.finditer(text):
            start = match.start()
            if start < last:
                continue
            for size in self._lengths[match[0]]:
                spelt = text[start : start + size]
                if spelt in self._contents:
                    last = start + len(spelt)
                    yield start, last
                    break


def _begins(part: str, ordered: Sequence[str]) -> bool:
    """Whether one of the sorted strings is longer than `part` and begins with it."""
    place = bisect_right(ordered, part)
    return place < len(ordered) and ordered[place].startswith(part)


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
