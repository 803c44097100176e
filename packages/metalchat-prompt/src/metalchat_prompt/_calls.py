"""Whole calls, read from what a model wrote, and held against the tools that were declared."""

import json
import re
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from metalchat_engine import CallProblem, RejectedToolCall, Tool, ToolCall

from metalchat_prompt._python_calls import PythonCall, Unreadable, python_calls
from metalchat_prompt._schema import problem
from metalchat_prompt.errors import visible

LONGEST = 2**20
_ALPHABET = string.ascii_letters + string.digits
_CODE_TOOLS = ("code_interpreter", "python", "ipython")
_BARE_KEY = re.compile(r"[\w.$-]+")
_BARE_VALUE = re.compile(r"[^,{}\[\]<]+")
_PARAMETER = "<parameter="
_DEPTH = 64


def new_id() -> str:
    """Nine letters and digits, which the templates of all families accept."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(9))


class CallReader:
    """Makes events of calls. `new_id` names those that bring no id of their own."""

    def __init__(self, tools: Sequence[Tool], make_id: Callable[[], str] = new_id) -> None:
        self.tools: Mapping[str, Tool] = {tool.name: tool for tool in tools}
        self._make_id = make_id

    def call(self, name: str, arguments: object, text: str, *, own_id: str = "") -> ToolCall | RejectedToolCall:
        """A call whose name and arguments are known."""
        tool = self.tools.get(name)
        if tool is None:
            return self.rejected("unknown_tool", text, f"there is no tool '{visible(name)}'", name=name)
        if isinstance(arguments, str):
            try:
                arguments = strict_json(arguments)
            except ValueError:
                return self.rejected("malformed", text, "the arguments are not a JSON object", name=name)
        arguments = dict[str, Any]() if arguments is None else arguments
        if not isinstance(arguments, dict):
            return self.rejected("malformed", text, "the arguments are not a JSON object", name=name)
        wrong = problem(arguments, tool.parameters)
        if wrong is not None:
            return self.rejected("invalid_arguments", text, visible(wrong), name=name)
        try:
            written = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
            written.encode()
        except (ValueError, RecursionError):
            return self.rejected("malformed", text, "the arguments hold what is no character or number", name=name)
        return ToolCall(id=own_id or self._make_id(), name=name, arguments=written)

    def rejected(self, kind: CallProblem, text: str, message: str, *, name: str = "") -> RejectedToolCall:
        return RejectedToolCall(id=self._make_id(), name=visible(name), text=text, problem=kind, message=message)

    def json_call(self, text: str) -> ToolCall | RejectedToolCall:
        """`{"name": …, "arguments": …}`, or `parameters`, or the form of OpenAI with `function`."""
        try:
            value = strict_json(text)
        except ValueError:
            return self.rejected("malformed", text, "the call is not valid JSON")
        inner = value.get("function") if isinstance(value, dict) else None
        if isinstance(inner, dict):
            value = inner
        name = value.get("name", inner) if isinstance(value, dict) else None
        if not isinstance(value, dict) or not isinstance(name, str):
            return self.rejected("malformed", text, "the call names no tool")
        arguments = next((value[key] for key in ("arguments", "parameters", "args") if key in value), None)
        return self.call(name, arguments, text)

    def python(self, text: str) -> list[ToolCall | RejectedToolCall]:
        """`[f(a=1), g()]`, or calls one a line."""
        try:
            found = python_calls(text)
        except (Unreadable, RecursionError) as error:
            reason = visible(str(error)) or "it is nested too deeply"
            return [self.rejected("malformed", text, f"the call cannot be read: {reason}")]
        return [self._python_call(call, text) for call in found]

    def tagged(self, text: str) -> list[ToolCall | RejectedToolCall]:
        """What follows `<|python_tag|>` and is not JSON: a call, or code for a tool that takes code."""
        if re.match(r"\s*[A-Za-z_][\w.-]*\(", text):
            made = self.python(text)
            if any(isinstance(call, ToolCall) for call in made) or not self._code_tool():
                return made
        tool = self._code_tool()
        if tool is None:
            return [self.rejected("malformed", text, "the call cannot be read, and no tool takes code")]
        return [self.call(tool.name, {"code": text}, text)]

    def xml(self, text: str) -> ToolCall | RejectedToolCall:
        """`<function=f><parameter=a>…</parameter></function>`; values are JSON unless the schema says string."""
        begin = text.find("<function=") + len("<function=")
        at = text.find(">", begin)
        if at < 0:
            return self.rejected("malformed", text, "the call names no tool")
        name = text[begin:at].strip()
        tool = self.tools.get(name)
        properties = tool.parameters.get("properties") if tool is not None else None
        properties = properties if isinstance(properties, Mapping) else {}
        arguments: dict[str, Any] = {}
        while (start := text.find(_PARAMETER, at)) >= 0:
            end, middle = text.find("</parameter>", start), text.find(">", start)
            if end < 0 or not start < middle < end:
                return self.rejected("malformed", text, "a parameter has no end", name=name)
            key, value = text[start + len(_PARAMETER) : middle].strip(), text[middle + 1 : end]
            arguments[key] = _typed(value.removeprefix("\n").removesuffix("\n"), properties.get(key))
            at = end
        return self.call(name, arguments, text)

    def gemma(self, text: str, *, quote: str) -> ToolCall | RejectedToolCall:
        """`call:f{a:"x",n:1}` with `quote` in the place of quotation marks."""
        found = re.match(r"\s*call:([\w.-]+)", text)
        if found is None:
            return self.rejected("malformed", text, "the call names no tool")
        reader = _BareReader(text.rstrip(), found.end(), quote)
        try:
            arguments = reader.value(0)
        except (Unreadable, RecursionError):
            return self.rejected("malformed", text, "the arguments cannot be read", name=found[1])
        if not reader.ended:
            return self.rejected("malformed", text, "something follows the arguments", name=found[1])
        return self.call(found[1], arguments, text)

    def deepseek(self, text: str) -> ToolCall | RejectedToolCall:
        """`f<｜tool▁sep｜>{…}`, or `function<｜tool▁sep｜>f` and a fence of JSON."""
        name, _, body = text.partition("<｜tool▁sep｜>")
        name = name.strip()
        if "```json" in body:
            name, _, body = body.partition("```json")
            name, body = name.strip(), body.rpartition("```")[0]
        return self.call(name, body.strip(), text)

    def _python_call(self, call: PythonCall, text: str) -> ToolCall | RejectedToolCall:
        tool = self.tools.get(call.name)
        properties = tool.parameters.get("properties") if tool is not None else None
        names = list(properties) if isinstance(properties, Mapping) else []
        if len(call.positional) > len(names) and tool is not None:
            return self.rejected("invalid_arguments", text, "there are too many arguments", name=call.name)
        arguments = dict(zip(names, call.positional, strict=False))
        if arguments.keys() & call.named.keys():
            return self.rejected("invalid_arguments", text, "an argument is given twice", name=call.name)
        return self.call(call.name, arguments | call.named, text)

    def _code_tool(self) -> Tool | None:
        return next((self.tools[name] for name in _CODE_TOOLS if name in self.tools), None)


def strict_json(text: str) -> Any:
    """JSON as its standard has it, NaN and Infinity refused. Raises ValueError for everything that is wrong."""
    try:
        return json.loads(text, parse_constant=_refused)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refused(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _typed(text: str, schema: object) -> Any:
    """A parameter's text as what its schema asks for."""
    kinds = schema.get("type") if isinstance(schema, Mapping) else None
    if kinds == "string" or (isinstance(schema, Mapping) and kinds is None and _strings(schema.get("enum"))):
        return text
    try:
        return strict_json(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text.strip(), text)


