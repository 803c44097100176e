"""Keys and values by the tokens that they belong to: a radix tree that all conversations of a model share.

A prompt that begins as another text did, or as an answer did, takes over what was computed for it. A node holds the
tokens of one stretch, and what the layers without a window computed for them; layers with a window forget, so their
state is kept where a text ended, and only there, or a little before, can a cache be taken up again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx

from metalchat_engine_mlx.cache import KVCache, Parts, Tail, copied, reaches
from metalchat_engine_mlx.rope import Regime

_Root = tuple[Regime, str | None]
"""What was computed under another regime, or with another adapter, is of no use."""

_LONGEST = 512  # tokens of a node, so that a long text is forgotten from its end on


@dataclass(slots=True, eq=False)
class _Node:
    """The stretch of text from token `start` on; `layers` are those without a window, `tails` of those with one."""

    start: int
    tokens: tuple[int, ...] = ()
    layers: list[Parts] = field(default_factory=list)
    tails: list[Tail] = field(default_factory=list)
    parent: "_Node | None" = None
    children: dict[tuple[int, ...], "_Node"] = field(default_factory=dict)
    used: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @property
    def nbytes(self) -> int:
        held = sum(part.nbytes for parts in self.layers for part in parts)
        return held + sum(part.nbytes for tail in self.tails for part in tail.parts) + 8 * len(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A cache of its own that begins with the tokens found; `common` tokens were known, some perhaps out of reach."""

    cache: KVCache
    common: int


