"""The conformance kit notices what an engine does wrong."""

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine import (
    Capabilities,
    EngineSettings,
    Event,
    Finish,
    GenerationRequest,
    Inspection,
    ModelSource,
    PromptProgress,
    Sampling,
    TextDelta,
)
from metalchat_engine.testing import EchoEngine, EchoModel, EngineContract

Fault = Callable[[EchoModel, GenerationRequest], Iterator[Event]]


class FaultyModel:
    """An EchoModel whose generate is somebody else's."""

    def __init__(self, model: EchoModel, fault: Fault) -> None:
        self.info = model.info
        self.model = model
        self.fault = fault
        self.close = model.close

    def generate(self, request: GenerationRequest) -> Iterator[Event]:
        return self.fault(self.model, request)

    def __enter__(self) -> "FaultyModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.model.close()


class FaultyEngine(EchoEngine):
    def __init__(self, fault: Fault, **options: Any) -> None:
        super().__init__(**options)
        self.fault = fault

    def load(self, source: ModelSource, settings: EngineSettings) -> Any:
        return FaultyModel(super().load(source, settings), self.fault)


def each(change: Callable[[Event], list[Event]]) -> Fault:
    def fault(model: EchoModel, request: GenerationRequest) -> Iterator[Event]:
        with closing(model.generate(request)) as events:  # type: ignore[type-var]
            for event in events:
                yield from change(event)

    return fault


def asks(change: Callable[[GenerationRequest], GenerationRequest]) -> Fault:
    return lambda model, request: model.generate(change(request))


def drawn(model: EchoModel, request: GenerationRequest) -> Iterator[Event]:
    prompt = " ".join(random.choices(["a", "b", "c"], k=30))
    return model.generate(replace(request, messages=(), prompt=prompt))


def listed(model: EchoModel, request: GenerationRequest) -> Iterator[Event]:
    return iter(list(model.generate(request)))


def halved(event: Event) -> list[Event]:
    return [TextDelta(text="\ud83d"), TextDelta(text="\ude00")] if isinstance(event, TextDelta) else [event]


def miscounted(event: Event) -> list[Event]:
    if not isinstance(event, Finish):
        return [event]
    return [replace(event, usage=replace(event.usage, cached_tokens=event.usage.prompt_tokens + 1))]


MODEL_FAULTS: dict[str, tuple[str, Fault]] = {
    "two finishes": (
        "a_stream_ends_with_its_only_finish_and_its_usage_adds_up",
        each(lambda event: [event, event] if isinstance(event, Finish) else [event]),
    ),
    "no finish": (
        "a_stream_ends_with_its_only_finish_and_its_usage_adds_up",
        each(lambda event: [] if isinstance(event, Finish) else [event]),
    ),
    "text after the finish": (
        "a_stream_ends_with_its_only_finish_and_its_usage_adds_up",
        each(lambda event: [event, TextDelta(text="!")] if isinstance(event, Finish) else [event]),
    ),
    "more cached than there is": ("a_stream_ends_with_its_only_finish_and_its_usage_adds_up", each(miscounted)),
    "progress that stops short": (
        "prompt_progress_grows_to_its_total_before_the_answer_begins",
        each(lambda event: [replace(event, processed=1)] if isinstance(event, PromptProgress) else [event]),
    ),
    "progress after the answer": (
        "prompt_progress_grows_to_its_total_before_the_answer_begins",
        each(lambda event: [PromptProgress(processed=1, total=1), event] if isinstance(event, Finish) else [event]),
    ),
    "half characters": ("deltas_hold_whole_characters_only", each(halved)),
    "a draw instead of greed": ("greedy_answers_are_the_same_every_time", drawn),
    "another seed": ("the_same_seed_gives_the_same_tokens_or_is_refused", drawn),
    "one token too many": (
        "max_tokens_is_exact",
        asks(lambda request: replace(request, max_tokens=(request.max_tokens or 1) + 1)),
    ),
    "stop strings ignored": (
        "a_stop_string_across_tokens_ends_the_answer_and_is_not_in_it",
        asks(lambda request: replace(request, stop=())),
    ),
    "a stop string's beginning that ends the answer": (
        "the_beginning_of_a_stop_string_alone_takes_nothing_away",
        asks(lambda request: replace(request, stop=tuple(stop[:-1] for stop in request.stop))),
    ),
    "no close": ("closing_the_iterator_cancels_and_the_model_still_answers", listed),
    "answers of others": ("threads_get_the_answers_they_get_alone", drawn),
    "a conversation that answers": (
        "a_conversation_never_changes_the_answer",
        asks(lambda request: replace(request, max_tokens=3) if request.conversation else request),
    ),
}


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    return ModelSource(path=tmp_path)


