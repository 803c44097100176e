"""A model's prompt format: its tokenizer and its chat template, together."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metalchat_engine import Message, Tool

from metalchat_prompt._call_grammar import after_reasoning, call_rules
from metalchat_prompt._conversation import message_dicts, tool_dicts
from metalchat_prompt._files import CONFIG_LIMIT, TEMPLATE_LIMIT, parse_object, read_limited, read_object
from metalchat_prompt._guard import Conversation, guarded_text
from metalchat_prompt._stops import stop_ids
from metalchat_prompt.detokenizer import Detokenizer, detokenizer
from metalchat_prompt.errors import ConversationRefused, InvalidTemplate, InvalidTokenizer, NoTemplate, visible
from metalchat_prompt.formats import OutputFormat, output_format
from metalchat_prompt.parser import OutputParser
from metalchat_prompt.roles import RoleTemplate, detect
from metalchat_prompt.template import ChatTemplate
from metalchat_prompt.tokenizer import SIZE_LIMIT, Tokenizer

_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
_TAIL = 16
_TOKEN_KEYS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Prompt:
    """Messages to token ids, and ids back to text, for one model. Safe to share between threads.

    Templates are rendered in a child process, which ends with `close`, with the object or with the program.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | RoleTemplate | None,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._template = template
        self._bos = None if bos_token is None else tokenizer.id(bos_token)
        stops = template.stop if isinstance(template, RoleTemplate) else ()
        self.stop_ids: frozenset[int] = stop_ids(tokenizer, [*stops, *([eos_token] if eos_token else [])])
        self.stop_strings: tuple[str, ...] = tuple(stop for stop in stops if tokenizer.added_token(stop) is None)

    @classmethod
    def from_directory(cls, path: Path, *, roles: RoleTemplate | None = None) -> "Prompt":
        """The prompt format of a model's folder: tokenizer.json, and what tells of special tokens and templates.

        Reads no other file, whatever these name. `roles` is used instead of any chat template.
        Raises InvalidTokenizer or InvalidTemplate.
        """
        data = read_limited(path / "tokenizer.json", SIZE_LIMIT)
        if data is None:
            raise InvalidTokenizer(f"the model in '{visible(path.name)}' has no tokenizer.json")
        config = {**read_object(path / "special_tokens_map.json"), **read_object(path / "tokenizer_config.json")}
        return cls._made(data, _template_file(path), config, roles=roles, name=path.name)

    @classmethod
    def from_parts(
        cls,
        *,
        tokenizer_json: bytes,
        chat_template: str | None,
        bos_token: str | None = None,
        eos_token: str | None = None,
        name: str = "",
        tokenizer_config: Mapping[str, Any] | None = None,
        roles: RoleTemplate | None = None,
    ) -> "Prompt":
        """The same from its parts; `name` is the model's, `tokenizer_config` what tokenizer_config.json would hold."""
        config = dict(tokenizer_config or {})
        config |= {key: token for key, token in (("bos_token", bos_token), ("eos_token", eos_token)) if token}
        return cls._made(tokenizer_json, chat_template, config, roles=roles, name=name)

    @classmethod
    def _made(
        cls, data: bytes, chat_template: object, config: Mapping[str, Any], *, roles: RoleTemplate | None, name: str
    ) -> "Prompt":
        tokenizer = Tokenizer(data)
        tokens = _named_tokens(config)
        source = _sources(config.get("chat_template") if chat_template is None else chat_template)
        template: ChatTemplate | RoleTemplate | None = roles
        if template is None:
            if source is not None:
                template = ChatTemplate(source, tokens=tokens)
            else:
                template = detect(name, frozenset(token.content for token in tokenizer.added))
        return cls(tokenizer, template, bos_token=tokens.get("bos_token"), eos_token=tokens.get("eos_token"))

    @property
    def has_template(self) -> bool:
        """Whether conversations can be written: by the model's own chat template, or by role strings."""
        return self._template is not None

    @property
    def template_digest(self) -> str:
        """The sha256 of the chat template or of the role strings, in hex; empty without either."""
        return "" if self._template is None else self._template.digest

    def encode(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> tuple[int, ...]:
        """The ids of a conversation. No text in a message, a tool or a variable becomes a control token.

        `variables` are further names that the chat template may look at. Raises NoTemplate, ConversationRefused, or
        what is wrong with the template.
        """
        conversation = _conversation(messages, tools, variables or {})
        template = self._known()
        source = template.source(tools=bool(tools)) if isinstance(template, ChatTemplate) else template.text
        written = guarded_text(
            lambda given: self._render(given, generation_prompt), conversation, self.tokenizer, source=source
        )
        ids = (
            self.tokenizer.encode(written, special=True)
            if isinstance(written, str)
            else self.tokenizer.encode_pieces(written)
        )
        if isinstance(template, RoleTemplate):
            ids = self._with_bos(ids)
        return tuple(ids)

    def text(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """A conversation as the model's template writes it, for people to read."""
        return self._render(_conversation(messages, tools, variables or {}), generation_prompt)

    def encode_text(self, text: str) -> tuple[int, ...]:
        """The ids of a raw prompt: control tokens written in it are recognised, and the tokenizer adds its own."""
        return tuple(self.tokenizer.encode_document(text))

    def detokenizer(self) -> Detokenizer:
        """A new detokenizer, for one answer."""
        return detokenizer(self.tokenizer)

    @property
    def output_format(self) -> OutputFormat:
        """How the model writes calls and reasoning: told from its template, or from its role strings and tokens."""
        template = self._template
        if template is None:
            return OutputFormat()
        if isinstance(template, ChatTemplate):
            return output_format(template.text)
        return template.output_format(token.content for token in self.tokenizer.added)

    def parser(
        self,
        tools: Sequence[Tool] = (),
        *,
        after: Sequence[int] = (),
        layout: OutputFormat | None = None,
        by_token: bool = False,
    ) -> OutputParser:
        """A new parser, for one answer to the prompt whose ids are `after`, in which the model may call `tools`.

        `layout` is used instead of the model's own `output_format`. With `by_token`, the marks of calls and reasoning
        that are tokens of the vocabulary count only as tokens, which the caller then has to hand over.
        """
        layout = self.output_format if layout is None else layout
        tokens = {token.id: token.content for token in self.tokenizer.added} if by_token else {}
        opened = layout.reasoning is not None and self._opens(layout.reasoning, after)
        return OutputParser(layout, tools, tokens=tokens, opened=opened)

    def answer_grammar(self, term: str, *, after: Sequence[int] = ()) -> str:
        """A grammar, in Lark's notation, of answers to the prompt `after`.

        An answer is `term`; where the prompt has opened reasoning, the rest of that comes first.
        """
        reasoning = self.output_format.reasoning
        if reasoning is None or not self._opens(reasoning, after):
            return f"start: {term}\n"
        return after_reasoning(term, reasoning[1], self._mark)

    def call_grammar(
        self,
        tools: Sequence[Tool],
        *,
        after: Sequence[int] = (),
        several: bool = True,
        layout: OutputFormat | None = None,
    ) -> str | None:
        """A grammar of answers to the prompt `after` that are calls of `tools`: one, or with `several` one or more.

        None where the model's way to write calls has no grammar here. The notation is Lark's with `%json` and the
        numbers of tokens, as llguidance reads it.
        """
        rules = call_rules(layout or self.output_format, tools, self._mark, several=several)
        return None if rules is None else self.answer_grammar("calls", after=after) + rules

    def warm(self) -> None:
        """Starts the process that renders the template, without waiting for it."""
        if isinstance(self._template, ChatTemplate):
            self._template.warm()

    def close(self) -> None:
        """Ends that process. Encoding a conversation starts another."""
        if isinstance(self._template, ChatTemplate):
            self._template.close()

    def __enter__(self) -> "Prompt":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opens(self, reasoning: tuple[str, str], after: Sequence[int]) -> bool:
        """Whether a prompt ends in the middle of reasoning that has just been opened."""
        return self.tokenizer.decode(after[-_TAIL:], skip_special=False).rstrip().endswith(reasoning[0])

    def _mark(self, spelling: str) -> str:
        """A mark in a grammar: as a token where it is one."""
        token = self.tokenizer.added_token(spelling)
        return json.dumps(spelling, ensure_ascii=False) if token is None else f"<[{token.id}]>"

    def _known(self) -> ChatTemplate | RoleTemplate:
        if self._template is None:
            raise NoTemplate(
                "the model has no chat template, and none is known for its tokens or its name; give it a raw prompt"
            )
        return self._template

    def _render(self, conversation: Conversation, generation_prompt: bool) -> str:
        template = self._known()
        if isinstance(template, RoleTemplate):
            if conversation.variables:
                name = visible(next(iter(conversation.variables)))
                raise ConversationRefused(f"role strings have no variables (got '{name}')")
            return template.render(conversation.messages, tools=conversation.tools, generation_prompt=generation_prompt)
        return template.render(
            conversation.messages,
            tools=conversation.tools,
            generation_prompt=generation_prompt,
            variables=conversation.variables,
        )

    def _with_bos(self, ids: list[int]) -> list[int]:
        """Role strings often leave the beginning-of-text token to the tokenizer."""
        added = self.tokenizer.encode_document("")[:1]
        return ids if self._bos is None or added != [self._bos] or ids[:1] == added else added + ids


def _conversation(messages: Sequence[Message], tools: Sequence[Tool], variables: Mapping[str, Any]) -> Conversation:
    if not messages:
        raise ConversationRefused("the conversation has no messages")
    taken = sorted(_RESERVED & variables.keys())
    if taken:
        raise ConversationRefused(f"'{taken[0]}' cannot be a variable of the chat template")
    return Conversation(messages=message_dicts(messages), tools=tool_dicts(tools), variables=variables)


def template_text(path: Path) -> str | None:
    """The text of all chat templates in a model's folder, without a look at its tokenizer; None without any.

    Raises InvalidTokenizer or InvalidTemplate.
    """
    source = _template_file(path)
    if source is None:
        config = {**read_object(path / "special_tokens_map.json"), **read_object(path / "tokenizer_config.json")}
        source = config.get("chat_template")
    found = _sources(source)
    return found if found is None or isinstance(found, str) else "\n".join(found.values())


def _template_file(path: Path) -> object:
    """The template files of a model's folder, which come before what its configuration has."""
    default = _text_file(path / "chat_template.jinja")
    if default is None:
        data = read_limited(path / "chat_template.json", CONFIG_LIMIT)
        return None if data is None else parse_object(data, "chat_template.json").get("chat_template")
    tool_use = _text_file(path / "additional_chat_templates" / "tool_use.jinja")
    return default if tool_use is None else {"default": default, "tool_use": tool_use}


def _text_file(path: Path) -> str | None:
    data = read_limited(path, TEMPLATE_LIMIT)
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError as error:
        raise InvalidTemplate(f"'{path.name}' is not UTF-8") from error


def _sources(value: object) -> str | dict[str, str] | None:
    """One template or several, from any of the forms that a configuration has it in; None without any.

    Raises InvalidTemplate for what is neither.
    """
    if value in (None, "", [], {}):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        pairs = [(entry.get("name"), entry.get("template")) for entry in value if isinstance(entry, dict)]
        whole = len(pairs) == len(value)
    else:
        pairs = list(value.items()) if isinstance(value, dict) else []
        whole = bool(pairs)
    named = {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}
    if not whole or len(named) < len(pairs):
        raise InvalidTemplate("the model's 'chat_template' is neither a text nor a list of named texts")
    return named


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens by name, from strings or from descriptions of added tokens."""
    tokens = {}
    for key in _TOKEN_KEYS:
        value = config.get(key)
        value = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(value, str):
            tokens[key] = value
    return tokens
