"""What begins a call in each family, and how soon it is certain that it does."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from metalchat_prompt._bodies import Body, FenceBody, JsonBody, PythonBody, RawBody, XmlBody
from metalchat_prompt._calls import CallReader
from metalchat_prompt.formats import CallFormat

UNDECIDED = 1024
"""Characters after which what has not become a call is text."""


@dataclass(frozen=True, slots=True)
class Start:
    """A call has begun: its body takes the held text from `at` on."""

    body: Body
    at: int


# None while more text is needed, False for no call. What is said of a text holds for every longer one.
Verdict: TypeAlias = Callable[[str], Start | bool | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opener:
    """`verdict` looks at what follows; `inner` are markers that may be part of that.

    `closers` may follow the call, and a character out of `again` begins another after it.
    """

    verdict: Verdict
    inner: Collection[str] = ()
    closers: Collection[str] = ()
    again: str = ""
    line_start: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Syntax:
    """The openers of a family: by their spelling, and by the first character of an answer."""

    openers: Mapping[str, Opener]
    first: Mapping[str, Opener]
    markers: frozenset[str]
    silent: frozenset[str] = frozenset()


def syntax(format_: CallFormat, reader: CallReader) -> Syntax:
    """Everything that may begin a call in this family."""
    first: dict[str, Opener] = {}
    silent: frozenset[str] = frozenset()
    extra: frozenset[str] = frozenset()
    tag = Opener(verdict=partial(_function_tag, reader), closers=("</function>", "<|python_tag|>"))
    match format_:
        case CallFormat.LLAMA:
            bare = Opener(verdict=partial(_object, reader), again="{")
            openers = {
                "<|python_tag|>": Opener(
                    verdict=partial(_python_tag, reader), inner=("<function=",), closers=("</function>",), again="{"
                ),
                "<function=": tag,
            }
            first = {"{": bare, "[": Opener(verdict=partial(_list, reader))}
        case CallFormat.HERMES | CallFormat.QWEN_XML:
            closers = ("</tool_call>", "</function>")
            openers = {"<tool_call>": Opener(verdict=partial(_tag, reader), inner=("<function=",), closers=closers)}
            if format_ is CallFormat.QWEN_XML:
                openers["<function="] = Opener(verdict=lambda _: Start(_tagged(XmlBody(reader)), 0), closers=closers)
            extra = frozenset({"<function=", "<parameter=", "</parameter>", *closers})
        case CallFormat.MISTRAL:
            opener = Opener(verdict=partial(_mistral, reader), inner=("[ARGS]", "[CALL_ID]"))
            openers = {"[TOOL_CALLS]": opener}
        case CallFormat.PHI:
            openers = {"<|tool_call|>": Opener(verdict=partial(_json, reader), closers=("<|/tool_call|>",))}
        case CallFormat.GEMMA:
            openers = {"```tool_code\n": Opener(verdict=lambda _: Start(FenceBody(reader), 0), line_start=True)}
            first = {
                "{": Opener(verdict=partial(_object, reader), again="{"),
                "[": Opener(verdict=partial(_list, reader)),
            }
        case CallFormat.FUNCTION_GEMMA:
            openers = {"<start_function_call>": _gemma(reader, "<end_function_call>", "<escape>")}
        case CallFormat.GEMMA_4:
            openers = {"<|tool_call>": _gemma(reader, "<tool_call|>", '<|"|>')}
        case CallFormat.DEEPSEEK:
            close = "<｜tool▁call▁end｜>"
            inner = ("<｜tool▁sep｜>",)
            silent = frozenset({"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"})
            body = partial(RawBody, reader, reader.deepseek, closers=(close,), inner=inner)
            openers = {"<｜tool▁call▁begin｜>": Opener(verdict=lambda _: Start(body(), 0))}
            extra = frozenset({close, *inner})
    markers = set(openers) | silent | extra
    for opener in (*openers.values(), *first.values()):
        markers |= {*opener.inner, *opener.closers}
    return Syntax(openers=openers, first=first, markers=frozenset(markers), silent=silent)


def _gemma(reader: CallReader, close: str, quote: str) -> Opener:
    body = partial(RawBody, reader, partial(reader.gemma, quote=quote), closers=(close,), inner=(quote,))
    return Opener(verdict=lambda held: _call_prefix(held, body), inner=(quote,), closers=(close,))


def _call_prefix(held: str, body: Callable[[], Body]) -> Start | bool | None:
    text = held.lstrip()
    if text.startswith("call:"):
        return Start(body(), 0)
    return None if "call:".startswith(text) else False


def _json(reader: CallReader, held: str) -> Start | bool | None:
    at = _after_space(held)
    return None if at is None else held[at] in "{[" and Start(JsonBody(reader), at)


def _tag(reader: CallReader, held: str) -> Start | bool | None:
    at = _after_space(held)
    if at is not None and "<function=".startswith(held[at : at + len("<function=")]):
        return Start(XmlBody(reader), at) if held.startswith("<function=", at) else None
    return _json(reader, held)


def _function_tag(reader: CallReader, held: str) -> Start | bool | None:
    found = _TAG_NAME.match(held)
    if found is None:
        return None if _TAG_NAME_BEGUN.fullmatch(held) else False
    at = _after_space(held, found.end())
    if at is None:
        return None
    name = found[1]
    return held[at] == "{" and Start(JsonBody(reader, lambda text: reader.call(name, text, text)), at)


_TAG_NAME = re.compile(r"""["']?([\w.-]{1,128})["']?>""", re.ASCII)
_TAG_NAME_BEGUN = re.compile(r"""["']?[\w.-]{0,128}["']?""", re.ASCII)


def _python_tag(reader: CallReader, held: str) -> Start | bool | None:
    at = _after_space(held)
    if at is None:
        return None
    if held[at] == "{":
        return Start(JsonBody(reader), at)
    tag = "<function="
    if tag.startswith(held[at : at + len(tag)]):
        found = _function_tag(reader, held[at + len(tag) :]) if held.startswith(tag, at) else None
        if isinstance(found, Start):
            return Start(found.body, at + len(tag) + found.at)
        if found is None:
            return None
    return Start(RawBody(reader, reader.tagged), at)


_MISTRAL = re.compile(r"\s*([A-Za-z_][\w.-]{0,127})(?:\[CALL_ID\]([A-Za-z0-9]{1,64}))?(?:\[ARGS\])?\s*(?=\{)", re.ASCII)
_MISTRAL_BEGUN = re.compile(r"\s*[A-Za-z_][\w.-]{0,127}(?:\[CALL_ID\][A-Za-z0-9]{0,64})?(?:\[ARGS\])?\s*", re.ASCII)


def _mistral(reader: CallReader, held: str) -> Start | bool | None:
    at = _after_space(held)
    if at is None or held[at] in "{[":
        return _json(reader, held)
    found = _MISTRAL.match(held)
    if found is None:
        return None if _MISTRAL_BEGUN.fullmatch(held) else False
    name, own_id = found[1], found[2] or ""
    return Start(JsonBody(reader, lambda text: reader.call(name, text, text, own_id=own_id)), found.end())


_OBJECT = re.compile(r'\s*\{\s*"(name|function|type)"\s*:\s*"([^"\\]{0,128})"')
# The same up to the end of the text, wherever that is.
_OBJECT_BEGUN = re.compile(r'\s*(?:\{\s*(?:"(?:(\w*)|(name|function|type)"\s*(?::\s*(?:"([^"\\]{0,128}))?)?))?)?')
_SECOND = re.compile(r'\s*,\s*"(name)"\s*:\s*"([^"\\]{0,128})"')
_SECOND_BEGUN = re.compile(r'\s*(?:,\s*(?:"(?:(\w*)|(name)"\s*(?::\s*(?:"([^"\\]{0,128}))?)?))?)?')


def _object(reader: CallReader, held: str) -> Start | bool | None:
    """`{"name": "f"` with a declared f, `{"function": "f"`, or `{"type": "function", "name": "f"`."""
    found = _OBJECT.match(held)
    if found is None:
        return _begun(_OBJECT_BEGUN.fullmatch(held), ("name", "function", "type"), [*reader.tools, "function"])
    if found[1] == "type":
        if found[2] != "function":
            return False
        second = _SECOND.match(held, found.end())
        if second is None:
            return _begun(_SECOND_BEGUN.fullmatch(held, found.end()), ("name",), reader.tools)
        found = second
    return found[2] in reader.tools and Start(JsonBody(reader), 0)


def _begun(found: re.Match[str] | None, keys: Collection[str], values: Collection[str]) -> bool | None:
    """None if what there is may still become one of the keys with one of the values."""
    if found is None:
        return False
    key, value = found[1], found[3]
    if key is not None and not any(known.startswith(key) for known in keys):
        return False
    return None if value is None or any(known.startswith(value) for known in values) else False


_LIST = re.compile(r"\s*\[\s*(?:default_api\.)?([A-Za-z_][\w.-]{0,127})\s*\(", re.ASCII)
_LIST_BEGUN = re.compile(r"\s*\[\s*(?:(?:default_api\.)?([A-Za-z_][\w.-]{0,127})?\s*)?", re.ASCII)


def _list(reader: CallReader, held: str) -> Start | bool | None:
    """`[f(` with a declared f."""
    found = _LIST.match(held)
    if found is not None:
        return found[1] in reader.tools and Start(PythonBody(reader), 0)
    begun = _LIST_BEGUN.fullmatch(held)
    if begun is None:
        return False
    name = begun[1] or ""
    return None if any(known.startswith(name) for known in (*reader.tools, "default_api.")) else False


def _after_space(text: str, at: int = 0) -> int | None:
    """Where the first character is that is no space; None if there is none."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at if at < len(text) else None


def _tagged(body: XmlBody) -> XmlBody:
    body.take("<function=")
    return body
