"""What an answer is made of: its end, its probabilities, its random numbers, its cache."""

import json
import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine import (
    EngineSettings,
    Finish,
    GenerationRequest,
    InvalidModel,
    Message,
    Model,
    ModelClosed,
    ModelSource,
    PromptProgress,
    Sampling,
    SupportsTokenCount,
    TextDelta,
    UnsupportedRequest,
)
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine, MlxModel
from metalchat_engine_mlx.testing import write_tiny_model

GREEDY = Sampling(temperature=0)
ASK = GenerationRequest(prompt="the water is hot and there", sampling=GREEDY, max_tokens=24)


def load(path: Path, *, extra: dict[str, Any] | None = None, **settings: Any) -> Model:
    return MlxEngine().load(ModelSource(path=path, name="tiny"), EngineSettings(extra=extra or {}, **settings))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with load(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")) as loaded:
        yield loaded


def ids(model: Model, request: GenerationRequest) -> list[int]:
    """The tokens of an answer."""
    events = list(model.generate(replace(request, logprobs=0)))
    return [token.chosen.token for event in events if isinstance(event, TextDelta) for token in event.sampled]


@pytest.mark.parametrize("form", [int, lambda token: [3, token]])
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_an_end_token_of_the_model_ends_the_answer(file: str, form: Any, model: Model, tmp_path: Path) -> None:
    answer = ids(model, ASK)
    end = answer[8]
    path = write_tiny_model(tmp_path / "tiny", generation_config={})
    document = json.loads((path / file).read_text()) | {"eos_token_id": form(end)}
    (path / file).write_text(json.dumps(document))
    with load(path) as ending:
        assert ids(ending, ASK) == answer[: answer.index(end)]
        finish = collect(ending, ASK).finish
        assert (finish.reason, finish.stop) == ("stop", None)


def test_the_model_says_how_it_wants_to_be_sampled(model: Model, tmp_path: Path) -> None:
    greedy = collect(model, ASK).text
    path = write_tiny_model(tmp_path / "tiny", generation_config={"do_sample": False, "temperature": 9.0})
    with load(path) as tiny:
        assert collect(tiny, GenerationRequest(prompt=ASK.prompt, max_tokens=24)).text == greedy
        hot = GenerationRequest(prompt=ASK.prompt, max_tokens=24, sampling=Sampling(temperature=5, seed=1))
        assert collect(tiny, hot).text != greedy
    path = write_tiny_model(tmp_path / "narrow", generation_config={"do_sample": True, "temperature": 5.0, "top_k": 1})
    with load(path) as narrow:
        assert collect(narrow, GenerationRequest(prompt=ASK.prompt, max_tokens=24)).text == greedy


def test_logprobs_are_of_the_tokens_and_add_up(model: Model) -> None:
    request = GenerationRequest(prompt=ASK.prompt, sampling=GREEDY, max_tokens=12, logprobs=20)
    events = list(model.generate(request))
    finish = events[-1]
    assert isinstance(finish, Finish)
    sampled = [token for event in events if isinstance(event, TextDelta) for token in event.sampled]
    assert len(sampled) == finish.usage.completion_tokens
    for token in sampled:
        # Greedy: what was chosen is the likeliest.
        assert token.chosen.token == token.alternatives[0].token
        assert token.chosen.logprob == pytest.approx(token.alternatives[0].logprob)
        logprobs = [alternative.logprob for alternative in token.alternatives]
        assert len(logprobs) == 20
        assert logprobs == sorted(logprobs, reverse=True)
        assert sum(map(math.exp, logprobs)) <= 1.0001
        assert len({alternative.token for alternative in token.alternatives}) == 20


def test_a_seed_gives_the_same_answer_whoever_else_is_answered(model: Model) -> None:
    def request(seed: int | None) -> GenerationRequest:
        return GenerationRequest(prompt=ASK.prompt, max_tokens=24, sampling=Sampling(temperature=1.5, seed=seed))

    alone = [collect(model, request(seed)).text for seed in (1, 2, 2**64 - 1)]
    assert len(set(alone)) == 3
    streams = [model.generate(request(seed)) for seed in (1, None, 2, 2**64 - 1)]
    texts = ["", "", "", ""]
    running = set(range(4))
    while running:
        for place in sorted(running):
            event = next(streams[place], None)
            if event is None:
                running.remove(place)
            elif isinstance(event, TextDelta):
                texts[place] += event.text
    assert [texts[0], *texts[2:]] == alone


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=3, top_k=1),
        Sampling(temperature=3, top_p=1e-6),
        Sampling(temperature=3, min_p=1.0),
        Sampling(temperature=1e-9),
        Sampling(temperature=0, top_k=5, top_p=0.5, min_p=0.5),
    ],
)
def test_what_leaves_one_token_is_greedy(sampling: Sampling, model: Model) -> None:
    expected = ids(model, ASK)
    assert ids(model, GenerationRequest(prompt=ASK.prompt, max_tokens=24, sampling=sampling)) == expected


def test_penalties_and_biases_change_what_is_said(model: Model) -> None:
    plain = ids(model, ASK)
    repeated = len(plain) - len(set(plain))
    assert repeated > 0

    def said(**sampling: Any) -> list[int]:
        return ids(model, replace(ASK, sampling=Sampling(temperature=0, **sampling)))

    for penalty in ({"repetition_penalty": 100.0}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}):
        answer = said(**penalty)
        assert len(answer) - len(set(answer)) < repeated
    assert said(repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0) == plain
    assert plain[0] not in said(logit_bias={plain[0]: -100.0})
    assert said(logit_bias={7: 100.0}) == [7] * 24


