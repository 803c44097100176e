"""Messages to the exact tokens a model was trained on, and its output back to text."""

import importlib
from typing import TYPE_CHECKING, Any

from metalchat_prompt.errors import (
    ConversationRefused,
    InvalidTemplate,
    InvalidTokenizer,
    NoTemplate,
    PromptError,
    TemplateRefused,
    TemplateTimeout,
    TemplateTooLong,
)

if TYPE_CHECKING:
    from metalchat_prompt._call_grammar import json_term
    from metalchat_prompt._process import Limits
    from metalchat_prompt.detokenizer import Detokenizer
    from metalchat_prompt.formats import CallFormat, OutputFormat, output_format
    from metalchat_prompt.parser import OutputEvent, OutputParser
    from metalchat_prompt.prompt import Prompt, template_text
    from metalchat_prompt.roles import RoleTemplate, detect, load_role_template, role_templates
    from metalchat_prompt.template import ChatTemplate
    from metalchat_prompt.tokenizer import AddedToken, Tokenizer

__all__ = [
    "AddedToken",
    "CallFormat",
    "ChatTemplate",
    "ConversationRefused",
    "Detokenizer",
    "InvalidTemplate",
    "InvalidTokenizer",
    "Limits",
    "NoTemplate",
    "OutputEvent",
    "OutputFormat",
    "OutputParser",
    "Prompt",
    "PromptError",
    "RoleTemplate",
    "TemplateRefused",
    "TemplateTimeout",
    "TemplateTooLong",
    "Tokenizer",
    "detect",
    "json_term",
    "load_role_template",
    "output_format",
    "role_templates",
    "template_text",
]

_LAZY = {
    "AddedToken": "tokenizer",
    "CallFormat": "formats",
    "ChatTemplate": "template",
    "Detokenizer": "detokenizer",
    "Limits": "_process",
    "OutputEvent": "parser",
    "OutputFormat": "formats",
    "OutputParser": "parser",
    "Prompt": "prompt",
    "RoleTemplate": "roles",
    "Tokenizer": "tokenizer",
    "detect": "roles",
    "json_term": "_call_grammar",
    "load_role_template": "roles",
    "output_format": "formats",
    "role_templates": "roles",
    "template_text": "prompt",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return __all__
