"""A model of mlx-lm in the place of a decoder: each text by itself, with a cache of mlx-lm's."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from metalchat_engine import EngineError, InvalidModel, OutOfMemory
from mlx.utils import tree_flatten

from metalchat_engine_mlx.config import ModelConfig
from metalchat_engine_mlx.fallback.library import Family, import_model
from metalchat_engine_mlx.rope import Regime


@contextmanager
def translated(name: str, family: Family) -> Iterator[None]:
    """What mlx-lm raises over a model that it does not expect is anything; here it becomes one line."""
    try:
        yield
    except EngineError:
        raise
    except MemoryError as error:
        raise OutOfMemory(f"'{name}' does not fit in memory") from error
    except Exception as error:
        if isinstance(error, RuntimeError) and ("allocate" in str(error) or "memory" in str(error)):
            raise OutOfMemory(f"'{name}' does not fit in memory") from error
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InvalidModel(
            f"'{name}': mlx-lm {family.version} could not run it as '{family.model_type}': {ascii(reason)[1:-1]}"
        ) from error


class FallbackCache:
    """The caches of all layers, of whatever kinds mlx-lm has for them, after `length` tokens."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts
        self.length = 0
        self._tools: Any = import_model("cache")

    @property
    def nbytes(self) -> int:
        return sum(int(part.nbytes) for part in self.parts) if self.length else 0

    def arrays(self) -> list[mx.array]:
        if not self.length:
            return []
        return arrays_of([part.state for part in self.parts])

    def goes_back_to(self, length: int) -> bool:
        """Forget all but the first `length` tokens. False where these caches cannot, and keep them all."""
        rest = self.length - length
        if rest and not self._tools.can_trim_prompt_cache(self.parts):
            return False
        if rest:
            self._tools.trim_prompt_cache(self.parts, rest)
            self.length = length
        return True


class FallbackDecoder:
    """`network` is a model of mlx-lm with its weights; `name` is what messages call it."""

    def __init__(self, network: Any, config: ModelConfig, family: Family, *, name: str) -> None:
        self.config = config
        self._network, self._family, self._name = network, family, name
        self._new_parts: Callable[[Any], list[Any]] = import_model("cache").make_prompt_cache
        self.nbytes = sum(array.nbytes for array in arrays_of(network.parameters()))

    @property
    def scratch(self) -> Callable[[], int]:
        """What tells the bytes that are kept besides the weights, outside of MLX: none."""
        return lambda: 0

    @property
    def batch_from(self) -> int:
        """Never: such models compute one text at a time."""
        return sys.maxsize

    def new_cache(self) -> FallbackCache:
        return FallbackCache(self._new_parts(self._network))

    def prefill(self, tokens: mx.array, cache: FallbackCache, regime: Regime) -> None:
        """Take `tokens` [n] into the cache, and evaluate it."""
        with translated(self._name, self._family):
            self._run(tokens, cache)
            mx.eval(cache.arrays())

    def __call__(self, tokens: mx.array, cache: FallbackCache, regime: Regime) -> mx.array:
        """The logits [vocab_size] after the last of `tokens` [n]; all of them are in the cache."""
        # Such a model computes the logits after every token that it is given: it is given one.
        if tokens.shape[0] > 1:
            self.prefill(tokens[:-1], cache, regime)
        with translated(self._name, self._family):
            return self._run(tokens[-1:], cache)[0]

    def together(
        self, tokens: mx.array, caches: Sequence[FallbackCache], regime: Regime, counts: Sequence[int] | None = None
    ) -> mx.array:
        """The logits [n, vocab_size] after each of `tokens` [n], all of one text."""
        (cache,) = caches
        with translated(self._name, self._family):
            return self._run(tokens, cache)

    def again(
        self, tokens: mx.array, regime: Regime, chunk: int, adapter: str | None = None
    ) -> tuple[mx.array, FallbackCache]:
        """The logits after all `tokens` [n] and a cache of its own, computed from the first on, `chunk` at a time."""
        cache, start = self.new_cache(), 0
        while tokens.shape[0] - start > chunk:
            self.prefill(tokens[start : start + chunk], cache, regime)
            start += chunk
        return self(tokens[start:], cache, regime), cache

    def _run(self, tokens: mx.array, cache: FallbackCache) -> mx.array:
        """The logits [n, vocab_size] after each of `tokens` [n], lazily."""
        found: mx.array = self._network(tokens[None], cache=cache.parts)
        cache.length += tokens.shape[0]
        return found[0]


def arrays_of(tree: Any) -> list[mx.array]:
    """All arrays in what may hold lists and tables of them."""
    return [array for _, array in tree_flatten(tree) if isinstance(array, mx.array)]