def test_a_conversation_computes_only_what_is_new(model: Model) -> None:
    first = (Message.user("how are you"),)
    request = GenerationRequest(messages=first, sampling=GREEDY, max_tokens=8, conversation="c")
    answer = collect(model, request)
    assert answer.finish.usage.cached_tokens == 0
    messages = (*first, Message.assistant(answer.text), Message.user("and they"))
    following = GenerationRequest(messages=messages, sampling=GREEDY, max_tokens=8, conversation="c")
    cached = collect(model, following).finish.usage.cached_tokens
    assert cached >= answer.finish.usage.prompt_tokens - 2
    events = list(model.generate(following))
    assert isinstance(events[0], PromptProgress)
    assert events[0].processed == collect(model, following).finish.usage.prompt_tokens - 1
    other = GenerationRequest(messages=messages, sampling=GREEDY, max_tokens=8, conversation="d")
    assert collect(model, other).finish.usage.cached_tokens > cached


def test_an_abandoned_answer_leaves_a_cache_that_is_right(model: Model) -> None:
    request = GenerationRequest(prompt=ASK.prompt, sampling=GREEDY, max_tokens=24, conversation="left")
    expected = collect(model, ASK).text
    for count in range(1, 6):
        stream = model.generate(request)
        for _ in range(count):
            next(stream)
        stream.close()
        assert collect(model, request).text == expected


def test_prefill_reports_every_chunk(tmp_path: Path) -> None:
    with load(write_tiny_model(tmp_path / "tiny"), prefill_chunk=5, extra={"prefix_cache_bytes": 0}) as model:
        events: list[Any] = list(model.generate(GenerationRequest(prompt="the" * 12, sampling=GREEDY, max_tokens=2)))
        progress = [(event.processed, event.total) for event in events if isinstance(event, PromptProgress)]
        total = events[-1].usage.prompt_tokens
        assert total > 10
        assert progress == [*((done, total) for done in range(5, total, 5)), (total, total)]


def test_timings_and_memory_are_told(model: Model) -> None:
    finish = collect(model, ASK).finish
    assert finish.timings.prefill_seconds > 0
    assert finish.timings.decode_seconds > 0
    assert finish.timings.peak_memory is not None
    assert finish.timings.peak_memory >= model.info.memory_bytes


def test_tokens_are_counted_without_running_them(model: Model) -> None:
    assert isinstance(model, SupportsTokenCount)
    messages = (Message.user("how are you"),)
    request = GenerationRequest(messages=messages, sampling=GREEDY, max_tokens=1)
    assert model.count_tokens(messages) == collect(model, request).finish.usage.prompt_tokens


def test_a_token_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny", vocab_size=320)
    with load(path) as model, pytest.raises(InvalidModel, match="the tokenizer gives the token") as caught:
        model.generate(GenerationRequest(messages=(Message.user("how are you"),)))
    assert str(caught.value).endswith("'vocab_size' is 320")


def test_a_conversation_that_the_template_refuses_is_the_callers_fault(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny")
    (path / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    with load(path) as model, pytest.raises(UnsupportedRequest, match="roles must alternate"):
        model.generate(GenerationRequest(messages=(Message.user("how are you"),)))


def test_a_damaged_tokenizer_is_refused_at_load(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny")
    (path / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(InvalidModel, match=r"'tokenizer\.json' could not be used"):
        load(path)
    (path / "tokenizer.json").unlink()
    assert str(MlxEngine().inspect(ModelSource(path=path, name="x")).reason) == "'x' has no tokenizer.json"


def test_closing_while_threads_answer_ends_them_all(tmp_path: Path) -> None:
    model = load(write_tiny_model(tmp_path / "tiny"))
    begun = threading.Barrier(4, timeout=60)
    ends: list[type[BaseException]] = []

    def run() -> None:
        try:
            for place, _ in enumerate(model.generate(GenerationRequest(prompt="the", sampling=Sampling(seed=1)))):
                if place == 1:
                    begun.wait()
        except ModelClosed as error:
            ends.append(type(error))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait()
    model.close()
    for thread in threads:
        thread.join(60)
    assert ends == [ModelClosed] * 3


def test_dtypes_devices_and_sharded_files_give_one_answer(tmp_path: Path, model: Model) -> None:
    expected = ids(model, ASK)
    sharded = write_tiny_model(tmp_path / "sharded", shards=3)
    for extra in ({}, {"threads": 1}, {"threads": 3}, {"device": "cpu", "dtype": "float32"}):
        with load(sharded, extra=extra) as other:
            assert ids(other, ASK) == expected
    with load(sharded, extra={"dtype": "bfloat16"}) as half:
        assert half.info.dtype == "bfloat16"
        assert half.info.memory_bytes < model.info.memory_bytes * 0.6


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch", 0),
        ("deterministic", 1),
        ("device", "tpu"),
        ("dtype", "int8"),
        ("prefix_cache_bytes", -1),
        ("save_states", "no"),
        ("state_bytes", -1),
        ("state_directory", "here"),
        ("threads", 0),
        ("threads", True),
    ],
)
def test_a_setting_out_of_range_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedRequest, match=f"engine setting '{key}' must be") as caught:
        load(tmp_path, extra={key: value})
    assert caught.value.option == key


def test_a_model_may_be_made_where_another_thread_asks(tmp_path: Path) -> None:
    made: list[Model] = []
    thread = threading.Thread(target=lambda: made.append(load(write_tiny_model(tmp_path / "tiny", bits=4))))
    thread.start()
    thread.join(60)
    with made[0] as model:
        assert isinstance(model, MlxModel)
        assert len(ids(model, ASK)) == 24
