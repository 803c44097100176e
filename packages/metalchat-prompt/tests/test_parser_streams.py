"""A model's output in any cut, malformed or endless, gives the same events and no exception."""

import json
import random
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metalchat_engine import TextDelta, Tool, ToolCall
from metalchat_prompt import CallFormat, OutputEvent, OutputFormat, OutputParser
from metalchat_prompt.testing import merged

WEATHER = Tool(
    name="weather",
    description="The weather.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
CLOCK = Tool(name="clock", description="The time.")


def parser(calls: CallFormat | None, *, opened: bool = False) -> OutputParser:
    layout = OutputFormat(calls=calls, reasoning=("<think>", "</think>"))
    return OutputParser(layout, [WEATHER, CLOCK], opened=opened, make_id=lambda: "id")


def parsed(made: OutputParser, pieces: Iterable[str], *, truncated: bool = False) -> list[OutputEvent]:
    events = [event for piece in pieces for event in made.push(piece)]
    return merged([*events, *made.finish(truncated=truncated)])


SNIPPETS = [
    '{"name": "weather", "parameters": {"city": "Oslo"}}',
    '<function=weather>{"city": "Oslo"}</function>',
    '[weather(city="Oslo"), clock()]',
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>',
    '[TOOL_CALLS][{"name": "clock", "arguments": {}}]',
    *(
        "<think>",
        "</think>",
        "```",
        "```tool_code\n",
        "~~~",
        "\n",
        " ",
        '"',
        "'",
        "`",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        "<",
    ),
    *(
        "Hello",
        "über",
        "🎉",
        "\\",
        ";",
        ",",
        ":",
        "weather",
        '{"name": "weather"',
        "<function=",
        "</function>",
        "[ARGS]",
    ),
    *(
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "<|tool_call|>",
        "<|tool_call>",
        "call:",
        '<|"|>',
        "<escape>",
        "> ",
    ),
    *("<parameter=city>", "</parameter>", "<|python_tag|>", "\0", "\ud800", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"),
]
FORMATS = [None, *CallFormat]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.lists(st.sampled_from(SNIPPETS), max_size=12).map("".join),
    st.lists(st.integers(0, 400), max_size=12),
    st.booleans(),
    st.booleans(),
)
def test_the_events_do_not_depend_on_how_the_text_is_cut(
    calls: CallFormat | None, text: str, cuts: list[int], opened: bool, truncated: bool
) -> None:
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in pairwise(places)]
    whole = parsed(parser(calls, opened=opened), [text], truncated=truncated)
    assert parsed(parser(calls, opened=opened), pieces, truncated=truncated) == whole
    assert parsed(parser(calls, opened=opened), text, truncated=truncated) == whole


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(SNIPPETS), max_size=12).map("".join))
def test_without_calls_and_reasoning_nothing_is_lost_or_said_twice(text: str) -> None:
    made = OutputParser(OutputFormat(), [WEATHER])
    assert "".join(event.text for event in parsed(made, text) if isinstance(event, TextDelta)) == text


def test_ten_thousand_malformed_outputs_raise_nothing() -> None:
    chance = random.Random(20)
    for round_ in range(10_000):
        calls = FORMATS[round_ % len(FORMATS)]
        text = "".join(chance.choices(SNIPPETS, k=chance.randrange(1, 12)))
        for _ in range(chance.randrange(4)):  # one letter changed, left out or doubled
            place = chance.randrange(len(text) + 1)
            text = (
                text[:place] + chance.choice(["", "x", '"', "}", "\\", text[place : place + 1] * 2]) + text[place + 1 :]
            )
        made = parser(calls, opened=chance.random() < 0.1)
        for event in parsed(made, [text], truncated=chance.random() < 0.5):
            if isinstance(event, ToolCall):
                assert event.name in ("weather", "clock")
                assert isinstance(json.loads(event.arguments), dict)


@pytest.mark.parametrize("calls", FORMATS)
@pytest.mark.parametrize(
    "unit",
    [
        "<",
        "{",
        "[",
        '"',
        "`",
        "\n",
        "<tool_call>",
        "```\n",
        "[TOOL_CALLS]",
        "<parameter=a>",
        "<function=a>",
        '{"name"',
        "call:",
        "<|tool_call>",
    ],
)
@pytest.mark.timeout(20)
def test_long_outputs_that_look_like_calls_end(calls: CallFormat | None, unit: str) -> None:
    begin = {
        CallFormat.HERMES: "<tool_call>{",
        CallFormat.QWEN_XML: "<function=a>",
        CallFormat.LLAMA: "<|python_tag|>[",
    }
    text = begin.get(calls, "") + unit * (60_000 // len(unit)) if calls else unit * (60_000 // len(unit))
    pieces = [text[place : place + 3] for place in range(0, len(text), 3)]
    assert parsed(parser(calls), pieces) == parsed(parser(calls), [text])
