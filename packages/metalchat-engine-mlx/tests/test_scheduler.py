"""Requests join and leave a batch, and none can tell who else is in it."""

import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from metalchat_engine import (
    EngineSettings,
    GenerationRequest,
    Model,
    ModelClosed,
    ModelSource,
    OutOfMemory,
    PromptProgress,
    Regex,
    Sampling,
    TextDelta,
    TokenLogprob,
)
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx import model as model_module
from metalchat_engine_mlx.checkpoint import read_checkpoint
from metalchat_engine_mlx.decoder import Decoder
from metalchat_engine_mlx.device import Blocks, DeviceBlocks
from metalchat_engine_mlx.host import HostBlocks
from metalchat_engine_mlx.load import _read
from metalchat_engine_mlx.sampling import Sampler
from metalchat_engine_mlx.streams import borrow
from metalchat_engine_mlx.testing import write_tiny_model

CPU = mx.Device(mx.cpu, 0)
GREEDY = Sampling(temperature=0)
ASK = GenerationRequest(prompt="the water is hot and there", sampling=GREEDY, max_tokens=24)
LONG = "the water is hot and there is more of it than you said " * 8
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "packed": {"bits": 4},
    "gemma3": {
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "head_dim": 32,
        "query_pre_attn_scalar": 24,
        "sliding_window": 8,
        "sliding_window_pattern": 2,
    },
    "gpt_neox": {
        "model_type": "gpt_neox",
        "hidden_act": "gelu",
        "num_key_value_heads": None,
        "tie_word_embeddings": False,
        "rotary_pct": 0.25,
        "layer_norm_eps": 1e-5,
    },
    "experts": {
        "model_type": "qwen3_moe",
        "head_dim": 32,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
    },
    "dynamic": {"max_position_embeddings": 64, "rope_scaling": {"rope_type": "dynamic", "factor": 8.0}},
}


def load(path: Path, *, chunk: int = 16, **extra: Any) -> Model:
    return MlxEngine().load(ModelSource(path=path, name="tiny"), EngineSettings(prefill_chunk=chunk, extra=extra))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("batch") / "tiny", max_position_embeddings=4096)


def together(model: Model, requests: Sequence[GenerationRequest]) -> list[list[TokenLogprob]]:
    """What each request draws, all asked at once."""
    barrier = threading.Barrier(len(requests))

    def run(request: GenerationRequest) -> list[TokenLogprob]:
        barrier.wait(timeout=60)
        return drawn(model, request)

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(run, requests))


def drawn(model: Model, request: GenerationRequest) -> list[TokenLogprob]:
    events = list(model.generate(replace(request, logprobs=0)))
    return [token.chosen for event in events if isinstance(event, TextDelta) for token in event.sampled]


def tokens(answers: Sequence[Sequence[TokenLogprob]]) -> list[list[int]]:
    return [[token.token for token in answer] for answer in answers]


def varied() -> list[GenerationRequest]:
    """Requests of every kind, of different lengths."""
    return [
        ASK,
        replace(ASK, prompt="how are you", sampling=Sampling(temperature=1.5, seed=1), max_tokens=17),
        replace(ASK, prompt=LONG, sampling=Sampling(temperature=2, top_k=9, seed=2), max_tokens=9),
        replace(ASK, sampling=Sampling(temperature=0, repetition_penalty=3.0, frequency_penalty=1.0)),
        replace(ASK, prompt="more", constraint=Regex(pattern="[ab]{12}")),
        replace(ASK, prompt="and they", stop=("e",)),
        replace(ASK, prompt="you said", sampling=Sampling(temperature=0, logit_bias={7: 100.0}), max_tokens=3),
        replace(ASK, prompt="there is", sampling=Sampling(temperature=1, min_p=0.05, seed=3), max_tokens=31),
    ]


