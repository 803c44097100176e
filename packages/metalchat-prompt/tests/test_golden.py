"""The ids and texts of conversations are those of transformers, as written down by golden/make.py."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine import Message, ReasoningPart, TextPart, Tool, ToolCallPart, ToolResultPart
from metalchat_prompt import Prompt

GOLDEN = Path(__file__).parent / "golden"
MODELS = ("llama3", "chatml", "llama2", "llama2-metaspace")


def load(model: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{model}.json").read_bytes())


def message(entry: dict[str, Any]) -> Message:
    if entry["role"] == "tool":
        result = ToolResultPart(call_id=entry["tool_call_id"], name=entry["name"], content=entry["content"])
        return Message(role="tool", parts=(result,))
    calls = tuple(
        ToolCallPart(id=call["id"], name=call["function"]["name"], arguments=json.dumps(call["function"]["arguments"]))
        for call in entry.get("tool_calls", ())
    )
    reasoning = (ReasoningPart(text=entry["reasoning_content"]),) if "reasoning_content" in entry else ()
    return Message(role=entry["role"], parts=(*reasoning, TextPart(text=entry["content"]), *calls))


def tool(entry: dict[str, Any]) -> Tool:
    return Tool(**entry["function"])


@pytest.fixture(params=MODELS)
def golden(request: pytest.FixtureRequest) -> Iterator[tuple[Prompt, dict[str, Any]]]:
    written = load(request.param)
    with Prompt.from_parts(
        tokenizer_json=(GOLDEN / f"{request.param}.tokenizer.json").read_bytes(),
        chat_template=written["chat_template"],
        bos_token=written["bos_token"],
        eos_token=written["eos_token"],
    ) as prompt:
        yield prompt, written


def test_conversations_get_the_ids_that_transformers_gives(golden: tuple[Prompt, dict[str, Any]]) -> None:
    prompt, written = golden
    assert len(written["cases"]) >= 8
    for case in written["cases"]:
        messages = [message(entry) for entry in case["messages"]]
        options: dict[str, Any] = {
            "tools": [tool(entry) for entry in case["tools"] or ()],
            "generation_prompt": case["generation_prompt"],
            "variables": case["variables"],
        }
        assert prompt.text(messages, **options) == case["text"], case["name"]
        assert prompt.encode(messages, **options) == tuple(case["ids"]), case["name"]


def test_raw_text_gets_the_ids_that_transformers_gives(golden: tuple[Prompt, dict[str, Any]]) -> None:
    prompt, written = golden
    for entry in written["texts"]:
        assert prompt.encode_text(entry["text"]) == tuple(entry["ids"])


def test_the_golden_files_are_small() -> None:
    assert sum(file.stat().st_size for file in GOLDEN.iterdir() if file.is_file()) < 300_000
