"""Messages and tools as the dictionaries that chat templates are written for."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from metalchat_engine import (
    ImagePart,
    Message,
    ReasoningPart,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)


def message_dicts(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """One dictionary a message, and one for each tool result, since a template takes one result at a time."""
    dicts: list[dict[str, Any]] = []
    for message in messages:
        results = [part for part in message.parts if isinstance(part, ToolResultPart)]
        dicts.extend(
            {"role": "tool", "tool_call_id": part.call_id, "name": part.name, "content": part.content}
            for part in results
        )
        if not results or len(results) < len(message.parts):
            dicts.append(_message_dict(message))
    return dicts


def tool_dicts(tools: Sequence[Tool]) -> list[dict[str, Any]] | None:
    """Function schemas in OpenAI's form; None without tools, as templates test for it."""
    if not tools:
        return None
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
        }
        for tool in tools
    ]


def _message_dict(message: Message) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": _content(message)}
    reasoning = "".join(part.text for part in message.parts if isinstance(part, ReasoningPart))
    if reasoning:
        # Templates read either name.
        made["reasoning_content"] = made["thinking"] = reasoning
    calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
    if calls:
        made["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in calls
        ]
    return made


def _content(message: Message) -> str | list[dict[str, str]]:
    if not any(isinstance(part, ImagePart) for part in message.parts):
        return message.text
    return [
        {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}
        for part in message.parts
        if isinstance(part, TextPart | ImagePart)
    ]


def _arguments(text: str) -> object:
    """The parsed object, which templates expect; what a model wrote that is no JSON object stays text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text
