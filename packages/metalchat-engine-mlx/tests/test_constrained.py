"""Answers keep to the form that a request gives them, and what cannot be kept to is refused before any work."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine import (
    Constraint,
    EngineSettings,
    GenerationRequest,
    Grammar,
    JsonSchema,
    Message,
    Model,
    ModelSource,
    Regex,
    RejectedToolCall,
    Sampling,
    Tool,
    ToolCall,
    UnsupportedRequest,
)
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.testing import write_tiny_model
from metalchat_prompt.testing import CHATML_TOOLS_TEMPLATE

OPENED = CHATML_TOOLS_TEMPLATE.replace("assistant\\n' }}{% endif %}", "assistant\\n<think>\\n' }}{% endif %}")
CITY = {"type": "string", "maxLength": 8}
WEATHER = Tool(
    name="weather",
    description="The weather in a city.",
    parameters={"type": "object", "properties": {"city": CITY, "days": {"enum": [1, 2]}}, "required": ["city", "days"]},
)
CLOCK = Tool(name="clock", description="The time.", parameters={"type": "object", "properties": {}})
PERSON = {
    "type": "object",
    "properties": {"name": {"$ref": "#/$defs/short"}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
    "$defs": {"short": {"type": "string", "maxLength": 6}},
}


@pytest.fixture(scope="module", params=["plain", "opened"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A model of random weights; `opened` has a template that begins the reasoning of every answer."""
    template = CHATML_TOOLS_TEMPLATE if request.param == "plain" else OPENED
    path = write_tiny_model(tmp_path_factory.mktemp(request.param) / "tiny", chat_template=template)
    with MlxEngine().load(ModelSource(path=path, name="tiny"), EngineSettings()) as model:
        yield model


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = write_tiny_model(tmp_path_factory.mktemp("one") / "tiny", chat_template=CHATML_TOOLS_TEMPLATE)
    with MlxEngine().load(ModelSource(path=path, name="tiny"), EngineSettings()) as model:
        yield model


def ask(seed: int = 0, temperature: float = 1.0, **changes: Any) -> GenerationRequest:
    # A model of random weights ends its reasoning by chance, so it is pushed: 520 is </think>.
    sampling = Sampling(temperature=temperature, seed=seed, logit_bias={520: 8})
    return GenerationRequest(messages=(Message.user("Hi"),), sampling=sampling, max_tokens=400, **changes)


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_is_one_json_value_of_the_schema(model: Model, seed: int) -> None:
    answer = collect(model, ask(seed, constraint=JsonSchema(schema=PERSON)))
    value = json.loads(answer.text)
    assert (answer.finish.reason, list(value)) == ("stop", ["name", "age"])
    assert len(value["name"]) <= 6
    assert 0 <= value["age"] <= 99


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        (Regex(pattern=r"[a-f]{2,4}/\d\."), r"[a-f]{2,4}/\d\."),
        (Grammar(grammar='start: word ("+" word)~1..2\nword: /[xy]{2}/'), r"[xy]{2}(\+[xy]{2}){1,2}"),
        (Grammar(grammar='start: "{" /[0-9]{3}/ "}"'), r"\{[0-9]{3}\}"),
    ],
)
def test_an_answer_keeps_to_a_pattern_or_a_grammar(
    model: Model, constraint: Constraint, pattern: str, seed: int
) -> None:
    answer = collect(model, ask(seed, constraint=constraint))
    assert re.fullmatch(pattern, answer.text)
    assert answer.finish.reason == "stop"


def test_sampling_goes_on_within_the_constraint(plain: Model) -> None:
    request = ask(constraint=Regex(pattern="[a-z]{8}"))
    one, other = (collect(plain, replace(request, sampling=Sampling(temperature=1, seed=seed))) for seed in (1, 2))
    assert one.text != other.text
    assert collect(plain, replace(request, sampling=Sampling(temperature=1, seed=1))).text == one.text
    (a,) = (token.chosen.token for token in collect(plain, ask(constraint=Regex(pattern="a"), logprobs=0)).sampled)
    biased = Sampling(temperature=0, logit_bias={a: 100})
    assert collect(plain, ask(constraint=Regex(pattern="[a-c]{3}"), temperature=0)).text != "aaa"
    assert collect(plain, replace(ask(constraint=Regex(pattern="[a-c]{3}")), sampling=biased)).text == "aaa"
    # No bias lets a token in that the pattern keeps out.
    assert collect(plain, replace(ask(constraint=Regex(pattern="[bc]{3}")), sampling=biased)).text.strip("bc") == ""


