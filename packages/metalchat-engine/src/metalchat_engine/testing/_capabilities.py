"""The part of the conformance kit about capabilities: what is declared works, the rest is refused."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import pytest

from metalchat_engine.engine import Engine, EngineSettings, Model, ModelSource
from metalchat_engine.errors import UnsupportedRequest
from metalchat_engine.messages import ImagePart, Message, TextPart, Tool, ToolCallPart, ToolResultPart
from metalchat_engine.request import Constraint, GenerationRequest, Grammar, JsonSchema, Regex, Sampling
from metalchat_engine.testing._answer import Answer, collect

_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_TOOL = Tool(
    name="weather",
    description="The weather in a city.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)


class CapabilityContract:
    """Fixtures and helpers of the kit, and one test for every capability."""

    prompts: ClassVar[tuple[str, ...]] = (
        "Once upon a time there was a small house near the sea",
        "The best way to learn how a bridge is built is to build one",
        "List the colours that you can see in a rainbow, and say why",
        "My neighbour has two cats, three dogs and a very old green parrot",
    )
    length: ClassVar[int] = 16
    """The most tokens that a test asks for."""

    @pytest.fixture
    def engine(self) -> Engine:
        pytest.fail("define the fixture `engine`: an instance of the engine under test")

    @pytest.fixture
    def source(self) -> ModelSource:
        pytest.fail("define the fixture `source`: a ModelSource that the engine loads")

    @pytest.fixture
    def settings(self) -> EngineSettings:
        return EngineSettings()

    @pytest.fixture
    def model(self, engine: Engine, source: ModelSource, settings: EngineSettings) -> Iterator[Model]:
        with engine.load(source, settings) as model:
            yield model

    def request(self, model: Model, prompt: str | None = None) -> GenerationRequest:
        """A greedy request of `length` tokens: messages where the model takes them, else a raw prompt."""
        text = self.prompts[0] if prompt is None else prompt
        greedy = GenerationRequest(sampling=Sampling(temperature=0), max_tokens=self.length)
        if model.info.capabilities.messages:
            return replace(greedy, messages=(Message.user(text),))
        return replace(greedy, prompt=text)

    def speak(self, model: Model) -> tuple[GenerationRequest, Answer]:
        """The first of `prompts` that the model answers at some length, and that answer."""
        for prompt in self.prompts:
            request = self.request(model, prompt)
            answer = collect(model, request)
            if answer.finish.usage.completion_tokens >= self.length // 2 and len(answer.text) >= 4:
                return request, answer
        pytest.fail(f"the model answers none of `prompts` with {self.length // 2} tokens of text; override them")

    def refusal(self, model: Model, request: GenerationRequest) -> UnsupportedRequest:
        """The error with which the model refuses the request before its first event."""
        with pytest.raises(UnsupportedRequest) as caught:
            next(model.generate(request))
        return caught.value

    def declared(self, model: Model, capability: str, request: GenerationRequest, *, option: str) -> bool:
        """Whether the capability is declared; if it is not, asserts that the request is refused."""
        declared: bool = getattr(model.info.capabilities, capability)
        if not declared:
            assert self.refusal(model, request).option == option
        return declared

    def test_messages_are_answered_or_refused(self, model: Model) -> None:
        request = replace(self.request(model), prompt=None, messages=(Message.system("Be brief."), Message.user("Hi")))
        if self.declared(model, "messages", request, option="messages"):
            assert collect(model, request).finish.usage.prompt_tokens > 0

    def test_a_raw_prompt_is_answered(self, model: Model) -> None:
        request = replace(self.request(model), messages=(), prompt=self.prompts[0])
        assert collect(model, request).finish.usage.prompt_tokens > 0

    def test_the_same_seed_gives_the_same_tokens_or_is_refused(self, model: Model) -> None:
        request = replace(self.request(model), sampling=Sampling(temperature=1, seed=7))
        if self.declared(model, "seed", request, option="seed"):
            if model.info.capabilities.logprobs:
                request = replace(request, logprobs=0)
            first, second = collect(model, request), collect(model, request)
            assert first.text == second.text
            assert [token.chosen.token for token in first.sampled] == [token.chosen.token for token in second.sampled]
            assert first.finish.usage.completion_tokens == second.finish.usage.completion_tokens

    def test_logprobs_are_given_for_every_token_or_refused(self, model: Model) -> None:
        request = replace(self.request(model), logprobs=2)
        if self.declared(model, "logprobs", request, option="logprobs"):
            answer = collect(model, request)
            tokens = answer.sampled
            assert len(tokens) == answer.finish.usage.completion_tokens
            for token in tokens:
                scores = [alternative.logprob for alternative in token.alternatives]
                assert len(scores) == min(2, model.info.vocab_size)
                assert scores == sorted(scores, reverse=True)
                assert token.chosen.logprob <= 1e-6
                assert token.chosen.logprob == pytest.approx(scores[0], abs=1e-3)

    def test_logit_bias_bans_a_token_or_is_refused(self, model: Model) -> None:
        request = replace(self.request(model), max_tokens=1)
        biased = replace(request, sampling=Sampling(temperature=0, logit_bias={0: -100}))
        if self.declared(model, "logit_bias", biased, option="logit_bias"):
            assert collect(model, biased).finish.usage.completion_tokens <= 1
            if model.info.capabilities.logprobs:
                first = collect(model, replace(request, logprobs=0)).sampled[0].chosen.token
                banned = replace(request, logprobs=0, sampling=Sampling(temperature=0, logit_bias={first: -100}))
                assert collect(model, banned).sampled[0].chosen.token != first

    def test_an_adapter_is_one_that_was_loaded_or_is_refused(self, model: Model) -> None:
        request = replace(self.request(model), adapter="no such adapter")
        if self.declared(model, "adapters", request, option="adapter"):
            assert self.refusal(model, request).option == "adapter"
            for name in model.info.adapters:
                assert collect(model, replace(request, adapter=name)).finish.usage.completion_tokens > 0
        else:
            assert model.info.adapters == ()

    @pytest.mark.parametrize(
        ("option", "sampling"),
        [
            ("repetition_penalty", Sampling(temperature=0, repetition_penalty=1.3)),
            ("presence_penalty", Sampling(temperature=0, presence_penalty=0.5)),
            ("frequency_penalty", Sampling(temperature=0, frequency_penalty=0.5)),
        ],
    )
    def test_penalties_are_taken_or_refused(self, model: Model, option: str, sampling: Sampling) -> None:
        request = replace(self.request(model), sampling=sampling)
        if self.declared(model, "penalties", request, option=option):
            answer = collect(model, request)
            assert answer.text == collect(model, request).text
            assert answer.finish.usage.completion_tokens > 0

    @pytest.mark.parametrize(
        ("capability", "constraint", "pattern"),
        [
            ("json_schema", JsonSchema(schema={"enum": ["yes", "no"]}), r'\s*"(yes|no)"\s*'),
            ("regex", Regex(pattern="[ab]{3}"), "[ab]{3}"),
            ("grammar", Grammar(grammar='start: "yes" | "no"'), "yes|no"),
        ],
    )
    def test_a_constraint_shapes_the_answer_or_is_refused(
        self, model: Model, capability: str, constraint: Constraint, pattern: str
    ) -> None:
        request = replace(self.request(model), constraint=constraint)
        if self.declared(model, capability, request, option="constraint"):
            answer = collect(model, request)
            # JSON allows any amount of white space, with which a model of random weights may fill its answer.
            if answer.finish.reason == "stop" or capability != "json_schema":
                assert re.fullmatch(pattern, answer.text)

    def test_tools_are_offered_or_refused(self, model: Model) -> None:
        request = replace(self.request(model), tools=(_TOOL,))
        if not self.declared(model, "tools", request, option="tools"):
            call = ToolCallPart(id="1", name="weather", arguments='{"city": "Oslo"}')
            result = ToolResultPart(call_id="1", name="weather", content="Rain.")
            turns = (
                Message.user("Will it rain in Oslo?"),
                Message(role="assistant", parts=(call,)),
                Message(role="tool", parts=(result,)),
            )
            refusal = self.refusal(model, replace(request, prompt=None, tools=(), messages=turns))
            assert refusal.option == "messages"
            return
        answer = collect(model, request)
        assert (answer.finish.reason == "tool_calls") == bool(answer.tool_calls)
        for call in answer.tool_calls:
            assert call.name == _TOOL.name
            assert isinstance(json.loads(call.arguments), dict)
        assert not collect(model, replace(request, tool_choice="none")).tool_calls

    def test_images_are_seen_or_refused(self, model: Model) -> None:
        image = ImagePart(data=_PIXEL, media_type="image/png")
        message = Message(role="user", parts=(image, TextPart(text="What is this?")))
        request = replace(self.request(model), prompt=None, messages=(message,))
        if self.declared(model, "images", request, option="messages"):
            assert collect(model, request).finish.usage.prompt_tokens > 1
