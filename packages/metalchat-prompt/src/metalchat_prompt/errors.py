"""Everything that this package raises.

    PromptError
    ├── InvalidTokenizer        tokenizer.json or a file beside it cannot be used
    ├── InvalidTemplate         the chat template does not compile, or fails on every conversation like this one
    ├── TemplateRefused         the chat template uses something that is not allowed
    ├── TemplateTimeout         the chat template took too long
    ├── TemplateTooLong         the chat template produced too much text, or needed too much memory
    ├── NoTemplate              the model says nowhere how a conversation is written for it
    └── ConversationRefused     the chat template does not accept this conversation, tool or variable

`exit_code` is what a command-line program ends with: 6 for data that came with the model, 2 for what the caller gave.
Messages are one line; text that a model's files wrote is filtered by `visible` before it gets into one.
"""

import re
from typing import ClassVar

_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
_LONGEST = 300


class PromptError(Exception):
    """Base of all errors of this package."""

    exit_code: ClassVar[int] = 6


class InvalidTokenizer(PromptError):
    """The tokenizer's files are damaged, too large, or make the tokenizer library fail."""


class InvalidTemplate(PromptError):
    """A chat template, or a file of role strings, that cannot be used."""


class TemplateRefused(PromptError):
    """A chat template that reaches for what the sandbox does not allow."""


class TemplateTimeout(PromptError):
    """Rendering did not end before the deadline; the process that did it was killed."""


class TemplateTooLong(PromptError):
    """Rendering went past the limit of its output or of its memory."""


class NoTemplate(PromptError):
    """Neither a chat template nor role strings are known for the model."""


class ConversationRefused(PromptError):
    """The chat template itself refused the conversation, or has no place for a part of it."""

    exit_code: ClassVar[int] = 2


def visible(text: str) -> str:
    """`text` in one line: control, bidirectional and invisible characters as escapes, at most 300 characters."""
    shown = _HIDDEN.sub(lambda found: " " if found[0] == "\n" else f"\\x{ord(found[0]):02x}", text[:_LONGEST])
    return shown.strip() + ("…" if len(text) > _LONGEST else "")