class PrefixCache:
    """At most `budget` bytes, the least recently used forgotten first. Not safe to share between threads.

    Only multiples of `grain` tokens are taken over, or kept. The children of a node go by their first `grain` tokens.
    """

    def __init__(self, windows: Sequence[int | None], budget: int, *, grain: int = 1, bits: int | None = None) -> None:
        self._windows = [window for window in windows if window is not None]
        self._all, self._bits = windows, bits
        self._budget, self._grain = budget, grain
        self._roots: dict[_Root, _Node] = {}
        self._clock = 0
        self.nbytes = 0

    def take(
        self, tokens: Sequence[int], regime: Regime, *, most: int | None = None, adapter: str | None = None
    ) -> Taken:
        """A new cache with the longest known beginning of `tokens`, less their last, which must be computed.

        It makes no room for more than `most` tokens.
        """
        cache = KVCache(self._all, self._bits, most=most, adapter=adapter)
        path, common = self._walk(tokens, len(tokens) - 1, (regime, adapter))
        node, length = self._reachable(path, common)
        if node is not None:
            path = path[: path.index(node) + 1]
            pieces = [[_first(parts, length - step.start) for parts in step.layers] for step in path]
            cache.fill(length, list(zip(*pieces, strict=True)), node.tails)
        return Taken(cache=cache, common=common)

    def shrink(self, most: int) -> None:
        """Forget until no more than `most` bytes are left."""
        while self.nbytes > most:
            self._forget(min(self._leaves(), key=lambda leaf: leaf.used))

    def put(self, cache: KVCache, tokens: Sequence[int], regime: Regime, *, release: bool = False) -> None:
        """Keep what `cache` holds of `tokens`, all of them rotated under one regime.

        With `release` it moves over layer by layer, and the cache is of no more use.
        """
        end = self.whole(cache, len(tokens))
        if end:
            self._insert(tokens[:end], (regime, cache.adapter), partial(cache.segments, release=release), cache.tails)

    def load(
        self,
        tokens: Sequence[int],
        regime: Regime,
        segments: Sequence[Parts],
        tails: Sequence[Tail],
        adapter: str | None = None,
    ) -> None:
        """Keep what was computed for `tokens` elsewhere: of each layer all of it, or its tail."""

        def pieces(spans: Sequence[tuple[int, int]]) -> list[list[Parts]]:
            return [[copied(parts, start, stop) for parts in segments] for start, stop in spans]

        self._insert(tokens, (regime, adapter), pieces, lambda: list(tails))

    def whole(self, cache: KVCache, count: int) -> int:
        """How many of the first `count` tokens of a cache can be kept."""
        end = count // self._grain * self._grain
        return end if not self._windows or end == cache.length else 0

    def _insert(
        self,
        tokens: Sequence[int],
        root: _Root,
        segments: Callable[[Sequence[tuple[int, int]]], list[list[Parts]]],
        tails: Callable[[], list[Tail]],
    ) -> None:
        if self._budget == 0:
            return
        end = len(tokens)
        path, common = self._walk(tokens, end, root)
        self._clock += 1
        node = path[-1] if path else self._roots.setdefault(root, _Node(0))
        if common < node.end and (common < end or self._windows):
            node = self._split(node, common)
        step = max(_LONGEST // self._grain, 1) * self._grain
        spans = [(start, min(start + step, end)) for start in range(common, end, step)]
        for (start, stop), layers in zip(spans, segments(spans), strict=True):
            node = self._attach(node, tuple(tokens[start:stop]), layers)
        if self._windows and not node.tails:
            node.tails = tails()
            mx.eval([tail.parts for tail in node.tails])
            self.nbytes += sum(part.nbytes for tail in node.tails for part in tail.parts)
        for passed in _up(node):
            passed.used = self._clock
        self.shrink(self._budget)

    def clear(self) -> None:
        waiting = list(self._roots.values())
        self._roots.clear()
        self.nbytes = 0
        while waiting:
            # Nodes know each other both ways: what they hold would wait for the garbage collector.
            node = waiting.pop()
            waiting.extend(node.children.values())
            node.children.clear()
            node.parent = None

    def _walk(self, tokens: Sequence[int], limit: int, root: _Root) -> tuple[list[_Node], int]:
        """The nodes that `tokens` pass, and how many of the first `limit` are known, a multiple of the grain."""
        self._clock += 1
        node, path, depth = self._roots.get(root), list[_Node](), 0
        while node is not None and depth + self._grain <= limit:
            node = node.children.get(tuple(tokens[depth : depth + self._grain]))
            if node is None:
                break
            node.used = self._clock
            path.append(node)
            shared = _shared(node.tokens, tuple(tokens[depth : min(depth + len(node.tokens), limit)]))
            depth += shared
            if shared < len(node.tokens):
                break
        depth -= depth % self._grain
        return [node for node in path if node.start < depth], depth

    def _reachable(self, path: list[_Node], common: int) -> tuple[_Node | None, int]:
        """The node and the number of tokens from which a cache can go on."""
        for node in reversed(path):
            length = min(common, node.end) // self._grain * self._grain
            if length > node.start and self._reaches(node.tails, length):
                return node, length
        return None, 0

    def _reaches(self, tails: Sequence[Tail], length: int) -> bool:
        if not self._windows:
            return True
        return bool(tails) and all(
            reaches(tail, window, length) for tail, window in zip(tails, self._windows, strict=True)
        )

    def _split(self, node: _Node, length: int) -> _Node:
        """Cut a node in two at `length` tokens; the upper one."""
        at = length - node.start
        parent = node.parent
        if parent is None:
            raise TypeError("a root has no tokens")
        self.nbytes -= node.nbytes
        upper = _Node(node.start, node.tokens[:at], [copied(parts, 0, at) for parts in node.layers], used=node.used)
        upper.parent, parent.children[upper.tokens[: self._grain]] = parent, upper
        if self._windows and self._reaches(node.tails, length):
            upper.tails = [
                Tail(first=tail.first, parts=copied(tail.parts, 0, length - tail.first)) for tail in node.tails
            ]
        node.layers = [copied(parts, at, len(node.tokens)) for parts in node.layers]
        mx.eval(upper.layers, node.layers, [tail.parts for tail in upper.tails])
        node.start, node.tokens, node.parent = length, node.tokens[at:], upper
        upper.children[node.tokens[: self._grain]] = node
        self.nbytes += node.nbytes + upper.nbytes
        return upper

    def _attach(self, parent: _Node, tokens: tuple[int, ...], layers: list[Parts]) -> _Node:
        mx.eval(layers)
        node = _Node(parent.end, tokens, layers, parent=parent)
        parent.children[tokens[: self._grain]] = node
        self.nbytes += node.nbytes
        return node

    def _leaves(self) -> Iterator[_Node]:
        waiting = [child for root in self._roots.values() for child in root.children.values()]
        while waiting:
            node = waiting.pop()
            if not node.children:
                yield node
            waiting.extend(node.children.values())

    def _forget(self, leaf: _Node) -> None:
        self.nbytes -= leaf.nbytes
        parent = leaf.parent
        if parent is None:
            raise TypeError("a root is no leaf")
        del parent.children[leaf.tokens[: self._grain]]
        if parent.parent is None and not parent.children:
            self._roots = {key: root for key, root in self._roots.items() if root is not parent}


def _shared(mine: tuple[int, ...], theirs: tuple[int, ...]) -> int:
    """How many tokens both begin with."""
    if mine == theirs:
        return len(mine)
    return next((place for place, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), len(theirs))


def _first(parts: Parts, count: int) -> Parts:
    return parts if count >= parts[0].shape[2] else tuple(part[:, :, :count] for part in parts)


def _up(node: _Node | None) -> Iterator[_Node]:
    while node is not None:
        yield node
        node = node.parent
