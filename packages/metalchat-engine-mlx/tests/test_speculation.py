"""Tokens that are guessed ahead change how fast an answer comes, and nothing else."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine import (
    EngineError,
    EngineSettings,
    GenerationRequest,
    JsonSchema,
    Model,
    ModelSource,
    Regex,
    Sampling,
    TextDelta,
    TokenLogprob,
    UnsupportedRequest,
    Usage,
)
from metalchat_engine.testing import EngineContract, collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.lookup import Lookup
from metalchat_engine_mlx.testing import write_tiny_model

TEXT = "the water is hot and there is more of it than you said, "
ASK = GenerationRequest(prompt=TEXT * 3, sampling=Sampling(temperature=0), max_tokens=40)
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "packed": {"bits": 4},
    "windows": {
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "head_dim": 32,
        "query_pre_attn_scalar": 24,
        "sliding_window": 8,
        "sliding_window_pattern": 2,
    },
    "experts": {
        "model_type": "qwen3_moe",
        "head_dim": 32,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
    },
    # The rope changes in the middle of the answer: with every token, and once.
    "dynamic": {"max_position_embeddings": 64, "rope_scaling": {"rope_type": "dynamic", "factor": 8.0}},
    "longrope": {
        "model_type": "phi3",
        "max_position_embeddings": 512,
        "original_max_position_embeddings": 64,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8},
    },
}


def load(path: Path, **extra: Any) -> Model:
    return MlxEngine().load(ModelSource(path=path, name="tiny"), EngineSettings(prefill_chunk=16, extra=extra))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("speculation") / "tiny", max_position_embeddings=4096)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A draft that agrees now and then, with one layer and a vocabulary that is padded further."""
    directory = tmp_path_factory.mktemp("speculation") / "draft"
    return write_tiny_model(directory, max_position_embeddings=4096, num_hidden_layers=1, vocab_size=560, seed=3)


def answer(model: Model, request: GenerationRequest) -> tuple[list[TokenLogprob], Usage]:
    found = collect(model, replace(request, logprobs=0))
    said = [event for event in found.events if isinstance(event, TextDelta)]
    return [token.chosen for event in said for token in event.sampled], found.finish.usage


def ids(answers: Sequence[Sequence[TokenLogprob]]) -> list[list[int]]:
    return [[token.token for token in answer] for answer in answers]


def varied() -> list[GenerationRequest]:
    """Requests of every kind, of different lengths."""
    return [
        ASK,
        replace(ASK, sampling=Sampling(temperature=0.7, seed=1), max_tokens=33),
        replace(ASK, sampling=Sampling(temperature=1.5, top_k=5, top_p=0.9, seed=2)),
        replace(ASK, sampling=Sampling(temperature=0, repetition_penalty=1.3, frequency_penalty=0.2)),
        replace(ASK, sampling=Sampling(temperature=1, presence_penalty=0.5, seed=3)),
        replace(ASK, constraint=Regex(pattern="(the water is hot and ){4}"), max_tokens=60),
        replace(ASK, stop=("e",)),
        replace(ASK, prompt="how", max_tokens=1),
        replace(ASK, sampling=Sampling(temperature=0, logit_bias={7: 100.0}), max_tokens=21),
    ]


def guesses(tiny: Path, other: Path) -> list[dict[str, Any]]:
    return [
        {"lookup": 8},
        {"draft": str(other), "draft_tokens": 3},
        {"draft": str(tiny), "draft_tokens": 5},
        {"lookup": 2, "draft": str(other)},
    ]


@pytest.mark.parametrize("how", range(4), ids=["lookup", "draft", "itself", "both"])
def test_answers_are_token_for_token_what_they_are_without(how: int, tiny: Path, other: Path) -> None:
    with load(tiny) as model:
        plain = [answer(model, request) for request in varied()]
    assert all(usage.proposed_tokens == usage.accepted_tokens == 0 for _, usage in plain)
    with load(tiny, **guesses(tiny, other)[how]) as model:
        alone = [answer(model, request) for request in varied()]
        with ThreadPoolExecutor(len(plain)) as pool:
            company = list(pool.map(lambda request: answer(model, request), varied()))
    for found in (alone, company):
        assert ids([tokens for tokens, _ in found]) == ids([tokens for tokens, _ in plain])
        for (tokens, usage), (expected, _) in zip(found, plain, strict=True):
            assert [token.logprob for token in tokens] == pytest.approx([t.logprob for t in expected], abs=1e-3)
            assert 0 <= usage.accepted_tokens <= usage.proposed_tokens
            assert usage.accepted_tokens <= max(usage.completion_tokens, 1) + 8
        assert sum(usage.accepted_tokens for _, usage in found) > 10


