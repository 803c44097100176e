"""The engine without a model, held to the contract."""

import threading
from pathlib import Path

import pytest
from metalchat_engine import (
    Capabilities,
    Engine,
    EngineSettings,
    Finish,
    GenerationRequest,
    Message,
    Model,
    ModelClosed,
    ModelSource,
    OutOfMemory,
    ReasoningDelta,
    TextDelta,
    Timings,
    Tool,
    ToolCall,
    Usage,
)
from metalchat_engine.testing import EchoEngine, EngineContract, collect


class TestEchoEngine(EngineContract):
    @pytest.fixture
    def engine(self) -> Engine:
        return EchoEngine()

    @pytest.fixture
    def source(self, tmp_path: Path) -> ModelSource:
        return ModelSource(path=tmp_path)


class TestEchoEngineWithoutAnyCapability(EngineContract):
    @pytest.fixture
    def engine(self) -> Engine:
        return EchoEngine(capabilities=Capabilities(messages=False))

    @pytest.fixture
    def source(self, tmp_path: Path) -> ModelSource:
        return ModelSource(path=tmp_path)

    @pytest.fixture
    def settings(self) -> EngineSettings:
        return EngineSettings(prefill_chunk=3)


def load(engine: EchoEngine, path: Path) -> Model:
    return engine.load(ModelSource(path=path, name="echo"), EngineSettings())


def ask(text: str) -> GenerationRequest:
    return GenerationRequest(messages=(Message.system("Be brief."), Message.user(text), Message.assistant("...")))


@pytest.mark.parametrize("text", ["one, two  three\n\n four!", "Привет, 世界 👩‍👩‍👧 ñ", "   ", ""])
def test_an_echo_is_the_last_user_text(tmp_path: Path, text: str) -> None:
    answer = collect(load(EchoEngine(), tmp_path), ask(text))
    assert answer.text == text
    assert answer.finish.reason == "stop"


def test_an_echo_comes_token_by_token(tmp_path: Path) -> None:
    assert collect(load(EchoEngine(), tmp_path), ask("one, two")).pieces == ("one", ",", " two")


def test_replies_are_used_in_order_and_then_comes_the_echo(tmp_path: Path) -> None:
    engine = EchoEngine(replies=["first one", [ReasoningDelta(text="hm"), TextDelta(text="second")]])
    model = load(engine, tmp_path)
    answers = [collect(model, ask("echo")) for _ in range(3)]
    assert [answer.text for answer in answers] == ["first one", "second", "echo"]
    assert [answer.reasoning for answer in answers] == ["", "hm", ""]
    assert engine.requests == [ask("echo")] * 3


def test_a_scripted_tool_call_ends_with_its_reason(tmp_path: Path) -> None:
    call = ToolCall(id="1", name="clock", arguments="{}")
    model = load(EchoEngine(replies=[[call]], capabilities=Capabilities(tools=True)), tmp_path)
    tools = (Tool(name="clock", description="The time."),)
    answer = collect(model, GenerationRequest(messages=(Message.user("When?"),), tools=tools))
    assert answer.tool_calls == (call,)
    assert answer.finish.reason == "tool_calls"


def test_a_scripted_finish_is_the_last_event(tmp_path: Path) -> None:
    finish = Finish(
        reason="length",
        usage=Usage(prompt_tokens=1, completion_tokens=2),
        timings=Timings(prefill_seconds=1, decode_seconds=2),
    )
    answer = collect(load(EchoEngine(replies=[[TextDelta(text="a"), finish]]), tmp_path), ask("echo"))
    assert answer.finish is finish


def test_a_scripted_error_is_raised_where_it_stands(tmp_path: Path) -> None:
    model = load(EchoEngine(replies=[[TextDelta(text="half"), OutOfMemory("the cache is full")]]), tmp_path)
    stream = model.generate(ask("x"))
    assert next(event for event in stream if isinstance(event, TextDelta)).text == "half"
    with pytest.raises(OutOfMemory, match="the cache is full"):
        next(stream)


def test_a_test_can_act_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        assert go_on.wait(60)

    model = load(EchoEngine(on_token=wait), tmp_path)
    caught: list[BaseException] = []

    def run() -> None:
        try:
            collect(model, ask("echo"))
        except ModelClosed as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert reached.wait(60)
    model.close()
    go_on.set()
    thread.join(60)
    assert [str(error) for error in caught] == ["model 'echo' is closed; load it again"]


def test_the_clock_is_the_tests_own(tmp_path: Path) -> None:
    ticks = iter(range(10))
    answer = collect(load(EchoEngine(clock=lambda: float(next(ticks))), tmp_path), ask("echo"))
    assert answer.finish.timings == Timings(prefill_seconds=1, decode_seconds=1)
