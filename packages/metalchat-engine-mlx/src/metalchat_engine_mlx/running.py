"""What the scheduler needs of a model and of its memory, whoever computes the logits."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import mlx.core as mx

from metalchat_engine_mlx.config import ModelConfig
from metalchat_engine_mlx.room import Room
from metalchat_engine_mlx.rope import Regime


class TextCache(Protocol):
    """What is known of one text of `length` tokens."""

    length: int

    @property
    def nbytes(self) -> int: ...


class Found(Protocol):
    """A cache that begins a text, and how many of its tokens were known, some perhaps out of reach."""

    @property
    def cache(self) -> TextCache: ...

    @property
    def common(self) -> int: ...


class Runs(Protocol):
    """A model. Its caches (Any, since nobody else looks into one) come from the memory that was made for it.

    The methods do what those of `Decoder` do.
    """

    @property
    def config(self) -> ModelConfig: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def batch_from(self) -> int: ...

    @property
    def scratch(self) -> Callable[[], int]: ...

    def prefill(self, tokens: mx.array, cache: Any, regime: Regime) -> None: ...

    def __call__(self, tokens: mx.array, cache: Any, regime: Regime) -> mx.array: ...

    def together(
        self, tokens: mx.array, caches: Sequence[Any], regime: Regime, counts: Sequence[int] | None = None
    ) -> mx.array: ...

    def again(
        self, tokens: mx.array, regime: Regime, chunk: int, adapter: str | None = None
    ) -> tuple[mx.array, Any]: ...


class Remembers(Protocol):
    """The memory of a model. The methods do what those of `Recall` do."""

    @property
    def room(self) -> Room: ...

    @property
    def nbytes(self) -> int: ...

    def take(self, tokens: Sequence[int], regime: Regime, *, most: int, adapter: str | None = None) -> Found: ...

    def saves(self, computed: int) -> bool: ...

    def move(self, cache: Any, tokens: Sequence[int], regime: Regime) -> None: ...

    def put(self, cache: Any, tokens: Sequence[int], regime: Regime, computed: int = 0) -> None: ...

    def close(self) -> None: ...
