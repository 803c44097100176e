"""`metalchat prompt --schema`: the answer is one JSON value, or the command fails."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine import Capabilities, Finish, JsonSchema, TextDelta, Timings, Usage
from metalchat_engine.testing import EchoEngine

Cli = Callable[..., Any]
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def scripted(text: str, *, reason: Any = "stop") -> list[Any]:
    usage = Usage(prompt_tokens=1, completion_tokens=7)
    finish = Finish(reason=reason, usage=usage, timings=Timings(prefill_seconds=0, decode_seconds=0))
    return [*(TextDelta(text=letter) for letter in text), finish]


@pytest.fixture
def engine(checked_out: str, use_engine: Callable[[Any], Any]) -> Callable[..., EchoEngine]:
    """An engine that keeps to schemas, with scripted answers."""

    def make(*replies: Any, json_schema: bool = True) -> EchoEngine:
        return use_engine(EchoEngine(replies, capabilities=Capabilities(seed=True, json_schema=json_schema)))

    return make


def schema_file(content: object = SCHEMA) -> Path:
    path = Path("schema.json")
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def test_the_schema_reaches_the_engine_and_the_answer_is_json(engine: Callable[..., EchoEngine], cli: Cli) -> None:
    made = engine(scripted('{"name": "Ann"}'))
    done = cli("prompt", "--schema", schema_file(), "-c", "Who?")
    assert (done.code, json.loads(done.out), done.err) == (0, {"name": "Ann"}, "")
    assert made.requests[-1].constraint == JsonSchema(schema=SCHEMA)


def test_without_the_option_there_is_no_constraint(engine: Callable[..., EchoEngine], cli: Cli) -> None:
    made = engine(scripted("Ann"))
    assert cli("prompt", "-c", "Who?").code == 0
    assert made.requests[-1].constraint is None


def test_control_characters_are_escaped_so_that_json_stays_json(engine: Callable[..., EchoEngine], cli: Cli) -> None:
    engine(scripted('{"name": "a\x85\x9bm\x7f"}'))
    done = cli("prompt", "--schema", schema_file(), "-c", "Who?")
    assert done.out.isprintable()
    assert json.loads(done.out) == {"name": "a\x85\x9bm\x7f"}


def test_an_answer_that_was_cut_off_fails(engine: Callable[..., EchoEngine], cli: Cli) -> None:
    engine(scripted('{"name": "An', reason="length"), scripted("A story", reason="length"))
    done = cli("prompt", "--schema", schema_file(), "-c", "Who?", "--stats")
    assert (done.code, done.out) == (1, '{"name": "An')
    message = "metalchat: error: the answer was cut off after 7 tokens and is not whole; raise --max-tokens"
    assert done.err.splitlines()[-1] == message
    assert cli("prompt", "-c", "Tell").code == 0


def test_an_engine_without_schemas_refuses(engine: Callable[..., EchoEngine], fails: Callable[..., str]) -> None:
    engine(json_schema=False)
    assert "constraint with a JSON Schema is not supported" in fails(
        2, "prompt", "--schema", schema_file(), "-c", "Who?"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "the schema 'schema.json' is not JSON: Expecting property name"),
        (b"[]", "the schema 'schema.json' is not a JSON object"),
        (b'{"minimum": NaN}', "the schema 'schema.json' is not JSON: NaN is no number of JSON"),
        (b"\xff", "the schema 'schema.json' is not JSON: 'utf-8' codec"),
        (b"[" * 100_000, "the schema 'schema.json' is not JSON: nested too deeply"),
        (b'{"a": "' + b"x" * 2**20 + b'"}', "the schema 'schema.json' is larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_schema_is_named_before_a_model_is_loaded(
    content: bytes, message: str, fails: Callable[..., str]
) -> None:
    assert message in fails(2, "prompt", "--schema", schema_file(content), "-c", "Who?")


def test_a_file_that_is_not_there_is_named(fails: Callable[..., str]) -> None:
    assert "cannot read the schema 'nowhere.json': no such file" in fails(
        2, "prompt", "--schema", "nowhere.json", "-c", "Who?"
    )


def test_a_byte_order_mark_is_no_harm(engine: Callable[..., EchoEngine], cli: Cli) -> None:
    made = engine(scripted("1"))
    assert cli("prompt", "--schema", schema_file(b"\xef\xbb\xbf{}"), "-c", "Who?").code == 0
    assert made.requests[-1].constraint == JsonSchema(schema={})


@pytest.mark.parametrize("command", ["chat", "quickstart"])
def test_conversations_take_no_schema(command: str, fails: Callable[..., str]) -> None:
    assert "--schema" in fails(2, command, "--schema", str(schema_file()))