def test_every_token_of_a_constrained_answer_has_its_logprob(plain: Model) -> None:
    answer = collect(plain, ask(constraint=JsonSchema(schema=PERSON), logprobs=2))
    assert len(answer.sampled) == answer.finish.usage.completion_tokens
    assert all(len(token.alternatives) == 2 for token in answer.sampled)


def test_stop_strings_and_max_tokens_cut_a_constrained_answer(plain: Model) -> None:
    request = ask(constraint=Regex(pattern="a{20}bc{20}"))
    answer = collect(plain, replace(request, stop=("b",)))
    assert (answer.text, answer.finish.reason, answer.finish.stop) == ("a" * 20, "stop", "b")
    answer = collect(plain, replace(request, max_tokens=3))
    assert (answer.finish.reason, answer.finish.usage.completion_tokens) == ("length", 3)
    assert ("a" * 20 + "b" + "c" * 20).startswith(answer.text)
    whole = collect(plain, request)
    exact = collect(plain, replace(request, max_tokens=whole.finish.usage.completion_tokens))
    assert (exact.finish.reason, exact.text) == ("stop", whole.text)


def test_reasoning_that_the_prompt_opened_is_free_and_apart(model: Model) -> None:
    answer = collect(model, ask(3, constraint=Regex(pattern="yes|no")))
    assert answer.text in ("yes", "no")
    assert "</think>" not in answer.reasoning


@pytest.mark.parametrize("seed", range(4))
def test_a_named_tool_is_called_once_with_arguments_of_its_schema(model: Model, seed: int) -> None:
    answer = collect(model, ask(seed, tools=(CLOCK, WEATHER), tool_choice="weather"))
    (call,) = answer.tool_calls
    arguments = json.loads(call.arguments)
    assert (call.name, answer.text, answer.finish.reason) == ("weather", "", "tool_calls")
    assert len(arguments["city"]) <= 8
    assert arguments["days"] in (1, 2)


@pytest.mark.parametrize("seed", range(4))
def test_a_required_call_is_of_any_of_the_tools(model: Model, seed: int) -> None:
    answer = collect(model, ask(seed, tools=(CLOCK, WEATHER), tool_choice="required"))
    assert answer.tool_calls
    assert {call.name for call in answer.tool_calls} <= {"clock", "weather"}
    assert answer.finish.reason == "tool_calls"


def test_a_call_that_max_tokens_cut_off_is_typed_and_never_run(plain: Model) -> None:
    answer = collect(plain, replace(ask(tools=(WEATHER,), tool_choice="required"), max_tokens=12))
    (rejected,) = (event for event in answer.events if isinstance(event, RejectedToolCall))
    assert (rejected.problem, answer.finish.reason) == ("truncated", "length")
    assert not any(isinstance(event, ToolCall) for event in answer.events)


def test_tools_are_written_into_the_prompt_unless_none_may_be_called(plain: Model) -> None:
    without = collect(plain, replace(ask(), max_tokens=1)).finish.usage.prompt_tokens
    offered = collect(plain, replace(ask(tools=(WEATHER,)), max_tokens=1)).finish.usage.prompt_tokens
    none = collect(plain, replace(ask(tools=(WEATHER,), tool_choice="none"), max_tokens=1)).finish.usage.prompt_tokens
    assert without == none < offered


