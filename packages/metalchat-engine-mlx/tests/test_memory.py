"""What is predicted, what is refused, and who waits, where there is not memory for everything."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine import (
    ContextTooLong,
    EngineSettings,
    GenerationRequest,
    MemoryEstimate,
    Model,
    ModelClosed,
    ModelSource,
    OutOfMemory,
    Regex,
    Sampling,
    SupportsEmbedding,
    UnsupportedRequest,
)
from metalchat_engine.testing import Answer, collect
from metalchat_engine_mlx import MlxEngine, machine
from metalchat_engine_mlx.machine import available_memory
from metalchat_engine_mlx.room import AHEAD, Room
from metalchat_engine_mlx.testing import write_tiny_model

# Weights that outweigh the rest, as those of real models do, and heads enough for a cache worth counting.
SHAPE: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 4096,
}
WORDS = "the water is hot and there is more of it than you said "


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("memory"), **SHAPE)


def settings(context: int | None = None, **extra: Any) -> EngineSettings:
    return EngineSettings(context_length=context, prefill_chunk=64, extra={"device": "cpu"} | extra)


def load(path: Path, context: int | None = None, **extra: Any) -> Model:
    return MlxEngine().load(ModelSource(path=path, name="org/m"), settings(context, **extra))


def estimate(path: Path, context: int | None = None, requests: int = 1, **extra: Any) -> MemoryEstimate:
    return MlxEngine().estimate(ModelSource(path=path), settings(context, **extra), requests=requests)


def ask(model: Model, start: str, tokens: int, *, repeats: int = 1) -> Answer:
    request = GenerationRequest(
        prompt=f"{start} {WORDS * repeats}", sampling=Sampling(temperature=0), max_tokens=tokens
    )
    return collect(model, request)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ({}, {}),
        ({}, {"cache_bits": 8}),
        ({}, {"prefill_chunk": 32}),
        ({"bits": 4}, {"threads": 1}),
        ({"dtype": "bfloat16"}, {}),
        ({"model_type": "mistral", "sliding_window": 100}, {}),
    ],
)
def test_the_prediction_is_near_the_peak(kind: dict[str, Any], changes: dict[str, Any], tmp_path: Path) -> None:
    write_tiny_model(tmp_path, **SHAPE, **kind)
    chunk = changes.get("prefill_chunk", 128)
    # What is remembered comes on top, where there is room.
    extra = {key: value for key, value in changes.items() if key != "prefill_chunk"} | {
        "device": "cpu",
        "prefix_cache_bytes": 0,
    }
    source, engine = ModelSource(path=tmp_path), MlxEngine()
    with engine.load(source, EngineSettings(prefill_chunk=chunk, extra=extra)) as model:
        answer = ask(model, "so", 8, repeats=60)
    tokens = answer.finish.usage.total_tokens
    asked = EngineSettings(prefill_chunk=chunk, context_length=tokens, extra=extra)
    predicted = engine.estimate(source, asked)
    peak = answer.finish.timings.peak_memory
    assert peak is not None
    assert tokens > 600
    assert 0.9 < predicted.total / peak < 1.25


@pytest.mark.parametrize(
    "how", [{"lookup": 32}, {"draft": "other"}, {"draft": "itself", "lookup": 8, "draft_tokens": 8}]
)
def test_what_is_guessed_is_in_the_prediction(how: dict[str, Any], tmp_path: Path) -> None:
    # A vocabulary that is worth counting: each token that is guessed has logits of its own.
    kind = SHAPE | {"vocab_size": 20000}
    path = write_tiny_model(tmp_path / "tiny", **kind)
    other = write_tiny_model(tmp_path / "other", **(kind | {"num_hidden_layers": 2}), seed=3)
    if "draft" in how:
        how = how | {"draft": str(path if how["draft"] == "itself" else other)}
    # Answers that say again what their prompts say.
    requests = [
        GenerationRequest(
            prompt=f"{start} {WORDS * 15}",
            sampling=Sampling(temperature=0),
            constraint=Regex(pattern=f"({WORDS}){{4}}"),
            max_tokens=48,
        )
        for start in ("so", "it", "we")
    ]
    with load(path, 400, prefix_cache_bytes=0, **how) as model, ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda request: collect(model, request), requests))
    usages = [answer.finish.usage for answer in answers]
    assert sum(usage.proposed_tokens for usage in usages) > 0
    peak = max(answer.finish.timings.peak_memory or 0 for answer in answers)
    longest = max(usage.total_tokens for usage in usages)
    ratio = estimate(path, longest, 3, prefix_cache_bytes=0, **how).total / peak
    assert 0.9 < ratio < 1.25, ratio


def test_what_fits_is_loaded_and_what_does_not_names_what_would(path: Path) -> None:
    limit = estimate(path, 1000).total
    assert estimate(path, 1000, memory_limit=limit).largest_context == 1000
    assert estimate(path, 1001, memory_limit=limit).fits is False
    load(path, 1000, memory_limit=limit).close()
    with pytest.raises(OutOfMemory) as caught:
        load(path, 1001, memory_limit=limit)
    assert caught.value.largest_context == 1000
    assert str(caught.value).startswith("'org/m' needs ")
    assert str(caught.value).endswith(" MB are allowed by memory_limit, which is enough for 1000 tokens")


def test_where_nothing_fits_it_is_said_what_is_needed_and_what_there_is(path: Path) -> None:
    with pytest.raises(OutOfMemory) as caught:
        load(path, memory_limit=10**6)
    assert caught.value.largest_context is None
    assert "of it for its weights and the rest for 256 tokens of context; 1.0 MB are allowed" in str(caught.value)
    assert str(caught.value).endswith("; raise it, or choose a smaller model")


def test_a_context_that_nobody_asked_for_is_what_fits(path: Path) -> None:
    limit = estimate(path, 300).total
    with load(path, memory_limit=limit) as model:
        assert model.info.context_length == 300
        with pytest.raises(ContextTooLong, match=r"^the prompt has \d+ tokens, and there is memory for 300; shorten"):
            ask(model, "so", 1, repeats=40)


def test_the_machine_bounds_what_the_settings_do_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    total = estimate(path, 500).total
    monkeypatch.setattr("metalchat_engine_mlx.engine.available_memory", lambda: total)
    with pytest.raises(OutOfMemory, match=r" MB are available, which is enough for 500 tokens$"):
        load(path, 4096)
    assert estimate(path, 4096).available == total
    monkeypatch.setattr("metalchat_engine_mlx.engine.available_memory", lambda: None)
    assert (estimate(path).fits, estimate(path).largest_context) == (None, None)
    load(path).close()


def test_a_limit_is_a_number_of_bytes(path: Path) -> None:
    for wrong in (0, -1, 1.5, "1GB", True):
        with pytest.raises(UnsupportedRequest, match="'memory_limit' must be a number of bytes"):
            load(path, memory_limit=wrong)


@pytest.mark.parametrize("changes", [{}, {"model_type": "mistral", "sliding_window": 100}])
def test_requests_wait_for_each_other_below_a_ceiling(changes: dict[str, Any], tmp_path: Path) -> None:
    write_tiny_model(tmp_path, **SHAPE, **changes)
    # Five answers of 700 tokens each, and keys and values of some two of them.
    limit = estimate(tmp_path, 700, requests=2, prefix_cache_bytes=0).total
    starts = ["so", "it", "we", "he", "a"]
    with load(tmp_path, 700, memory_limit=limit) as model, ThreadPoolExecutor(5) as pool:
        together = list(pool.map(lambda start: ask(model, start, 40, repeats=30), starts))
        held = model.info.memory_bytes
    peaks = [answer.finish.timings.peak_memory for answer in together]
    assert held <= limit
    assert all(peak is not None and peak <= limit for peak in peaks)
    with load(tmp_path, 700, prefix_cache_bytes=0) as model:
        assert [ask(model, start, 40, repeats=30).text for start in starts] == [answer.text for answer in together]


def test_what_is_remembered_gives_its_room_up_first(path: Path) -> None:
    limit = estimate(path, 600).total
    with load(path, 600, memory_limit=limit) as model:
        for start in ("so", "it", "we", "he"):
            answer = ask(model, start, 4, repeats=30)
            assert answer.finish.usage.cached_tokens == 0
            assert answer.finish.timings.peak_memory is not None
            assert answer.finish.timings.peak_memory <= limit
        # The last one is still there, for half of the context at least.
        assert model.info.memory_bytes <= limit


def test_an_answer_that_is_given_up_leaves_its_room(path: Path) -> None:
    limit = estimate(path, 600).total
    with load(path, 600, memory_limit=limit) as model:
        request = GenerationRequest(prompt=WORDS * 30, sampling=Sampling(temperature=0), max_tokens=100)
        stream = model.generate(request)
        next(stream)
        found: list[Answer] = []
        other = threading.Thread(target=lambda: found.append(ask(model, "so", 4, repeats=30)))
        other.start()
        stream.close()  # type: ignore[attr-defined]
        other.join(60)
    assert len(found) == 1


def test_vectors_wait_for_room_like_answers(path: Path) -> None:
    limit = estimate(path, 700, requests=2, prefix_cache_bytes=0).total
    texts = [f"{start} {WORDS * 34}" for start in ("so", "it")]
    with load(path, 700, prefix_cache_bytes=0) as model:
        assert isinstance(model, SupportsEmbedding)
        alone, said = model.embed(texts), ask(model, "he", 40, repeats=30).text
    with load(path, 700, memory_limit=limit) as model, ThreadPoolExecutor(6) as pool:
        assert isinstance(model, SupportsEmbedding)
        answers = [pool.submit(ask, model, "he", 40, repeats=30) for _ in range(3)]
        vectors = [pool.submit(model.embed, texts) for _ in range(2)]
        assert [vector.result(60) for vector in vectors] == [alone] * 2
        done = [answer.result(60) for answer in answers]
        last = ask(model, "he", 40, repeats=30)
    assert {answer.text for answer in (*done, last)} == {said}
    assert last.finish.timings.peak_memory is not None
    assert last.finish.timings.peak_memory <= limit


def test_a_text_waits_until_an_answer_has_left_and_a_closed_model_lets_nobody_wait(path: Path) -> None:
    limit = estimate(path, 600).total
    with load(path, 600, memory_limit=limit) as model, ThreadPoolExecutor(2) as pool:
        assert isinstance(model, SupportsEmbedding)
        request = GenerationRequest(prompt=WORDS * 20, sampling=Sampling(temperature=0), max_tokens=200)
        for ends in ("closed", "left"):
            stream = model.generate(request)
            next(stream)
            waits = pool.submit(model.embed, [WORDS * 28])
            other = pool.submit(ask, model, "so", 4, repeats=28)
            assert wait([waits, other], 0.3).done == set()
            if ends == "left":
                model.close()
                for asked in (waits, other):
                    with pytest.raises(ModelClosed):
                        asked.result(60)
            else:
                stream.close()  # type: ignore[attr-defined]
                assert len(waits.result(60)[0]) > 0
                assert other.result(60).finish.usage.completion_tokens > 0


def test_a_text_that_would_not_fit_is_refused_like_a_prompt(path: Path) -> None:
    with load(path, memory_limit=estimate(path, 300).total) as model:
        assert isinstance(model, SupportsEmbedding)
        with pytest.raises(ContextTooLong, match=r"^a text has \d+ tokens, and there is memory for 300; shorten it$"):
            model.embed(["fine", WORDS * 40])


@pytest.mark.parametrize("seed", range(20))
def test_room_is_never_overdrawn_and_somebody_can_always_go_on(seed: int) -> None:
    draw = random.Random(seed)
    lengths = [(draw.randint(1, 900), draw.randint(1, 900)) for _ in range(draw.randint(1, 8))]
    most = max(map(sum, lengths))
    limit = draw.randint(most, 4 * most)
    told: list[int] = []
    room = Room(limit, lambda tokens: tokens, told.append)
    waiting = dict(enumerate(lengths))
    running: dict[int, list[int]] = {}
    while waiting or running:
        assert room.spare is not None
        assert 0 <= room.spare <= limit
        for text in [text for text, (prompt, more) in waiting.items() if room.enter(text, prompt, prompt + more)]:
            prompt, more = waiting.pop(text)
            running[text] = [prompt, prompt + more]
        order = draw.sample(sorted(running), len(running))
        moved = [text for text in order if room.grow(text, running[text][0])]
        assert moved, "nobody can go on"
        for text in moved:
            running[text][0] += AHEAD
            if running[text][0] >= running[text][1]:
                room.leave(text)
                del running[text]
    assert room.spare == limit
    assert min(told) >= 0


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="ascii")
    return root


def test_what_is_available_is_what_the_system_and_every_group_have_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = {"proc/meminfo": "MemTotal: 90 kB\nMemAvailable:    20000 kB\n"}
    assert available_memory(tree(tmp_path / "plain", meminfo)) == 20000 * 1024 // 20 * 19
    second = meminfo | {
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/b/memory.current": "5\n",
        "sys/fs/cgroup/a/memory.max": "10000\n",
        "sys/fs/cgroup/a/memory.current": "9000\n",
        "sys/fs/cgroup/a/memory.stat": "anon 4000\ninactive_file 1000\n",
    }
    assert available_memory(tree(tmp_path / "v2", second)) == 1900
    first = meminfo | {
        "proc/self/cgroup": "4:cpu,memory:/x\n0::/\n",
        "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "4000\n",
        "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "5000\n",
    }
    assert available_memory(tree(tmp_path / "v1", first)) == 0
    monkeypatch.setattr(machine, "_physical", lambda: 2000)
    assert available_memory(tmp_path / "nothing") == 1900