def _strings(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


class _BareReader:
    """JSON without quotation marks around keys, and with other marks around strings."""

    def __init__(self, text: str, at: int, quote: str) -> None:
        self._text, self._at, self._quote = text, at, quote

    @property
    def ended(self) -> bool:
        return self._at >= len(self._text)

    def value(self, depth: int) -> Any:
        if depth > _DEPTH:
            raise Unreadable("it is nested too deeply")
        if self._took("{"):
            entries: dict[str, Any] = {}
            while not self._took("}"):
                key = self._string() if self._text.startswith(self._quote, self._at) else self._matched(_BARE_KEY)
                self._expect(":")
                entries[key] = self.value(depth + 1)
                if not self._took(","):
                    self._expect("}")
                    break
            return entries
        if self._took("["):
            items: list[Any] = []
            while not self._took("]"):
                items.append(self.value(depth + 1))
                if not self._took(","):
                    self._expect("]")
                    break
            return items
        if self._text.startswith(self._quote, self._at):
            return self._string()
        return _typed(self._matched(_BARE_VALUE).strip(), None)

    def _string(self) -> str:
        start = self._at + len(self._quote)
        end = self._text.find(self._quote, start)
        if end < 0:
            raise Unreadable("a string has no end")
        self._at = end + len(self._quote)
        return self._text[start:end]

    def _took(self, mark: str) -> bool:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        if not self._text.startswith(mark, self._at):
            return False
        self._at += 1
        return True

    def _expect(self, mark: str) -> None:
        if not self._took(mark):
            raise Unreadable(f"{mark!r} is missing")

    def _matched(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise Unreadable("there is something else than a value")
        self._at = found.end()
        return found[0]
