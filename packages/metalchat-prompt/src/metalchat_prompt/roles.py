"""Role strings: how a conversation is written for models that carry no chat template of their own."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from metalchat_prompt._files import parse_object, read_limited
from metalchat_prompt.errors import ConversationRefused, InvalidTemplate, PromptError, visible
from metalchat_prompt.formats import THINK, OutputFormat, output_format

_SLOT = "${MESSAGE}"
_LIMIT = 2**20
_SLOTTED = frozenset({"user", "bot", "system", "first", "tool_response"})
_TEXTS = _SLOTTED | {"name", "system_prompt", "tool_call", "tool_spec", "end"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleTemplate:
    """Strings with one `${MESSAGE}` slot each. `user` and `tool_response` end with what makes the model answer.

    `first` stands in for `user` right after the system message (or at the start, if there is no `system`).
    `system_prompt` is said where the conversation has no system message. `end` follows the model's own text.
    `tool_call` is written around a call: what stands before and after its `(.*?)`. With `tool_spec` "openai", the tools
    follow the system message, one JSON schema a line. `stop` are strings or tokens that end an answer.
    """

    name: str
    user: str
    bot: str
    system: str | None = None
    first: str | None = None
    system_prompt: str | None = None
    tool_call: str | None = None
    tool_response: str | None = None
    tool_spec: str | None = None
    end: str = ""
    stop: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The template as JSON."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @property
    def digest(self) -> str:
        """The sha256 of the template as JSON, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def output_format(self, tokens: Iterable[str]) -> OutputFormat:
        """How calls are written, from `tool_call`; reasoning, from the tokens of the vocabulary."""
        found = output_format(self.tool_call or "", [token for token in tokens if token in THINK])
        return replace(found, takes_tools=found.calls is not None and None not in (self.tool_spec, self.system))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        generation_prompt: bool = True,
    ) -> str:
        """The text of a conversation. Raises ConversationRefused for what the role strings have no place for."""
        if tools and (self.tool_spec is None or self.system is None):
            raise ConversationRefused(f"the role strings '{self.name}' have no place for tools")
        if not generation_prompt and (not messages or messages[-1]["role"] != "assistant"):
            raise ConversationRefused(
                f"the role strings '{self.name}' cannot leave out the generation prompt after a message to the model"
            )
        turns = list(messages)
        opened = self.system is None
        if self.system is not None and self.system_prompt is not None and (not turns or turns[0]["role"] != "system"):
            turns.insert(0, {"role": "system", "content": self.system_prompt})
        elif tools and (not turns or turns[0]["role"] != "system"):
            turns.insert(0, {"role": "system", "content": ""})
        schemas = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools or ())
        written = []
        for turn in turns:
            text = _plain_content(turn)
            match turn["role"]:
                case "system":
                    if schemas:
                        text, schemas = f"{text}\n\n{schemas}".lstrip("\n"), ""
                    written.append(self._fill(self.system, text, "system messages"))
                    opened = True
                    continue
                case "assistant":
                    written.append(self._fill(self.bot, text + self._calls(turn) + self.end, "answers"))
                case "tool":
                    written.append(self._fill(self.tool_response, text, "tool results"))
                case _:
                    form = self.first if opened and self.first is not None else self.user
                    written.append(self._fill(form, text, "user messages"))
            opened = False
        return "".join(written)

    def _fill(self, form: str | None, text: str, what: str) -> str:
        if form is None:
            raise ConversationRefused(f"the role strings '{self.name}' have no place for {what}")
        return form.replace(_SLOT, text, 1)

    def _calls(self, turn: Mapping[str, Any]) -> str:
        calls = turn.get("tool_calls", ())
        if calls and self.tool_call is None:
            raise ConversationRefused(f"the role strings '{self.name}' have no place for tool calls")
        before, _, after = (self.tool_call or "").partition("(.*?)")
        return "".join(before + json.dumps(call["function"], ensure_ascii=False) + after for call in calls)


def role_templates() -> Mapping[str, RoleTemplate]:
    """The templates that come with this package, by name."""
    return _shipped()