def fails(test: str, *arguments: Any) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(EngineContract(), f"test_{test}")(*arguments)


@pytest.mark.parametrize("name", MODEL_FAULTS)
def test_a_faulty_model_fails(name: str, source: ModelSource) -> None:
    test, fault = MODEL_FAULTS[name]
    with FaultyEngine(fault).load(source, EngineSettings()) as model:
        fails(test, model)
    with EchoEngine().load(source, EngineSettings()) as model:
        getattr(EngineContract(), f"test_{test}")(model)


@pytest.mark.parametrize(
    "test",
    [
        "the_same_seed_gives_the_same_tokens_or_is_refused",
        "logprobs_are_given_for_every_token_or_refused",
        "logit_bias_bans_a_token_or_is_refused",
        "tools_are_offered_or_refused",
        "images_are_seen_or_refused",
        "messages_are_answered_or_refused",
    ],
)
def test_an_engine_that_takes_what_it_does_not_declare_fails(test: str, source: ModelSource) -> None:
    careless = asks(lambda request: GenerationRequest(prompt="whatever it was"))
    engine = FaultyEngine(careless, capabilities=Capabilities(messages=False))
    with engine.load(source, EngineSettings()) as model:
        fails(test, model)


def test_an_engine_that_declares_logprobs_and_gives_none_fails(source: ModelSource) -> None:
    with EchoEngine(capabilities=Capabilities(logprobs=True)).load(source, EngineSettings()) as model:
        fails("logprobs_are_given_for_every_token_or_refused", model)


@pytest.mark.parametrize("change", [{"sampling": Sampling(temperature=-1)}, {"max_tokens": 0}])
def test_an_engine_that_takes_a_malformed_request_fails(change: dict[str, Any], source: ModelSource) -> None:
    careless = asks(lambda request: GenerationRequest(prompt="whatever it was"))
    with FaultyEngine(careless).load(source, EngineSettings()) as model:
        fails("a_malformed_request_is_refused_before_any_work", model, next(iter(change)), change)


def test_an_engine_that_inspects_what_is_not_there_fails(source: ModelSource, tmp_path: Path) -> None:
    class Credulous(EchoEngine):
        def inspect(self, source: ModelSource) -> Inspection:
            return Inspection(loadable=True)

    test = "a_missing_path_is_reported_by_inspect_and_raised_by_load"
    fails(test, Credulous(), source, EngineSettings(), tmp_path)
    fails("inspect_agrees_with_load", Credulous(), source, EngineSettings())


def test_an_engine_that_prints_fails(source: ModelSource, capfd: pytest.CaptureFixture[str]) -> None:
    engine = EchoEngine(on_token=lambda: print("token"))
    fails("nothing_is_written_to_standard_output", engine, source, EngineSettings(), capfd)


def test_a_model_that_answers_after_close_fails(source: ModelSource) -> None:
    def deaf(model: EchoModel, request: GenerationRequest) -> Iterator[Event]:
        return EchoEngine().load(source, EngineSettings()).generate(request)

    for test in (
        "closing_twice_is_fine_and_a_closed_model_answers_no_more",
        "a_model_is_closed_at_the_end_of_its_with_block",
        "closing_the_model_ends_an_answer_under_way",
    ):
        fails(test, FaultyEngine(deaf), source, EngineSettings())


def test_a_model_that_overruns_its_context_fails(source: ModelSource) -> None:
    def endless(model: EchoModel, request: GenerationRequest) -> Iterator[Event]:
        return EchoEngine(["word " * 100]).load(source, EngineSettings()).generate(request)

    for test in ("a_prompt_longer_than_the_context_is_refused", "an_answer_ends_where_the_context_does"):
        fails(test, FaultyEngine(endless), source, EngineSettings())


def test_a_model_that_says_nothing_is_told_apart(source: ModelSource) -> None:
    model = EchoEngine([""] * 4).load(source, EngineSettings())
    with pytest.raises(pytest.fail.Exception, match="override them"):
        EngineContract().speak(model)


def test_a_subclass_without_fixtures_is_told_what_to_define(tmp_path: Path) -> None:
    for name in ("engine", "source"):
        fixture = getattr(EngineContract, name)
        with pytest.raises(pytest.fail.Exception, match=f"define the fixture `{name}`"):
            fixture.__wrapped__(EngineContract())
