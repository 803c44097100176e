"""What was computed for one text serves every other that begins with it, and never changes an answer."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from metalchat_engine import EngineSettings, GenerationRequest, Message, Model, ModelSource, Sampling
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.cache import KVCache
from metalchat_engine_mlx.prefix import PrefixCache
from metalchat_engine_mlx.testing import write_tiny_model

GREEDY = Sampling(temperature=0)
SYSTEM = "the water is hot and there is more of it than you said " * 3
WINDOWED = {
    "model_type": "gemma3_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "head_dim": 32,
    "query_pre_attn_scalar": 24,
    "sliding_window": 8,
    "sliding_window_pattern": 2,
}
DYNAMIC = {"max_position_embeddings": 48, "rope_scaling": {"rope_type": "dynamic", "factor": 8.0}}


def load(path: Path, **extra: Any) -> Model:
    return MlxEngine().load(ModelSource(path=path, name="tiny"), EngineSettings(prefill_chunk=16, extra=extra))


def asked(question: str, *, system: str = SYSTEM) -> GenerationRequest:
    messages = (Message.system(system), Message.user(question))
    return GenerationRequest(messages=messages, sampling=GREEDY, max_tokens=12)


def filled(tokens: Sequence[int], window: int | None = None, cache: KVCache | None = None) -> KVCache:
    """A cache of two layers, the second with the window, in which a token's keys and values are its number."""
    cache = cache or KVCache((None, window))
    for token in tokens[cache.length :]:
        values = mx.full((1, 1, 1, 4), token, dtype=mx.float32)
        for layer in range(2):
            cache.update(layer, values, values)
        cache.length += 1
    return cache


def seen(cache: KVCache, layer: int) -> list[float]:
    """What the token after those of a cache would see, itself included."""
    values = mx.full((1, 1, 1, 4), -1.0)
    keys, _ = cache.update(layer, values, values)
    return [row[0] for row in keys[0, 0].tolist()]  # type: ignore[index, union-attr]


