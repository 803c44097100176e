"""A model's own chat template: which one of several it is, what it sees, and its text."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from metalchat_prompt._process import Limits, TemplateProcess
from metalchat_prompt.errors import InvalidTemplate


class ChatTemplate:
    """A Jinja template as `transformers` understands it, rendered in a sandbox in another process.

    `source` is one template, or several by name: `tool_use` is taken when there are tools, else `default`.
    `tokens` are the special tokens by the names that templates know them by, such as `bos_token`.
    """

    def __init__(
        self, source: str | Mapping[str, str], *, tokens: Mapping[str, str] | None = None, limits: Limits | None = None
    ) -> None:
        self._sources = {"default": source} if isinstance(source, str) else dict(source)
        self._tokens = dict(tokens or {})
        self._process = TemplateProcess(limits)
        text = source if isinstance(source, str) else json.dumps(self._sources, sort_keys=True, ensure_ascii=False)
        self.digest = hashlib.sha256(text.encode()).hexdigest()

    @property
    def text(self) -> str:
        """All templates of the model, one after the other."""
        return "\n".join(self._sources.values())

    def source(self, *, tools: bool) -> str:
        """The template for a conversation with or without tools."""
        name = "tool_use" if tools and "tool_use" in self._sources else "default"
        if name not in self._sources:
            named = ", ".join(repr(name) for name in sorted(self._sources)) or "none"
            raise InvalidTemplate(f"the model has no chat template named 'default' (it has {named})")
        return self._sources[name]

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a conversation, in the form of dictionaries that chat templates take."""
        context = {
            **self._tokens,
            **(variables or {}),
            "messages": list(messages),
            "tools": None if tools is None else list(tools),
            "documents": None,
            "add_generation_prompt": generation_prompt,
        }
        return self._process.render(self.source(tools=tools is not None), context)

    def warm(self) -> None:
        """Starts the process early, without waiting for it."""
        self._process.start()

    def close(self) -> None:
        """Ends the process; a later `render` starts another."""
        self._process.close()
