"""Grammars that let a model write nothing but calls of given tools, in the syntax of its family."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from metalchat_engine import Tool

from metalchat_prompt.formats import CallFormat, OutputFormat

Mark = Callable[[str], str]

_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_LISTS = {
    CallFormat.MISTRAL: ("[TOOL_CALLS]", "[", "]", ""),
    CallFormat.PHI: ("<|tool_call|>", "[", "]", "<|/tool_call|>"),
}


def json_term(schema: Mapping[str, Any]) -> str:
    """A term of a grammar for one JSON value, with a space after commas and colons and none elsewhere."""
    return "%json " + json.dumps({**schema, "x-guidance": _COMPACT}, ensure_ascii=False)


def after_reasoning(term: str, close: str, mark: Mark) -> str:
    """A grammar in which reasoning that the prompt has opened goes on freely, and `term` follows its end."""
    ended = mark(close)
    if ended.startswith("<"):
        return f"start: free {ended} space {term}\nfree: /(?s:.*)/\nspace: /\\n{{0,2}}/\n"
    return f"start: free space {term}\nfree[suffix={ended}]: /(?s:.*)/\nspace: /\\n{{0,2}}/\n"


def call_rules(layout: OutputFormat, tools: Sequence[Tool], mark: Mark, *, several: bool) -> str | None:
    """Rules for `calls`; None for a format that there is no grammar of.

    The notation is Lark's with the additions of llguidance: `%json`, numbers of tokens, suffixes.
    """
    rules: list[str] = []
    for place, tool in enumerate(tools):
        rules.append(f"arguments_{place}: {json_term(_closed(tool.parameters))}")
    match layout.calls:
        case CallFormat.LLAMA | CallFormat.GEMMA:
            calls = [_object(tool.name, place, "parameters") for place, tool in enumerate(tools)]
            return _joined(rules, "call", calls)
        case CallFormat.HERMES:
            begin, end = mark("<tool_call>"), mark("</tool_call>")
            calls = [
                f'{begin} "\\n" {_object(tool.name, place, "arguments")} "\\n" {end}'
                for place, tool in enumerate(tools)
            ]
            return _joined(rules, 'call ("\\n" call)*' if several else "call", calls)
        case CallFormat.QWEN_XML:
            return _xml(tools, mark, several=several)
        case CallFormat.MISTRAL if layout.named_arguments:
            begin, middle = mark("[TOOL_CALLS]"), mark("[ARGS]")
            calls = [f"{begin} {_quoted(tool.name)} {middle} arguments_{place}" for place, tool in enumerate(tools)]
            return _joined(rules, "call+" if several else "call", calls)
        case CallFormat.MISTRAL | CallFormat.PHI as known:
            begin, open_, close, end = _LISTS[known]
            calls = [_object(tool.name, place, "arguments") for place, tool in enumerate(tools)]
            items = 'call (", " call)*' if several else "call"
            marks = f'{mark(begin)} "{open_}" {items} "{close}" {mark(end) if end else ""}'
            return _joined(rules, marks, calls)
        case CallFormat.DEEPSEEK:
            begin, middle, end = (mark(f"<｜tool▁{part}｜>") for part in ("call▁begin", "sep", "call▁end"))
            calls = [
                f"{begin} {_quoted(tool.name)} {middle} arguments_{place} {end}" for place, tool in enumerate(tools)
            ]
            around = (mark("<｜tool▁calls▁begin｜>"), mark("<｜tool▁calls▁end｜>"))
            return _joined(rules, f"{around[0]} {'call+' if several else 'call'} {around[1]}", calls)
        case _:
            return None


def _object(name: str, place: int, key: str) -> str:
    begin = f"{{{_quoted('name')}: {_quoted(name)}, {_quoted(key)}: "
    return f'{_quoted(begin)} arguments_{place} "}}"'


def _joined(rules: list[str], calls: str, each: list[str]) -> str:
    return "\n".join([f"calls: {calls}", f"call: {' | '.join(each)}", *rules]) + "\n"


def _xml(tools: Sequence[Tool], mark: Mark, *, several: bool) -> str:
    begin, end = mark("<tool_call>"), mark("</tool_call>")
    each: list[str] = []
    rules: list[str] = []
    for place, tool in enumerate(tools):
        properties = tool.parameters.get("properties")
        required = tool.parameters.get("required")
        parts = [_quoted(f"\n<function={tool.name}>\n")]
        for number, (key, schema) in enumerate(properties.items() if isinstance(properties, Mapping) else ()):
            rule = f"value_{place}_{number}"
            rules.append(_xml_value(rule, schema, tool.parameters))
            opened = _quoted(f"<parameter={key}>\n")
            term = f"({opened} {rule})"
            parts.append(term if isinstance(required, list) and key in required else term + "?")
        parts.append(_quoted("</function>\n"))
        each.append(f"{begin} {' '.join(parts)} {end}")
    return _joined(rules, 'call ("\\n" call)*' if several else "call", each)


def _xml_value(rule: str, schema: object, root: Mapping[str, Any]) -> str:
    """A parameter up to and with its end: strings as they are, everything else as JSON."""
    end = "\n</parameter>\n"
    known = dict(schema) if isinstance(schema, Mapping) else {}
    choices = known.get("enum")
    if isinstance(choices, list) and choices and all(isinstance(choice, str) for choice in choices):
        return f"{rule}: ({' | '.join(map(_quoted, choices))}) {_quoted(end)}"
    if known.get("type") == "string":
        return f"{rule}[suffix={_quoted(end)}]: /(?s:.*)/"
    definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
    return f"{rule}: {json_term(definitions | known)} {_quoted(end)}"


def _closed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an object that has no other keys than those it names, unless it says otherwise."""
    closed = {"type": "object", **parameters}
    if "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