@pytest.mark.parametrize("changes", [{}, WINDOWED, DYNAMIC], ids=["plain", "window", "dynamic"])
def test_answers_are_the_same_with_and_without_what_others_computed(changes: dict[str, Any], tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny", **changes)
    requests = [asked("how are you"), asked("and they"), asked("how are you all"), asked("how", system="you " * 9)]
    with load(path, prefix_cache_bytes=0) as alone:
        expected = [collect(alone, request) for request in requests]
    assert [answer.finish.usage.cached_tokens for answer in expected] == [0, 0, 0, 0]
    with load(path) as shared:
        for _ in range(3):
            assert [collect(shared, request).text for request in requests] == [answer.text for answer in expected]


@pytest.mark.parametrize("changes", [{}, WINDOWED], ids=["plain", "window"])
def test_a_system_prompt_is_computed_once_for_all_conversations(changes: dict[str, Any], tmp_path: Path) -> None:
    with load(write_tiny_model(tmp_path / "tiny", **changes)) as model:
        for question in ("how are you", "they said", "and there is more"):
            answer = collect(model, replace(asked(question), conversation=question))
        # A window cannot be rewound: the second conversation leaves a checkpoint for the third.
        usage = answer.finish.usage
    assert usage.cached_tokens > 0.6 * usage.prompt_tokens


def test_the_least_recently_used_is_forgotten_first_and_the_budget_is_kept() -> None:
    (one,) = filled(range(100)).segments([(0, 100)])
    size = sum(part.nbytes for parts in one for part in parts) + 800
    prefixes = PrefixCache((None, None), 2 * size + 100)

    def known(first: int) -> int:
        return prefixes.take([first, *range(1, 101)], None).cache.length

    for first in (1000, 2000, 3000):
        if first == 3000:
            assert known(1000) == 100
        tokens = [first, *range(1, 100)]
        prefixes.put(filled(tokens), tokens, None)
        assert prefixes.nbytes <= 2 * size + 100
    assert [known(first) for first in (1000, 2000, 3000)] == [100, 0, 100]
    prefixes.clear()
    assert (known(1000), prefixes.nbytes) == (0, 0)


def test_a_text_that_does_not_fit_keeps_its_beginning() -> None:
    prefixes = PrefixCache((None, None), 40_000)
    tokens = list(range(1500))
    prefixes.put(filled(tokens), tokens, None)
    assert prefixes.take(tokens, None).cache.length == 512
    assert prefixes.nbytes <= 40_000


def test_texts_that_branch_share_their_beginning() -> None:
    prefixes = PrefixCache((None, None), 10**6)
    first = [*range(10), 50, 51]
    second = [*range(10), 60, 61]
    third = [*range(4), 70]
    for tokens in (first, second, third, first[:7]):
        prefixes.put(filled(tokens), tokens, None)
    for tokens in (first, second, third):
        cache = prefixes.take([*tokens, 99], None).cache
        assert seen(cache, 0) == seen(cache, 1) == [*tokens, -1]
    assert prefixes.take([*range(10), 99, 98], None).cache.length == 10
    assert prefixes.take(first, None).cache.length == len(first) - 1
    assert prefixes.take([9, 8], None).cache.length == 0
    assert prefixes.take([*first, 99], 7).cache.length == 0, "another regime of the rope"


def test_a_cache_that_was_taken_is_the_takers_alone() -> None:
    prefixes = PrefixCache((None, 4), 10**6)
    tokens = list(range(20))
    prefixes.put(filled(tokens, 4), tokens, None)
    for last in (30, 31):
        cache = prefixes.take([*tokens, last], None).cache
        assert seen(filled([*tokens, last], cache=cache), 0) == [*tokens, last, -1]
    assert seen(prefixes.take([*tokens, 9], None).cache, 1) == [17, 18, 19, -1]


def test_a_window_that_forgot_is_not_taken_up() -> None:
    prefixes = PrefixCache((None, 4), 10**9)
    tokens = list(range(1000))
    prefixes.put(filled(tokens, 4), tokens, None)
    held = prefixes.take([*tokens, 5], None)
    assert (held.cache.length, held.common) == (1000, 1000)
    assert seen(held.cache, 1) == [997, 998, 999, -1]
    back = prefixes.take([*tokens[:300], 7777, 8], None)
    assert (back.cache.length, back.common) == (0, 300)
    # Whoever computes it again leaves it for the next.
    again = [*tokens[:300], 7777]
    prefixes.put(filled(tokens[:300], 4), tokens[:300], None)
    prefixes.put(filled(again, 4), again, None)
    held = prefixes.take([*tokens[:300], 5, 6], None)
    assert held.cache.length == 300
    assert seen(held.cache, 1) == [297, 298, 299, -1]
    assert seen(held.cache, 0) == [*tokens[:300], -1]


def test_only_whole_grains_are_kept_and_taken_over() -> None:
    prefixes = PrefixCache((None, None), 10**6, grain=4)
    for tokens in ([*range(11)], [*range(6), 50, 51, 52], [0, 1, 90, 91, 92]):
        prefixes.put(filled(tokens), tokens, None)
    assert prefixes.take([*range(11)], None).cache.length == 8
    assert prefixes.take([*range(8)], None).cache.length == 4
    assert prefixes.take([*range(6), 50, 51, 52], None).cache.length == 8
    assert prefixes.take([0, 1, 90, 91, 92], None).cache.length == 4
    assert seen(prefixes.take([0, 1, 90, 91, 92], None).cache, 1) == [0, 1, 90, 91, -1]


@pytest.mark.parametrize("grain", [1, 3])
def test_the_longest_known_beginning_is_found_whatever_was_kept_before(grain: int) -> None:
    random = np.random.RandomState(grain)
    prefixes, kept = PrefixCache((None, None), 10**9, grain=grain), list[list[int]]()
    for _ in range(60):
        tokens = random.randint(0, 3, random.randint(1, 14)).tolist()
        known = max((_common(tokens[:-1], other) for other in kept), default=0)
        cache = prefixes.take(tokens, None).cache
        assert cache.length == known // grain * grain
        if cache.length:
            assert seen(cache, 0) == [*tokens[: cache.length], -1]
        prefixes.put(filled(tokens), tokens, None)
        kept.append(tokens[: len(tokens) // grain * grain])
    held = sum(node.nbytes for root in prefixes._roots.values() for node in _below(root))
    assert prefixes.nbytes == held > 0


def _common(mine: Sequence[int], theirs: Sequence[int]) -> int:
    return next(
        (place for place, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs))
    )


def _below(node: Any) -> list[Any]:
    return [found for child in node.children.values() for found in (child, *_below(child))]
