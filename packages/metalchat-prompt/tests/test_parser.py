"""A model's output becomes text, reasoning and tool calls: whole ones, once, and only those that may be run."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from metalchat_engine import ReasoningDelta, RejectedToolCall, TextDelta, Tool, ToolCall
from metalchat_prompt import CallFormat, OutputEvent, OutputFormat, OutputParser
from metalchat_prompt.testing import merged

WEATHER = Tool(
    name="weather",
    description="The weather in a city.",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 1},
            "parts": {"type": "array", "items": {"enum": ["rain", "wind"]}},
        },
        "required": ["city"],
        "additionalProperties": False,
    },
)
CLOCK = Tool(name="clock", description="The time.")
THINK = ("<think>", "</think>")
OSLO = {"city": "Oslo"}


def parser(calls: CallFormat | None, *, opened: bool = False, tools: Sequence[Tool] = (WEATHER, CLOCK)) -> OutputParser:
    return OutputParser(OutputFormat(calls=calls, reasoning=THINK), tools, opened=opened, make_id=lambda: "id")


def parsed(made: OutputParser, pieces: Iterable[str], *, truncated: bool = False) -> list[OutputEvent]:
    events = [event for piece in pieces for event in made.push(piece)]
    return merged([*events, *made.finish(truncated=truncated)])


def called(events: Sequence[OutputEvent]) -> list[tuple[str, object]]:
    return [(event.name, json.loads(event.arguments)) for event in events if isinstance(event, ToolCall)]


CALLS = [
    (CallFormat.LLAMA, '{"name": "weather", "parameters": {"city": "Oslo"}}'),
    (CallFormat.LLAMA, ' {"type": "function", "name": "weather", "parameters": {"city": "Oslo"}}'),
    (CallFormat.LLAMA, '{"function": "weather", "parameters": {"city": "Oslo"}}'),
    (CallFormat.LLAMA, '<|python_tag|>{"name": "weather", "parameters": {"city": "Oslo"}}'),
    (CallFormat.LLAMA, '<|python_tag|>weather.call(city="Oslo")'),
    (CallFormat.LLAMA, '<function=weather>{"city": "Oslo"}</function>'),
    (CallFormat.LLAMA, '<|python_tag|><function="weather">{"city": "Oslo"}</function>'),
    (CallFormat.LLAMA, '[weather(city="Oslo")]'),
    (CallFormat.LLAMA, "[weather('Oslo')]"),
    (CallFormat.HERMES, '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'),
    (CallFormat.HERMES, '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}</tool_call>'),
    (CallFormat.HERMES, '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}'),
    (
        CallFormat.QWEN_XML,
        "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>",
    ),
    (CallFormat.QWEN_XML, "<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>"),
    (CallFormat.MISTRAL, '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Oslo"}}]'),
    (CallFormat.MISTRAL, '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}}'),
    (CallFormat.MISTRAL, '[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}'),
    (CallFormat.MISTRAL, '[TOOL_CALLS]weather[CALL_ID]Ab3dEf9hI[ARGS]{"city": "Oslo"}'),
    (CallFormat.MISTRAL, '[TOOL_CALLS]weather{"city": "Oslo"}'),
    (CallFormat.PHI, '<|tool_call|>[{"name": "weather", "arguments": {"city": "Oslo"}}]<|/tool_call|>'),
    (CallFormat.GEMMA, '```tool_code\nweather(city="Oslo")\n```'),
    (CallFormat.GEMMA, '```tool_code\nprint(default_api.weather(city="Oslo"))\n```\n'),
    (CallFormat.GEMMA, '[weather(city="Oslo")]'),
    (CallFormat.FUNCTION_GEMMA, "<start_function_call>call:weather{city:<escape>Oslo<escape>}<end_function_call>"),
    (CallFormat.GEMMA_4, '<|tool_call>call:weather{city:<|"|>Oslo<|"|>}<tool_call|>'),
    (
        CallFormat.DEEPSEEK,
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{"city": "Oslo"}\n```'
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    (
        CallFormat.DEEPSEEK,
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Oslo"}<｜tool▁call▁end｜>',
    ),
]


@pytest.mark.parametrize(("calls", "text"), CALLS)
def test_every_family_s_call_is_one_event_and_nothing_else(calls: CallFormat, text: str) -> None:
    made = parser(calls)
    events = parsed(made, text)
    assert called(events) == [("weather", OSLO)]
    assert len(events) == 1
    assert made.called


@pytest.mark.parametrize(("calls", "text"), CALLS)
def test_reasoning_goes_before_a_call(calls: CallFormat, text: str) -> None:
    events = parsed(parser(calls), f"<think>\n\nIs it {text}?\n</think>\n\n{text}")
    assert events[0] == ReasoningDelta(text=f"\n\nIs it {text}?\n".strip("\n"))
    assert called(events) == [("weather", OSLO)]
    assert len(events) == 2


@pytest.mark.parametrize(("calls", "text"), CALLS)
def test_without_tools_a_call_is_text(calls: CallFormat, text: str) -> None:
    assert parsed(parser(calls, tools=()), text) == [TextDelta(text=text)]


@pytest.mark.parametrize(("calls", "text"), CALLS)
@pytest.mark.parametrize("frame", ["Write\n```xml\n{}\n```\nto call it.", "Say:\n~~~~\n```\n{}\n~~~~\n.", "> {}"])
def test_a_call_in_a_fenced_block_or_a_quotation_is_text(calls: CallFormat, text: str, frame: str) -> None:
    if calls is CallFormat.GEMMA and "`" in text:
        text = 'weather(city="Oslo")'
    said = frame.replace("{}", text.strip().replace("\n", "\n> ") if frame == "> {}" else text.strip())
    assert parsed(parser(calls), said) == [TextDelta(text=said)]


@pytest.mark.parametrize("quote", ["`", '"', "“"])
def test_a_mark_in_quotation_marks_is_text(quote: str) -> None:
    said = f"It begins with {quote}<tool_call>{quote} and a brace, {{."
    assert parsed(parser(CallFormat.HERMES), said) == [TextDelta(text=said)]


def test_inches_and_quotations_that_have_ended_hide_no_call() -> None:
    for said in ('The 5" pipe in "Oslo": ', "It's the users' turn. ", "Use `this`: "):
        events = parsed(parser(CallFormat.HERMES), said + '<tool_call>{"name": "clock"}</tool_call>')
        assert events[0] == TextDelta(text=said)
        assert called(events) == [("clock", {})]
    said = 'He said "write <tool_call>{}</tool_call> twice".'
    assert parsed(parser(CallFormat.HERMES), said) == [TextDelta(text=said)]


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        (CallFormat.LLAMA, '{"answer": 42}'),
        (CallFormat.LLAMA, '{"name": "Peter", "parameters": {}}'),
        (CallFormat.LLAMA, '{"type": "object", "name": "weather"}'),
        (CallFormat.LLAMA, "[1, 2]"),
        (CallFormat.LLAMA, "[system(command='rm')]"),
        (CallFormat.LLAMA, "[weather report](https://example.com)"),
        (CallFormat.LLAMA, 'I would say {"name": "weather", "parameters": {"city": "Oslo"}}.'),
        (CallFormat.LLAMA, "<function= is a word"),
        (CallFormat.HERMES, "Use <tool_call> tags."),
        (CallFormat.HERMES, "<tool_call></tool_call>"),
        (CallFormat.HERMES, "</tool_call> alone"),
        (CallFormat.HERMES, "<tool"),
        (CallFormat.MISTRAL, "[TOOL_CALLS] means calls."),
        (CallFormat.GEMMA_4, "<|tool_call>now"),
        (CallFormat.GEMMA, "x ```tool_code\nweather()"),
    ],
)
def test_what_is_no_call_of_a_declared_tool_stays_text(calls: CallFormat, said: str) -> None:
    assert parsed(parser(calls), said) == [TextDelta(text=said)]


def test_several_calls_with_text_before_and_after() -> None:
    text = (
        'First:\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>\nThat is all.'
    )
    events = parsed(parser(CallFormat.HERMES), text)
    assert called(events) == [("weather", OSLO), ("clock", {})]
    assert (events[0], events[-1]) == (TextDelta(text="First:\n"), TextDelta(text="That is all."))


@pytest.mark.parametrize(
    ("calls", "text"),
    [
        (CallFormat.LLAMA, '{"name": "weather", "parameters": {"city": "Oslo"}}; {"name": "clock", "parameters": {}}'),
        (CallFormat.LLAMA, '[weather(city="Oslo"), clock()]'),
        (
            CallFormat.MISTRAL,
            '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Oslo"}}, {"name": "clock", "arguments": {}}]',
        ),
        (CallFormat.MISTRAL, '[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}[TOOL_CALLS]clock[ARGS]{}'),
        (CallFormat.GEMMA, '```tool_code\nweather(city="Oslo")\nclock()\n```'),
        (
            CallFormat.QWEN_XML,
            "<function=weather><parameter=city>Oslo</parameter></function><function=clock></function>",
        ),
    ],
)
def test_several_calls_at_once(calls: CallFormat, text: str) -> None:
    assert called(parsed(parser(calls), text)) == [("weather", OSLO), ("clock", {})]


def test_braces_and_marks_in_strings_do_not_end_a_call() -> None:
    arguments = {"city": 'a}}{</tool_call>"\\ ``` <think>', "days": 2}
    call = json.dumps({"name": "weather", "arguments": arguments})
    events = parsed(parser(CallFormat.HERMES), f"<tool_call>{call}</tool_call>")
    assert called(events) == [("weather", arguments)]
    python = "[weather(city='a)]}</b>\\'\"', days=2)]"
    assert called(parsed(parser(CallFormat.LLAMA), python)) == [("weather", {"city": "a)]}</b>'\"", "days": 2})]
    xml = "<function=weather>\n<parameter=city>\n</function></tool_call>\n\n</parameter>\n</function>"
    assert called(parsed(parser(CallFormat.QWEN_XML), xml)) == [("weather", {"city": "</function></tool_call>\n"})]


def test_xml_parameters_become_what_the_schema_says() -> None:
    text = (
        "<tool_call><function=weather><parameter=city>12</parameter><parameter=days>\n3\n</parameter>"
        '<parameter=parts>["rain"]</parameter></function></tool_call>'
    )
    assert called(parsed(parser(CallFormat.QWEN_XML), text)) == [
        ("weather", {"city": "12", "days": 3, "parts": ["rain"]})
    ]


def test_mistral_s_own_id_is_kept() -> None:
    events = parsed(parser(CallFormat.MISTRAL), "[TOOL_CALLS]clock[CALL_ID]Ab3dEf9hI[ARGS]{}")
    assert events == [ToolCall(id="Ab3dEf9hI", name="clock", arguments="{}")]


def test_code_goes_to_a_tool_that_takes_code() -> None:
    python = Tool(name="code_interpreter", description="Runs it.", parameters={"required": ["code"]})
    events = parsed(parser(CallFormat.LLAMA, tools=[python]), "<|python_tag|>x = 1\nprint(x)")
    assert called(events) == [("code_interpreter", {"code": "x = 1\nprint(x)"})]


REJECTED = [
    ("unknown_tool", "system", '{"name": "system", "arguments": {"command": "rm"}}', "there is no tool 'system'"),
    ("invalid_arguments", "weather", '{"name": "weather", "arguments": {}}', "'city' is missing"),
    ("invalid_arguments", "weather", '{"name": "weather", "arguments": {"city": 1}}', "'city' must be of type string"),
    (
        "invalid_arguments",
        "weather",
        '{"name": "weather", "arguments": {"city": "a", "-o ProxyCommand=": "x"}}',
        "'-o ProxyCommand=' is not a known key",
    ),
    (
        "invalid_arguments",
        "weather",
        '{"name": "weather", "arguments": {"city": "a", "parts": ["rain", "sun"]}}',
        '\'parts[1]\' must be one of ["rain", "wind"]',
    ),
    ("malformed", "", "{'name': 'weather'}", "the call is not valid JSON"),
    ("malformed", "", '{"arguments": {"city": "Oslo"}}', "the call names no tool"),
    ("malformed", "weather", '{"name": "weather", "arguments": [1]}', "the arguments are not a JSON object"),
    ("malformed", "weather", '{"name": "weather", "arguments": "echo"}', "the arguments are not a JSON object"),
    ("malformed", "", '{"name": "weather", "arguments": {"days": NaN}}', "the call is not valid JSON"),
    ("malformed", "", '{"name": "weather", "arguments": {"days": ' + "9" * 5000 + "}}", "the call is not valid JSON"),
    ("malformed", "", '{"a":' * 100_000 + "1" + "}" * 100_000, "the call is not valid JSON"),
]


@pytest.mark.parametrize(("problem", "name", "call", "message"), REJECTED)
def test_a_call_that_may_not_be_run_is_no_tool_call(problem: str, name: str, call: str, message: str) -> None:
    made = parser(CallFormat.HERMES)
    events = parsed(made, [f"So <tool_call>{call}</tool_call> it is"])
    assert events[0] == TextDelta(text="So ")
    assert events[1] == RejectedToolCall(id="id", name=name, text=call, problem=problem, message=message)  # type: ignore[arg-type]
    assert events[2] == TextDelta(text="it is")
    assert not made.called


def test_half_a_character_in_arguments_is_rejected() -> None:
    (event,) = parsed(parser(CallFormat.MISTRAL), '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "\\ud800"}}]')
    assert isinstance(event, RejectedToolCall)
    assert event.problem == "malformed"


def test_a_call_of_megabytes_is_rejected_and_the_next_one_is_not() -> None:
    huge = '<tool_call>{"name": "weather", "arguments": {"city": "' + "a" * 3_000_000 + '"}}</tool_call>'
    events = parsed(parser(CallFormat.HERMES), [huge, '<tool_call>{"name": "clock"}</tool_call>'])
    assert isinstance(events[0], RejectedToolCall)
    assert (events[0].problem, len(events[0].text)) == ("malformed", 2**20)
    assert called(events) == [("clock", {})]


@pytest.mark.parametrize(("calls", "text"), [case for case in CALLS if "}" in case[1] or ")" in case[1]])
def test_a_call_that_is_cut_off_is_one_truncated_call_or_text_and_never_half_a_call(
    calls: CallFormat, text: str
) -> None:
    for size in range(1, len(text) + 1):
        events = parsed(parser(calls), text[:size], truncated=True)
        said = text[:size].removeprefix("<｜tool▁calls▁begin｜>")  # around the calls, and never shown
        assert len(events) == (1 if said else 0)
        if called(events):
            assert called(events) == [("weather", OSLO)]  # only what closes it is missing
        elif events and isinstance(events[0], RejectedToolCall):
            assert events[0].problem == "truncated"
            assert text[:size].endswith(events[0].text)
        elif events:
            assert events == [TextDelta(text=said)]


def test_the_calls_before_a_truncated_one_are_kept() -> None:
    text = '[TOOL_CALLS][{"name": "clock", "arguments": {}}, {"name": "weather", "argu'
    events = parsed(parser(CallFormat.MISTRAL), text, truncated=True)
    assert called(events) == [("clock", {})]
    assert isinstance(events[1], RejectedToolCall)
    assert (events[1].problem, events[1].name) == ("truncated", "weather")


def test_reasoning_that_the_prompt_opened_or_that_never_ends() -> None:
    assert parsed(parser(None, opened=True), "Hm.\n</think>\n\nYes.") == [
        ReasoningDelta(text="Hm."),
        TextDelta(text="Yes."),
    ]
    assert parsed(parser(None, opened=True), "<think>Hm.</think>Yes.") == [
        ReasoningDelta(text="Hm."),
        TextDelta(text="Yes."),
    ]
    assert parsed(parser(None), "<think>Hm.\n", truncated=True) == [ReasoningDelta(text="Hm.\n")]
    assert parsed(parser(None), "<think></think>Yes.") == [TextDelta(text="Yes.")]
    assert parsed(parser(None), "Say <think>!</think>") == [TextDelta(text="Say <think>!</think>")]


def test_the_label_of_gemma_s_reasoning_is_left_out() -> None:
    made = OutputParser(OutputFormat(reasoning=("<|channel>", "<channel|>")))
    assert parsed(made, "<|channel>thought\nHm.\n<channel|>Yes.") == [
        ReasoningDelta(text="Hm."),
        TextDelta(text="Yes."),
    ]


def test_marks_that_are_tokens_count_only_as_tokens() -> None:
    tokens = {7: "<tool_call>", 8: "</tool_call>"}
    call = '{"name": "clock"}'
    made = OutputParser(OutputFormat(calls=CallFormat.HERMES), [CLOCK], tokens=tokens, make_id=lambda: "id")
    spelt = f"<tool_call>{call}</tool_call>"
    events = [*made.push(spelt), *made.push("", [7]), *made.push(call), *made.push("", [8, 99]), *made.finish()]
    assert events == [TextDelta(text=spelt), ToolCall(id="id", name="clock", arguments="{}")]


def test_text_is_withheld_only_while_it_may_begin_something() -> None:
    made = parser(CallFormat.HERMES)
    assert made.push("Hello <") == (TextDelta(text="Hello "),)
    assert made.push("b>") == (TextDelta(text="<b>"),)
    assert made.push("<tool_call>") == ()
    assert made.push("x") == (TextDelta(text="<tool_call>x"),)
    made = parser(CallFormat.LLAMA)
    assert made.push('{"na') == ()
    assert made.push("r") == (TextDelta(text='{"nar'),)
    made = parser(CallFormat.MISTRAL)
    made.push('[TOOL_CALLS][{"name": "clock", "arguments": {}')
    assert called(made.push("}")) == [("clock", {})]


def test_ids_are_nine_letters_and_digits() -> None:
    made = OutputParser(replace(OutputFormat(), calls=CallFormat.MISTRAL), [CLOCK])
    (call,) = made.push('[TOOL_CALLS][{"name": "clock"}]')
    assert isinstance(call, ToolCall)
    assert (len(call.id), call.id.isalnum()) == (9, True)