def load_role_template(path: Path) -> RoleTemplate:
    """A template from a JSON file with the fields of RoleTemplate, `user` and `bot` at least."""
    try:
        data = read_limited(path, _LIMIT)
        if data is None:
            raise InvalidTemplate(f"there is no file '{visible(path.name)}'")
        return _parse(parse_object(data, path.name), path.stem)
    except InvalidTemplate:
        raise
    except PromptError as error:
        raise InvalidTemplate(str(error)) from error


def detect(name: str, tokens: Collection[str]) -> RoleTemplate | None:
    """The template for a model without one of its own: by the control tokens of its vocabulary, else by its name.

    `tokens` are the contents of the added tokens; `name` is a repository or folder name.
    """
    known = set(tokens)
    for needed, found in _BY_TOKENS:
        if needed <= known:
            return role_templates()[found]
    lowered = name.lower()
    for fits, found in _BY_NAME:
        if fits(lowered):
            return role_templates()[found]
    return None


@cache
def _shipped() -> Mapping[str, RoleTemplate]:
    data = json.loads(Path(__file__).with_name("roles.json").read_bytes())
    return MappingProxyType({name: _parse(entry, name) for name, entry in data.items()})


def _parse(entry: Mapping[str, Any], name: str) -> RoleTemplate:
    unknown = sorted(entry.keys() - _TEXTS - {"stop"})
    if unknown:
        raise InvalidTemplate(f"role strings '{visible(name)}': '{visible(unknown[0])}' is not a known field")
    for key in ("user", "bot"):
        if key not in entry:
            raise InvalidTemplate(f"role strings '{visible(name)}': '{key}' is missing")
    stop = entry.get("stop", [])
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise InvalidTemplate(f"role strings '{visible(name)}': 'stop' must be a list of strings that are not empty")
    texts = {key: value for key, value in entry.items() if key != "stop"}
    if texts.get("tool_spec", "openai") != "openai":
        raise InvalidTemplate(f"role strings '{visible(name)}': 'tool_spec' must be \"openai\"")
    for key, value in texts.items():
        if not isinstance(value, str):
            raise InvalidTemplate(f"role strings '{visible(name)}': '{key}' must be a string")
        if key in _SLOTTED and value.count(_SLOT) != 1:
            raise InvalidTemplate(f"role strings '{visible(name)}': '{key}' must have {_SLOT} in it once")
    return RoleTemplate(**{"name": name, **texts}, stop=tuple(stop))


def _plain_content(turn: Mapping[str, Any]) -> str:
    content = turn.get("content", "")
    if not isinstance(content, str):
        raise ConversationRefused("role strings have no place for images")
    return content


def _has(*words: str) -> Callable[[str], bool]:
    return lambda name: all(word in name for word in words)


def _matches(pattern: str) -> Callable[[str], bool]:
    return lambda name: re.search(pattern, name) is not None


_LLAMA_3 = frozenset({"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"})
_BY_TOKENS: tuple[tuple[frozenset[str], str], ...] = (
    (_LLAMA_3 | {"<|eom_id|>", "<|python_tag|>"}, "llama-3.1"),
    (_LLAMA_3, "llama-3"),
    (frozenset({"<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"}), "chat-ml-tools"),
    (frozenset({"<|im_start|>", "<|im_end|>"}), "chat-ml"),
    (frozenset({"<start_of_turn>", "<end_of_turn>"}), "gemma"),
)
_BY_NAME: tuple[tuple[Callable[[str], bool], str], ...] = (
    (_has("stablelm", "zephyr"), "stablelm-zephyr"),
    (_has("obsidian-3b"), "nous-obsidian"),
    (_matches(r"(?<![a-z])phi-?[12](?![0-9])"), "phi-2-instruct"),
    (_has("gemma"), "gemma"),
    (_has("tinyllama"), "tiny-llama"),
    (_has("sheared-llama"), "sheared-llama"),
    (_has("open_llama"), "open-llama"),
    (_matches(r"(?<![a-z])vila(?![a-z])"), "vicuna-v1"),
    (_has("llava", "llama-2"), "llava-llama-2"),
    (_has("llama-2"), "llama-2"),
    (_has("llama-3"), "llama-3"),
    (_has("vicuna", "v1"), "vicuna-v1"),
    (_has("vicuna"), "vicuna-v0"),
    (_has("llava", "v1"), "llava-v1"),
    (_has("llava"), "llava-v0"),
    (_has("openvla"), "openvla"),
)