@pytest.mark.parametrize("family", SHAPES)
def test_a_token_of_each_text_is_computed_as_each_alone(family: str, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(ModelSource(path=write_tiny_model(tmp_path / "tiny", **SHAPES[family])))
    made: tuple[Blocks, ...] = (
        DeviceBlocks(),
        *(HostBlocks(borrow(CPU, 2), split=1, wide=wide) for wide in (False, True)),
    )
    prompts = [[place * seed % 300 for place in range(length)] for seed, length in ((7, 3), (11, 30), (13, 17))]
    for blocks in made:
        decoder = Decoder(*_read(checkpoint), blocks)

        def caches(decoder: Decoder = decoder) -> list[Any]:
            found = [decoder.new_cache() for _ in prompts]
            for prompt, cache in zip(prompts, found, strict=True):
                decoder.prefill(mx.array(prompt), cache, decoder.config.regime(40))
            return found

        regime = decoder.config.regime(40)
        alone, company = caches(), caches()
        for step in range(3):
            following = [place + step for place in (5, 6, 7)]
            expected = [
                np.array(decoder(mx.array([token]), cache, regime))
                for token, cache in zip(following, alone, strict=True)
            ]
            logits = decoder.together(mx.array(following), company, regime)
            np.testing.assert_allclose(np.array(logits), np.stack(expected), atol=2e-4, rtol=0)
        assert [cache.length for cache in company] == [cache.length for cache in alone]


@pytest.mark.parametrize("family", SHAPES)
def test_some_tokens_of_each_text_are_computed_as_each_alone_and_can_be_taken_back(family: str, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(ModelSource(path=write_tiny_model(tmp_path / "tiny", **SHAPES[family])))
    made: tuple[Blocks, ...] = (
        DeviceBlocks(),
        *(HostBlocks(borrow(CPU, 2), split=1, wide=wide) for wide in (False, True)),
    )
    texts = [[place * seed % 300 for place in range(length)] for seed, length in ((7, 9), (11, 300), (13, 17))]
    counts = [4, 1, 3]
    for blocks in made:
        decoder = Decoder(*_read(checkpoint), blocks)
        regime = decoder.config.regime(40)
        expected = np.concatenate(
            [
                np.array(decoder.together(mx.array(text), [decoder.new_cache()], regime, [len(text)]))[-count:]
                for text, count in zip(texts, counts, strict=True)
            ]
        )
        caches = [decoder.new_cache() for _ in texts]
        for text, cache, count in zip(texts, caches, counts, strict=True):
            decoder.prefill(mx.array(text[:-count]), cache, regime)
        ends = [token for text, count in zip(texts, counts, strict=True) for token in text[-count:]]
        for tokens in ([1] * sum(counts), ends):
            lengths = [cache.length for cache in caches]
            logits = decoder.together(mx.array(tokens), caches, regime, counts)
            assert [cache.length for cache in caches] == [len(text) for text in texts]
            for cache, length in zip(caches, lengths, strict=True):
                cache.length = length
        np.testing.assert_allclose(np.array(logits), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("deterministic", [False, True])
def test_answers_in_company_are_those_given_alone(deterministic: bool, tiny: Path) -> None:
    with load(tiny, deterministic=deterministic, prefix_cache_bytes=0) as model:
        alone = [drawn(model, request) for request in varied()]
        assert len({len(answer) for answer in alone}) > 4
        company = together(model, [*varied(), *varied()])
    assert tokens(company) == tokens([*alone, *alone])
    if deterministic:
        # The probabilities too, to the last bit.
        assert company == [*alone, *alone]


@pytest.mark.parametrize("changes", [{}, {"bits": 4}], ids=["plain", "packed"])
def test_deterministic_answers_do_not_depend_on_what_was_asked_before(changes: dict[str, Any], tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny", max_position_embeddings=4096, **changes)
    requests = [replace(ASK, prompt=LONG + end) for end in ("how are you", "and they", "how are they all")]
    with load(path, deterministic=True, prefix_cache_bytes=0) as model:
        alone = [drawn(model, request) for request in requests]
    with load(path, deterministic=True) as model:
        for _ in range(2):
            assert [drawn(model, request) for request in requests] == alone
        assert together(model, [*requests, *varied(), *requests])[:3] == alone
        usage = collect(model, requests[0]).finish.usage
        assert 0 < usage.cached_tokens < usage.prompt_tokens
        assert usage.cached_tokens % 16 == 0


def test_requests_that_begin_alike_at_once_compute_their_beginning_once(tiny: Path) -> None:
    requests = [replace(ASK, prompt=LONG + end) for end in ("how", "and", "they", "you")]
    with load(tiny) as model, ThreadPoolExecutor(4) as pool:
        usages = [answer.finish.usage for answer in pool.map(lambda request: collect(model, request), requests)]
    assert sorted(usage.cached_tokens > 0.8 * usage.prompt_tokens for usage in usages) == [False, True, True, True]


def test_a_long_prompt_does_not_hold_up_the_answers_of_others(tiny: Path) -> None:
    order: list[str] = []
    begun = threading.Event()

    def talk(model: Model) -> None:
        for event in model.generate(
            replace(ASK, max_tokens=2000, sampling=Sampling(temperature=0, logit_bias={7: 99}))
        ):
            if isinstance(event, TextDelta):
                order.append("token")
                begun.set()

    with load(tiny) as model:
        thread = threading.Thread(target=talk, args=(model,))
        thread.start()
        assert begun.wait(60)
        for event in model.generate(replace(ASK, prompt=LONG, max_tokens=1)):
            if isinstance(event, PromptProgress):
                order.append("piece")
        thread.join(60)
    first, last = order.index("piece"), len(order) - order[::-1].index("piece")
    assert order[first:last].count("piece") > 10
    assert order[first:last].count("token") > 5


def test_one_place_serves_streams_that_take_turns_or_stand_still(tiny: Path) -> None:
    with load(tiny, batch=1) as model:
        expected = drawn(model, ASK)
        still = model.generate(replace(ASK, max_tokens=3000))
        next(still)
        streams = [model.generate(replace(ASK, logprobs=0)) for _ in range(4)]
        found: list[list[int]] = [[] for _ in streams]
        running = set(range(4))
        while running:
            for place in sorted(running):
                event = next(streams[place], None)
                if event is None:
                    running.remove(place)
                elif isinstance(event, TextDelta):
                    found[place] += [token.chosen.token for token in event.sampled]
        assert found == [[token.token for token in expected]] * 4


def test_what_is_abandoned_is_computed_no_further_and_the_thread_ends(tiny: Path) -> None:
    with load(tiny) as model:
        streams = [model.generate(replace(ASK, max_tokens=3000)) for _ in range(3)]
        for stream in streams:
            next(stream)
            next(stream)
        threads = [thread for thread in threading.enumerate() if thread.name == "metalchat-mlx-scheduler"]
        assert len(threads) == 1
        for stream in streams:
            stream.close()  # type: ignore[attr-defined]
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        assert len(drawn(model, ASK)) == 24


@pytest.mark.skipif(sys.platform != "linux", reason="threads that Python does not know are counted in /proc")
def test_answers_leave_no_thread_behind(tiny: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "import mlx.core as mx\n"
        "from metalchat_engine import EngineSettings, GenerationRequest, ModelSource\n"
        "from metalchat_engine_mlx import MlxEngine\n"
        "tasks, seen = Path('/proc/self/task'), []\n"
        "with MlxEngine().load(ModelSource(path=Path(sys.argv[1])), EngineSettings()) as model:\n"
        "    for _ in range(16):\n"
        "        list(model.generate(GenerationRequest(prompt='Hello', max_tokens=2)))\n"
        "        mx.clear_cache()\n"
        "        seen.append(len(list(tasks.iterdir())))\n"
        "print(seen[-1] - seen[3])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4


@pytest.mark.parametrize(
    ("error", "seen"), [(RuntimeError("[malloc] Unable to allocate"), OutOfMemory), (KeyError("strange"), KeyError)]
)
def test_what_goes_wrong_is_told_to_whom_it_concerns_alone(
    error: Exception, seen: type[Exception], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Sampler):
        def __call__(self, logits: mx.array, allowed: mx.array | None = None) -> mx.array:
            self.count = getattr(self, "count", 0) + 1
            if self._temperature == 7 and self.count == 5:
                raise error
            return super().__call__(logits, allowed)

    monkeypatch.setattr(model_module, "Sampler", Failing)
    with load(tiny) as model, ThreadPoolExecutor(4) as pool:
        expected = tokens([drawn(model, ASK)])
        others = [pool.submit(drawn, model, ASK) for _ in range(3)]
        with pytest.raises(seen):
            collect(model, replace(ASK, sampling=Sampling(temperature=7, seed=1)))
        assert tokens([other.result() for other in others]) == expected * 3
        assert tokens([drawn(model, ASK)]) == expected


def test_closing_ends_waiting_and_running_answers_alike(tiny: Path) -> None:
    model = load(tiny, batch=1)
    streams = [model.generate(replace(ASK, max_tokens=3000)) for _ in range(4)]
    for stream in streams[:2]:
        next(stream)
    model.close()
    for stream in streams:
        with pytest.raises(ModelClosed):
            list(stream)
    assert not [thread for thread in threading.enumerate() if thread.name == "metalchat-mlx-scheduler"]


def test_a_process_may_end_in_the_middle_of_answers(tiny: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from metalchat_engine import EngineSettings, GenerationRequest, ModelSource\n"
        "from metalchat_engine_mlx import MlxEngine\n"
        "model = MlxEngine().load(ModelSource(path=Path(sys.argv[1])), EngineSettings())\n"
        "streams = [model.generate(GenerationRequest(prompt='the', max_tokens=3000)) for _ in range(3)]\n"
        "for stream in streams: next(stream)\n"
        "print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