@pytest.mark.parametrize(("family", "bits"), [*((family, None) for family in SHAPES), ("windows", 8), ("experts", 4)])
def test_every_family_and_cache_can_go_back(family: str, bits: int | None, tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny", **SHAPES[family])
    # Few tokens to choose from: much has been there before, and half of it goes on otherwise.
    few = Sampling(temperature=1, seed=4, logit_bias={5: 12.0, 6: 12.0})
    requests = [
        replace(ASK, prompt=TEXT + TEXT, max_tokens=90),
        replace(ASK, prompt=TEXT, sampling=few, max_tokens=70),
    ]
    # A draft that is often wrong makes the cache go back often.
    draft = write_tiny_model(tmp_path / "draft", num_hidden_layers=1, seed=5)
    cache = {"cache_bits": bits}
    with load(path, **cache) as model:
        plain = [answer(model, request)[0] for request in requests]
    for how in ({"lookup": 7}, {"draft": str(draft), "draft_tokens": 7}):
        with load(path, **how, **cache) as model:
            found = [answer(model, request) for request in requests]
            assert ids([tokens for tokens, _ in found]) == ids(plain)
            assert sum(usage.proposed_tokens for _, usage in found) > 0


def test_a_draft_that_is_the_model_is_always_right_at_any_temperature(tiny: Path) -> None:
    for sampling in (
        Sampling(temperature=0),
        Sampling(temperature=2, seed=7),
        Sampling(temperature=1, top_p=0.8, repetition_penalty=1.2, presence_penalty=0.4, seed=8),
    ):
        with load(tiny, draft=str(tiny), draft_tokens=4) as model:
            usage = answer(model, replace(ASK, prompt="how are you", sampling=sampling))[1]
        # 40 tokens: the first comes with the prompt, and each step gives four and one more.
        assert (usage.proposed_tokens, usage.accepted_tokens) == (31, 31)


def test_what_repeats_itself_is_looked_up(tiny: Path) -> None:
    with load(tiny, lookup=8) as model:
        loop = replace(ASK, sampling=Sampling(temperature=0, logit_bias={7: 100.0}), max_tokens=64)
        usage = answer(model, loop)[1]
        assert usage.accepted_tokens > 45


def test_guesses_that_are_of_no_use_are_given_up_for_a_while(tiny: Path) -> None:
    with load(tiny, lookup=8) as model:
        request = replace(ASK, sampling=Sampling(temperature=100, seed=1), max_tokens=300)
        # The last tokens have always been there before, and nothing follows from them.
        narrow = replace(request, constraint=Regex(pattern="[ab]{299}"))
        usage = answer(model, narrow)[1]
    assert 0 < usage.proposed_tokens < 8 * usage.completion_tokens / 4


def test_a_long_prompt_is_read_by_the_draft_in_pieces_and_kept_for_the_next(tiny: Path, other: Path) -> None:
    long = replace(ASK, prompt=TEXT * 12, max_tokens=40)
    with load(tiny) as model:
        expected = answer(model, long)[0]
    with load(tiny, draft=str(tiny), draft_tokens=4) as model:
        before = model.info.memory_bytes
        first, second = answer(model, long), answer(model, long)
        assert model.info.memory_bytes > before
    assert ids([first[0], second[0]]) == ids([expected, expected])
    # The second answer finds the prompt read: it is guessed from its second token on.
    assert 0 < first[1].accepted_tokens < second[1].accepted_tokens == 31
    with load(tiny, draft=str(other)) as model, load(tiny) as plain:
        assert plain.info.memory_bytes < model.info.memory_bytes


def test_a_draft_that_reads_less_than_the_model_stops_guessing_there(tiny: Path, tmp_path: Path) -> None:
    short = write_tiny_model(tmp_path / "short", max_position_embeddings=64)
    with load(tiny) as model:
        expected = answer(model, replace(ASK, prompt=TEXT * 2, max_tokens=120))[0]
    with load(tiny, draft=str(short), draft_tokens=4) as model:
        found, usage = answer(model, replace(ASK, prompt=TEXT * 2, max_tokens=120))
    assert ids([found]) == ids([expected])
    assert usage.proposed_tokens < 64


def test_closing_a_stream_and_going_on_keep_what_was_said(tiny: Path) -> None:
    with load(tiny, lookup=8) as model:
        expected = answer(model, ASK)[0]
        stream = model.generate(replace(ASK, logprobs=0))
        next(event for event in stream if isinstance(event, TextDelta))
        assert isinstance(stream, Iterator)
        stream.close()  # type: ignore[attr-defined]
        assert ids([answer(model, ASK)[0]]) == ids([expected])


def test_an_answer_of_a_schema_is_guessed_too(tiny: Path) -> None:
    schema = JsonSchema(schema={"type": "array", "items": {"enum": ["water", "more"]}, "minItems": 9, "maxItems": 9})
    request = replace(ASK, constraint=schema, max_tokens=200)
    with load(tiny) as model:
        expected = collect(model, request)
    with load(tiny, lookup=6) as model:
        found = collect(model, request)
    assert found.text == expected.text
    assert found.finish.reason == expected.finish.reason == "stop"
    assert found.finish.usage.accepted_tokens > 0


@pytest.mark.parametrize(
    ("extra", "option", "words"),
    [
        ({"lookup": -1}, "lookup", "0 to 64"),
        ({"lookup": 4, "deterministic": True}, "lookup", "exclude each other"),
        ({"draft": "/a", "deterministic": True}, "draft", "exclude each other"),
        ({"draft": "relative"}, "draft", "absolute path"),
        ({"draft_tokens": 3}, "draft_tokens", "needs a draft"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(extra: dict[str, Any], option: str, words: str, tiny: Path) -> None:
    with pytest.raises(UnsupportedRequest, match=words) as refused:
        load(tiny, **extra)
    assert refused.value.option == option


def test_a_draft_that_cannot_guess_for_the_model_is_refused_in_one_line(tiny: Path, tmp_path: Path) -> None:
    grown = write_tiny_model(tmp_path / "grown", **SHAPES["dynamic"])
    with pytest.raises(UnsupportedRequest, match="a rope that changes with the length of the text"):
        load(tiny, draft=str(grown))
    foreign = write_tiny_model(tmp_path / "foreign")
    tokenizer = foreign / "tokenizer.json"
    content = json.loads(tokenizer.read_text(encoding="utf-8"))
    first, second = list(content["model"]["vocab"])[:2]
    content["model"]["vocab"] |= {first: content["model"]["vocab"][second], second: content["model"]["vocab"][first]}
    tokenizer.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UnsupportedRequest, match="another vocabulary") as refused:
        load(tiny, draft=str(foreign))
    assert (refused.value.option, "\n" in str(refused.value)) == ("draft", False)
    with pytest.raises(EngineError, match="nowhere"):
        load(tiny, draft=str(tmp_path / "nowhere"))


def test_the_latest_place_is_looked_up_and_a_loop_goes_on() -> None:
    lookup = Lookup()
    assert lookup.propose([1, 2, 3], 4) == []
    assert lookup.propose([1, 2, 3, 4, 1, 2, 3], 4) == [4, 1, 2, 3]
    assert lookup.propose([1, 2, 3, 4, 1, 2, 3, 5, 6, 1, 2, 3], 2) == [5, 6]
    assert Lookup().propose([9, 7, 7, 7, 7], 5) == [7, 7, 7, 7, 7]
    assert Lookup().propose([], 5) == []
    assert Lookup().propose([1, 2], 5) == []


class _Guessing(EngineContract):
    @pytest.fixture
    def engine(self) -> MlxEngine:
        return MlxEngine()

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
        return ModelSource(path=write_tiny_model(tmp_path_factory.mktemp("guessing") / "tiny"))


class TestLookup(_Guessing):
    @pytest.fixture
    def settings(self) -> EngineSettings:
        return EngineSettings(prefill_chunk=16, extra={"lookup": 6})


class TestDraft(_Guessing):
    @pytest.fixture
    def settings(self, source: ModelSource) -> EngineSettings:
        draft = write_tiny_model(source.path.parent / "draft", num_hidden_layers=1, seed=3)
        return EngineSettings(prefill_chunk=16, extra={"draft": str(draft), "draft_tokens": 3})


class TestDraftInACacheOfBits(_Guessing):
    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
        return ModelSource(path=write_tiny_model(tmp_path_factory.mktemp("bits") / "tiny", **SHAPES["windows"]))

    @pytest.fixture
    def settings(self, source: ModelSource) -> EngineSettings:
        draft = write_tiny_model(source.path.parent / "draft", num_hidden_layers=1, seed=3)
        return EngineSettings(prefill_chunk=16, extra={"draft": str(draft), "cache_bits": 8, "lookup": 4})