def test_a_model_whose_template_takes_no_tools_refuses_them(tmp_path: Path) -> None:
    source = ModelSource(path=write_tiny_model(tmp_path / "tiny"), name="tiny")
    assert not MlxEngine().inspect(source).capabilities.tools
    with MlxEngine().load(source, EngineSettings()) as model, pytest.raises(UnsupportedRequest) as caught:
        model.generate(ask(tools=(WEATHER,)))
    assert caught.value.option == "tools"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            {"properties": {"a": {"items": {"type": "string", "format": "nope"}}}},
            "the constraint cannot be compiled at '/properties/a/items': Unknown format: nope",
        ),
        ({"properties": {"a": {"type": "strin"}}}, "at '/properties/a': Invalid type: strin"),
        ({"anyOf": [{"type": "null"}, {"pattern": "(?=a)b", "type": "string"}]}, "at '/anyOf/1': "),
        ({"$defs": {"x": {"type": 5}}, "properties": {"a": {"$ref": "#/$defs/x"}}}, "at '/properties/a': "),
        ({"not": {"type": "string"}}, "compiled: Unimplemented keys"),
        ({"$ref": "https://example.com/schema"}, "not present in a registry"),
        ({"properties": {"a": object()}}, "the JSON Schema is no JSON"),
        ({"x-guidance": {"lenient": True}, "unevaluatedProperties": False, "type": "object"}, "Unimplemented keys"),
    ],
)
def test_a_schema_that_cannot_be_kept_to_is_refused_with_its_path(
    plain: Model, schema: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedRequest) as caught:
        plain.generate(ask(constraint=JsonSchema(schema=schema)))
    assert caught.value.option == "constraint"
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("option", "change"),
    [
        ("constraint", {"constraint": Regex(pattern="(a")}),
        ("constraint", {"constraint": Regex(pattern="(?=a)b")}),
        ("constraint", {"constraint": Grammar(grammar='start: "a" | nope')}),
        ("constraint", {"constraint": Grammar(grammar='{"grammars": [{"json_schema": {}}]}')}),
        ("constraint", {"constraint": Grammar(grammar="word: /a/")}),
        ("constraint", {"constraint": Regex(pattern="a"), "tools": (WEATHER,)}),
        (
            "tools",
            {
                "tools": (Tool(name="t", description="", parameters={"properties": {"a": {"not": {}}}}),),
                "tool_choice": "t",
            },
        ),
    ],
)
def test_what_cannot_be_compiled_is_refused_before_any_work(plain: Model, option: str, change: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedRequest) as caught:
        plain.generate(ask(**change))
    assert caught.value.option == option
    assert str(caught.value).isprintable()


def test_a_constraint_that_the_vocabulary_can_hardly_spell_still_holds(plain: Model) -> None:
    assert collect(plain, ask(constraint=Regex(pattern="🎉ü東"))).text == "🎉ü東"


def test_conversations_and_constraints_go_together(plain: Model) -> None:
    request = ask(constraint=JsonSchema(schema=PERSON), temperature=0)
    first = collect(plain, replace(request, conversation="c"))
    again = collect(plain, replace(request, conversation="c"))
    assert again.text == first.text
    assert again.finish.usage.cached_tokens > 0


def test_free_answers_never_import_the_library(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny", chat_template=CHATML_TOOLS_TEMPLATE)
    code = (
        "import sys; from pathlib import Path\n"
        "from metalchat_engine import EngineSettings, GenerationRequest, ModelSource\n"
        "from metalchat_engine_mlx import MlxEngine\n"
        "with MlxEngine().load(ModelSource(path=Path(sys.argv[1])), EngineSettings()) as model:\n"
        "    list(model.generate(GenerationRequest(prompt='Hi', max_tokens=2)))\n"
        "print('llguidance' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tiny")], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_mark_that_is_a_token_can_be_a_stop_string(tmp_path: Path) -> None:
    source = ModelSource(path=write_tiny_model(tmp_path / "tiny", chat_template=CHATML_TOOLS_TEMPLATE))
    with MlxEngine().load(source, EngineSettings()) as model:
        request = ask(tools=(CLOCK,), tool_choice="required", stop=("</tool_call>",))
        answer = collect(model, request)
        assert (len(answer.tool_calls), answer.finish.stop) == (1, "</tool_call>")
        answer = collect(model, replace(request, stop=("<tool_call>",)))
        assert (answer.events[-1], answer.text, answer.tool_calls) == (answer.finish, "", ())
        assert (answer.finish.reason, answer.finish.stop) == ("stop", "<tool_call>")
