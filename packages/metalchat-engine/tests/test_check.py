"""The gate in front of every engine."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metalchat_engine import (
    Capabilities,
    EngineSettings,
    GenerationRequest,
    Grammar,
    ImagePart,
    JsonSchema,
    Message,
    ModelInfo,
    ReasoningPart,
    Regex,
    Sampling,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    UnsupportedRequest,
    check,
    check_settings,
)

ALL = Capabilities(**{field.name: True for field in fields(Capabilities)})
NONE = Capabilities(messages=False)
HI = GenerationRequest(messages=(Message.user("Hi"),))
RAW = GenerationRequest(prompt="Once")
CALL = Message(role="assistant", parts=(ToolCallPart(id="1", name="clock", arguments="{}"),))
RESULT = Message(role="tool", parts=(ToolResultPart(call_id="1", name="clock", content="noon"),))
IMAGE = ImagePart(data=b"png", media_type="image/png")
CLOCK = Tool(name="clock", description="The time.")


def info(capabilities: Capabilities = ALL) -> ModelInfo:
    return ModelInfo(
        name="tiny",
        architecture="llama",
        context_length=64,
        vocab_size=100,
        dtype="float32",
        memory_bytes=0,
        capabilities=capabilities,
        adapters=("red",),
    )


def refused(request: GenerationRequest, capabilities: Capabilities = ALL) -> UnsupportedRequest:
    with pytest.raises(UnsupportedRequest) as caught:
        check(request, info(capabilities))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
    return caught.value


@pytest.mark.parametrize(
    "request_",
    [
        HI,
        RAW,
        replace(HI, max_tokens=1, stop=("x" * 256,) * 16, logprobs=20, conversation="c" * 256),
        replace(HI, sampling=Sampling(temperature=0, top_p=1, top_k=0, min_p=0, repetition_penalty=1, seed=2**64 - 1)),
        replace(HI, sampling=Sampling(temperature=100, top_p=1e-9, presence_penalty=-2.0, frequency_penalty=2)),
        replace(HI, sampling=Sampling(logit_bias={0: -100, 99: 100.0})),
        replace(HI, tools=(CLOCK,), tool_choice="clock"),
        replace(HI, tools=(CLOCK,), tool_choice="required"),
        replace(HI, constraint=JsonSchema(schema={})),
        replace(HI, constraint=Regex(pattern="a+")),
        replace(HI, constraint=Grammar(grammar='start: "a"')),
        replace(HI, messages=(Message.system("s"), Message(role="user", parts=(IMAGE,)), CALL, RESULT)),
        replace(
            HI, messages=(Message.user("👩‍👩‍👧 <|eot_id|>"), Message(role="assistant", parts=()), Message.user(""))
        ),
    ],
)
def test_what_is_declared_and_in_range_passes(request_: GenerationRequest) -> None:
    check(request_, info())


@pytest.mark.parametrize(
    ("request_", "option"),
    [
        (HI, "messages"),
        (replace(RAW, tools=(CLOCK,)), "tools"),
        (replace(RAW, tools=(CLOCK,), tool_choice="none"), "tools"),
        (replace(RAW, constraint=JsonSchema(schema={})), "constraint"),
        (replace(RAW, constraint=Regex(pattern="a")), "constraint"),
        (replace(RAW, constraint=Grammar(grammar="start: a")), "constraint"),
        (replace(RAW, logprobs=0), "logprobs"),
        (replace(RAW, sampling=Sampling(logit_bias={1: 1})), "logit_bias"),
        (replace(RAW, sampling=Sampling(repetition_penalty=1.1)), "repetition_penalty"),
        (replace(RAW, sampling=Sampling(presence_penalty=0.1)), "presence_penalty"),
        (replace(RAW, sampling=Sampling(frequency_penalty=0.1)), "frequency_penalty"),
        (replace(RAW, sampling=Sampling(seed=0)), "seed"),
        (replace(RAW, adapter="red"), "adapter"),
    ],
)
def test_what_is_not_declared_is_refused_by_name(request_: GenerationRequest, option: str) -> None:
    error = refused(request_, NONE)
    assert error.option == option
    assert option in str(error)
    assert "'tiny'" in str(error)
    check(request_, info())


@pytest.mark.parametrize("part", [IMAGE, CALL.parts[0], RESULT.parts[0]])
def test_parts_need_their_capability(part: Any) -> None:
    roles = {ImagePart: "user", ToolCallPart: "assistant", ToolResultPart: "tool"}
    message = Message(role=roles[type(part)], parts=(part,))  # type: ignore[arg-type]
    error = refused(GenerationRequest(messages=(message,)), Capabilities())
    assert error.option == "messages"
    assert "'tiny'" in str(error)


def test_reasoning_of_an_earlier_turn_needs_no_capability() -> None:
    thought = Message(role="assistant", parts=(ReasoningPart(text="hm"), TextPart(text="yes")))
    check(GenerationRequest(messages=(Message.user("Well?"), thought, Message.user("Sure?"))), info(Capabilities()))


def test_an_adapter_is_one_that_the_model_was_loaded_with() -> None:
    assert str(refused(replace(RAW, adapter="blue"))) == ("model 'tiny' has no adapter 'blue'; it was loaded with: red")
    for wrong in ("", "x" * 65, 7):
        assert refused(replace(RAW, adapter=wrong)).option == "adapter"  # type: ignore[arg-type]


def test_neutral_penalties_need_no_capability() -> None:
    neutral = Sampling(repetition_penalty=1.0, presence_penalty=0, frequency_penalty=-0.0)
    check(replace(HI, sampling=neutral), info(Capabilities()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("temperature", value) for value in (-0.1, 100.1, math.nan, math.inf, -math.inf, True, "1", 10**400)],
        *[("top_p", value) for value in (0, 0.0, -0.0, 1.1, math.nan, True)],
        *[("top_k", value) for value in (-1, 1.0, True, math.nan, "40")],
        *[("min_p", value) for value in (-0.1, 1.1, math.nan, False)],
        *[("repetition_penalty", value) for value in (0, -1, 5e-324, math.inf, math.nan, True)],
        *[("presence_penalty", value) for value in (-2.1, 2.1, math.nan)],
        *[("frequency_penalty", value) for value in (-2.1, 2.1, math.nan)],
        *[("seed", value) for value in (-1, 2**64, 1.0, True)],
        pytest.param("seed", 10**5000, id="seed-huge"),
        *[("logit_bias", value) for value in ({-1: 0}, {100: 0}, {True: 0}, {"1": 0}, {1.0: 0}, [1])],
        *[("logit_bias", {1: value}) for value in (-100.1, 101, math.nan, math.inf, True, None)],
    ],
)
def test_sampling_out_of_range_is_refused(name: str, value: Any) -> None:
    error = refused(replace(HI, sampling=Sampling(**{name: value})))
    assert error.option == name
    assert name in str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("max_tokens", value) for value in (0, -1, 1.0, True, math.nan)],
        *[("logprobs", value) for value in (-1, 21, True, 1.0)],
        *[("stop", value) for value in ("stop", ("",), ("x" * 257,), ("x",) * 17, (1,), ("\ud800",))],
        *[("conversation", value) for value in ("", "c" * 257, 1)],
        *[("tool_choice", value) for value in ("required", "clock", "", None, ["auto"])],
        *[("constraint", value) for value in ("a+", Regex(pattern=""), Regex(pattern="a" * 65537))],
        *[("constraint", value) for value in (Grammar(grammar="\udfff"), JsonSchema(schema="{}"))],  # type: ignore[arg-type]
        *[("tools", (replace(CLOCK, name=name),)) for name in ("", "a b", "auto", "none", "required", "x" * 129, "é")],
        *[("tools", (replace(CLOCK, name=name),)) for name in ("a\n", "\x1b[2J", 1)],
        ("tools", (CLOCK, CLOCK)),
        ("tools", (replace(CLOCK, parameters="{}"),)),  # type: ignore[arg-type]
        ("tools", (replace(CLOCK, description="\ud800"),)),
        ("tools", ("clock",)),
    ],
)
def test_a_malformed_field_is_refused(name: str, value: Any) -> None:
    assert refused(replace(HI, **{name: value})).option == name


@pytest.mark.parametrize(
    ("messages", "prompt", "option"),
    [
        ((), None, "messages"),
        (HI.messages, "Once", "prompt"),
        ((), "", "prompt"),
        ((), "half \ud83d", "prompt"),
        ((), 1, "prompt"),
        ((), b"Once", "prompt"),
    ],
)
def test_exactly_one_of_messages_and_prompt_is_taken(messages: Any, prompt: Any, option: str) -> None:
    assert refused(GenerationRequest(messages=messages, prompt=prompt)).option == option


@pytest.mark.parametrize(
    "messages",
    [
        ("Hi",),
        (Message(role="owner", parts=(TextPart(text="Hi"),)),),  # type: ignore[arg-type]
        (Message(role=["user"], parts=(TextPart(text="Hi"),)),),  # type: ignore[arg-type]
        (Message(role="user", parts=()),),
        (Message(role="user", parts=("Hi",)),),  # type: ignore[arg-type]
        (Message(role="system", parts=(IMAGE,)),),
        (Message(role="assistant", parts=(IMAGE,)),),
        (Message(role="user", parts=(ReasoningPart(text="hm"),)),),
        (Message(role="user", parts=CALL.parts),),
        (Message(role="user", parts=RESULT.parts),),
        (CALL, Message(role="tool", parts=(TextPart(text="noon"),))),
        (CALL, Message(role="tool", parts=(ToolResultPart(call_id="2", name="clock", content=""),))),
        (RESULT, CALL),
        (Message.user("half \udc00"),),
        (Message(role="user", parts=(TextPart(text=1),)),),  # type: ignore[arg-type]
        (Message(role="user", parts=(replace(IMAGE, data=b""),)),),
        (Message(role="user", parts=(replace(IMAGE, media_type="text/html"),)),),
        (Message(role="assistant", parts=(ToolCallPart(id="1", name="clock", arguments="\ud800"),)),),
    ],
)
def test_a_malformed_conversation_is_refused(messages: tuple[Message, ...]) -> None:
    error = refused(GenerationRequest(messages=messages))
    assert error.option == "messages"
    assert str(error).startswith("messages[")


anything = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.lists(st.integers()))


@settings(deadline=None)
@given(
    name=st.sampled_from([field.name for field in fields(Sampling)]),
    value=st.one_of(anything, st.dictionaries(st.integers() | st.text(max_size=2), anything, max_size=3)),
)
def test_any_value_of_a_sampling_field_passes_or_is_refused_by_its_name(name: str, value: Any) -> None:
    try:
        check(replace(HI, sampling=Sampling(**{name: value})), info())
    except UnsupportedRequest as error:
        assert error.option == name  # noqa: PT017 - both outcomes are right, only another error is not


def test_settings_name_the_unknown_key_and_the_known_ones() -> None:
    check_settings(EngineSettings(context_length=1, prefill_chunk=1, extra={"threads": 2}), known={"threads"})
    with pytest.raises(UnsupportedRequest) as caught:
        check_settings(EngineSettings(extra={"thread": 2}), known=("threads", "batch"))
    assert str(caught.value) == "unknown engine setting 'thread'; known settings: batch, threads"
    assert caught.value.option == "thread"


@pytest.mark.parametrize("name", ["context_length", "prefill_chunk"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, math.nan])
def test_settings_that_are_not_positive_integers_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedRequest, match=name) as caught:
        check_settings(EngineSettings(**{name: value}))
    assert caught.value.option == name
