"""The conformance kit: what every engine must do, as a pytest class that its tests subclass."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any, ClassVar

import pytest

from metalchat_engine.engine import (
    SPI_VERSION,
    Engine,
    EngineSettings,
    Model,
    ModelSource,
    SupportsDiagnosis,
    SupportsEmbedding,
    SupportsMemoryEstimate,
    SupportsPromptState,
    SupportsTokenCount,
)
from metalchat_engine.errors import ContextTooLong, EngineError, ModelClosed, UnsupportedRequest
from metalchat_engine.messages import Message
from metalchat_engine.request import GenerationRequest, Sampling
from metalchat_engine.testing._answer import Answer, collect
from metalchat_engine.testing._capabilities import CapabilityContract

_MALFORMED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("temperature", {"sampling": Sampling(temperature=math.nan)}),
    ("temperature", {"sampling": Sampling(temperature=-1)}),
    ("top_p", {"sampling": Sampling(top_p=0)}),
    ("top_k", {"sampling": Sampling(top_k=-1)}),
    ("min_p", {"sampling": Sampling(min_p=2)}),
    ("max_tokens", {"max_tokens": 0}),
    ("stop", {"stop": ("",)}),
    ("tool_choice", {"tool_choice": "required"}),
    ("prompt", {"prompt": "Once", "messages": (Message.user("Once"),)}),
    ("messages", {"prompt": None, "messages": ()}),
)


class EngineContract(CapabilityContract):
    """What every engine must do. A subclass names its engine and a model that it can load:

        class TestMyEngine(EngineContract):
            @pytest.fixture
            def engine(self):
                return MyEngine()

            @pytest.fixture
            def source(self):
                return ModelSource(path=MODELS / "tiny")

    A model of random weights will do, if it answers one of `prompts` with 8 tokens or more. The fixture
    `settings` may be overridden, and so may `prompts`, `length` and `context_length`.
    """

    context_length: ClassVar[int] = 64
    """The cap that the tests of the context length load the model with."""

    def test_the_engine_speaks_this_version_of_the_contract(self, engine: Engine) -> None:
        assert engine.spi_version == SPI_VERSION

    def test_inspect_agrees_with_load(self, engine: Engine, source: ModelSource, settings: EngineSettings) -> None:
        inspection = engine.inspect(source)
        assert inspection.loadable, inspection.reason
        assert inspection.reason is None
        with engine.load(source, settings) as model:
            info = model.info
        assert info.name
        assert info.vocab_size > 0
        assert info.memory_bytes >= 0
        assert inspection.capabilities == info.capabilities
        assert inspection.architecture in (None, info.architecture)
        assert inspection.dtype in (None, info.dtype)
        assert inspection.quantization in (None, info.quantization)
        if inspection.context_length is not None:
            assert 0 < info.context_length <= inspection.context_length

    def test_a_missing_path_is_reported_by_inspect_and_raised_by_load(
        self, engine: Engine, source: ModelSource, settings: EngineSettings, tmp_path: Path
    ) -> None:
        missing = replace(source, path=tmp_path / "missing")
        inspection = engine.inspect(missing)
        assert not inspection.loadable
        assert inspection.reason
        assert "\n" not in inspection.reason
        with pytest.raises(EngineError):
            engine.load(missing, settings)

    @pytest.mark.parametrize(
        ("option", "change"),
        [
            ("no-such-setting", {"extra": {"no-such-setting": 1}}),
            ("context_length", {"context_length": 0}),
            ("prefill_chunk", {"prefill_chunk": 0}),
        ],
    )
    def test_a_setting_that_is_unknown_or_out_of_range_is_refused(
        self, engine: Engine, source: ModelSource, settings: EngineSettings, option: str, change: dict[str, Any]
    ) -> None:
        if "extra" in change:
            change = {"extra": {**settings.extra, **change["extra"]}}
        with pytest.raises(UnsupportedRequest, match=option) as caught:
            engine.load(source, replace(settings, **change))
        assert caught.value.option == option

    def test_a_stream_ends_with_its_only_finish_and_its_usage_adds_up(self, model: Model) -> None:
        _, answer = self.speak(model)
        usage, timings = answer.finish.usage, answer.finish.timings
        assert usage.prompt_tokens > 0
        assert 0 < usage.completion_tokens <= self.length
        assert 0 <= usage.cached_tokens <= usage.prompt_tokens
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        assert timings.prefill_seconds >= 0
        assert timings.decode_seconds >= 0
        assert timings.peak_memory is None or timings.peak_memory >= 0

    def test_prompt_progress_grows_to_its_total_before_the_answer_begins(self, model: Model) -> None:
        _, answer = self.speak(model)
        progress = answer.progress
        assert answer.events[: len(progress)] == progress
        counts = [step.processed for step in progress]
        assert counts == sorted(counts)
        if progress:
            assert {step.total for step in progress} == {answer.finish.usage.prompt_tokens}
            assert counts[0] >= 0
            assert counts[-1] == progress[-1].total

    def test_deltas_hold_whole_characters_only(self, model: Model) -> None:
        request, answer = self.speak(model)
        for piece in answer.pieces:
            assert not any("\ud800" <= character <= "\udfff" for character in piece), "a lone surrogate"
        halved = collect(model, replace(request, max_tokens=self.length // 2)).text
        assert answer.text.startswith(halved.rstrip("\ufffd"))

    def test_greedy_answers_are_the_same_every_time(self, model: Model) -> None:
        request, answer = self.speak(model)
        again = collect(model, request)
        assert again.text == answer.text
        assert again.finish.reason == answer.finish.reason
        assert again.finish.usage.completion_tokens == answer.finish.usage.completion_tokens

    def test_max_tokens_is_exact(self, model: Model) -> None:
        request, longest = self.speak(model)
        for count in (1, 2, longest.finish.usage.completion_tokens - 1):
            finish = collect(model, replace(request, max_tokens=count)).finish
            assert (finish.reason, finish.usage.completion_tokens) == ("length", count)
            assert finish.stop is None

    def test_a_stop_string_across_tokens_ends_the_answer_and_is_not_in_it(self, model: Model) -> None:
        request, answer = self.speak(model)
        for stop in (_across(answer), answer.text[:1]):
            stopped = collect(model, replace(request, stop=(stop,)))
            assert stopped.text == answer.text.split(stop)[0]
            assert (stopped.finish.reason, stopped.finish.stop) == ("stop", stop)
            assert stopped.finish.usage.completion_tokens <= answer.finish.usage.completion_tokens

    def test_the_beginning_of_a_stop_string_alone_takes_nothing_away(self, model: Model) -> None:
        request, answer = self.speak(model)
        stops = (_across(answer) + "\0", answer.text[-2:] + "\0")
        unstopped = collect(model, replace(request, stop=stops))
        assert unstopped.text == answer.text
        assert unstopped.finish.stop is None

    def test_closing_the_iterator_cancels_and_the_model_still_answers(self, model: Model) -> None:
        request, answer = self.speak(model)
        for events in (0, 1, 2, 3):
            stream = model.generate(request)
            for _ in range(events):
                next(stream)
            _close(stream)
            assert next(stream, None) is None
        assert collect(model, request).text == answer.text

    def test_threads_get_the_answers_they_get_alone(self, model: Model) -> None:
        requests = [self.request(model, prompt) for prompt in (*self.prompts, *self.prompts)][:4]
        alone = [collect(model, request).text for request in requests]
        barrier = Barrier(len(requests))

        def run(request: GenerationRequest) -> str:
            barrier.wait(timeout=60)
            return collect(model, request).text

        with ThreadPoolExecutor(max_workers=len(requests)) as pool:
            assert list(pool.map(run, requests)) == alone

    def test_a_conversation_never_changes_the_answer(self, model: Model) -> None:
        request, answer = self.speak(model)
        if request.prompt is None:
            longer = (*request.messages, Message.assistant(answer.text), Message.user(self.prompts[-1]))
            following = replace(request, messages=longer)
        else:
            following = replace(request, prompt=request.prompt + answer.text + self.prompts[-1])
        expected = collect(model, following).text
        collect(model, replace(request, conversation="kept"))
        continued = collect(model, replace(following, conversation="kept"))
        assert continued.text == expected
        collect(model, replace(self.request(model, self.prompts[-1]), conversation="kept"))
        assert collect(model, replace(following, conversation="kept")).text == expected

    @pytest.mark.parametrize(("option", "change"), _MALFORMED)
    def test_a_malformed_request_is_refused_before_any_work(
        self, model: Model, option: str, change: dict[str, Any]
    ) -> None:
        refusal = self.refusal(model, replace(self.request(model), **change))
        assert refusal.option == option
        assert "\n" not in str(refusal)

    def test_a_prompt_longer_than_the_context_is_refused(
        self, engine: Engine, source: ModelSource, settings: EngineSettings
    ) -> None:
        with engine.load(source, replace(settings, context_length=self.context_length)) as model:
            assert model.info.context_length <= self.context_length
            request = self.request(model, "one two " * self.context_length)
            assert isinstance(self.refusal(model, request), ContextTooLong)
            assert self.refusal(model, request).option == "context_length"

    def test_an_answer_ends_where_the_context_does(
        self, engine: Engine, source: ModelSource, settings: EngineSettings
    ) -> None:
        with engine.load(source, replace(settings, context_length=self.context_length)) as model:
            request = GenerationRequest(prompt=self.prompts[0], sampling=Sampling(temperature=0))
            for limit in (None, 10 * self.context_length):
                finish = collect(model, replace(request, max_tokens=limit)).finish
                assert finish.usage.total_tokens <= model.info.context_length
                if finish.reason == "length":
                    assert finish.usage.total_tokens == model.info.context_length

    def test_closing_twice_is_fine_and_a_closed_model_answers_no_more(
        self, engine: Engine, source: ModelSource, settings: EngineSettings
    ) -> None:
        model = engine.load(source, settings)
        request = self.request(model)
        model.close()
        model.close()
        with pytest.raises(ModelClosed):
            next(model.generate(request))

    def test_a_model_is_closed_at_the_end_of_its_with_block(
        self, engine: Engine, source: ModelSource, settings: EngineSettings
    ) -> None:
        with engine.load(source, settings) as model:
            request = self.request(model)
            assert collect(model, request).finish.usage.completion_tokens > 0
        with pytest.raises(ModelClosed):
            next(model.generate(request))

    def test_closing_the_model_ends_an_answer_under_way(
        self, engine: Engine, source: ModelSource, settings: EngineSettings
    ) -> None:
        with engine.load(source, settings) as model:
            request, _ = self.speak(model)
            stream = model.generate(request)
            next(stream)
            model.close()
            with pytest.raises(ModelClosed):
                list(stream)

    def test_nothing_is_written_to_standard_output(
        self,
        engine: Engine,
        source: ModelSource,
        settings: EngineSettings,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        engine.inspect(source)
        with engine.load(source, settings) as model:
            self.speak(model)
        assert capfd.readouterr().out == ""

    def test_the_optional_abilities_of_the_engine_work(
        self, engine: Engine, source: ModelSource, settings: EngineSettings
    ) -> None:
        if isinstance(engine, SupportsMemoryEstimate):
            asked = replace(settings, context_length=self.context_length)
            one, two = (engine.estimate(source, asked, requests=requests) for requests in (1, 2))
            assert (one.context_length, one.requests, two.requests) == (self.context_length, 1, 2)
            assert min(one.weights, one.cache, one.transient) >= 0
            assert (one.weights, two.cache) == (two.weights, 2 * one.cache)
            if one.fits and one.largest_context is not None:
                assert one.largest_context >= self.context_length
        if isinstance(engine, SupportsDiagnosis):
            assert all(line and "\n" not in line for line in engine.diagnose(settings))

    def test_the_optional_abilities_a_model_offers_work(
        self, engine: Engine, source: ModelSource, settings: EngineSettings, model: Model, tmp_path: Path
    ) -> None:
        request, answer = self.speak(model)
        if isinstance(model, SupportsTokenCount) and request.messages:
            assert model.count_tokens(request.messages) == answer.finish.usage.prompt_tokens
        if isinstance(model, SupportsEmbedding):
            vectors = model.embed(self.prompts)
            assert len({len(vector) for vector in vectors}) == 1
            assert len(vectors) == len(self.prompts)
            assert all(math.isfinite(number) for vector in vectors for number in vector)
        if isinstance(model, SupportsPromptState):
            collect(model, replace(request, conversation="kept"))
            model.save_state("kept", tmp_path / "state")
            with engine.load(source, settings) as other:
                assert isinstance(other, SupportsPromptState)
                other.restore_state("kept", tmp_path / "state")
                assert collect(other, replace(request, conversation="kept")).text == answer.text


def _across(answer: Answer) -> str:
    # The last piece is left out: it may end in half a character, which a longer answer completes.
    pieces = answer.pieces
    if len(pieces) < 3:
        middle = len(answer.text) // 2
        return answer.text[middle - 1 : middle + 1]
    middle = (len(pieces) - 1) // 2
    return pieces[middle - 1][-2:] + pieces[middle][:2]


def _close(stream: Iterator[object]) -> None:
    close = getattr(stream, "close", None)
    assert callable(close), "generate must return an iterator with a close method"
    close()
