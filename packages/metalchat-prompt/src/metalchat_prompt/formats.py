"""How a model writes tool calls and reasoning, told from its chat template."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum


class CallFormat(StrEnum):
    """A family's way to write tool calls.

    LLAMA: `{"name": …, "parameters": …}`, `<function=f>{…}</function>` or `[f(a=1)]` at the start of an answer, with
    or without `<|python_tag|>`.
    HERMES: `<tool_call>{…}</tool_call>`.
    QWEN_XML: `<tool_call><function=f><parameter=a>…</parameter></function></tool_call>`.
    MISTRAL: `[TOOL_CALLS][{…}]` or `[TOOL_CALLS]f[ARGS]{…}`.
    PHI: `<|tool_call|>[{…}]<|/tool_call|>`.
    GEMMA: a fence of `tool_code`, or as Llama without its tags.
    FUNCTION_GEMMA: `<start_function_call>call:f{a:<escape>…<escape>}<end_function_call>`.
    GEMMA_4: `<|tool_call>call:f{a:<|"|>…<|"|>}<tool_call|>`.
    DEEPSEEK: `<｜tool▁call▁begin｜>f<｜tool▁sep｜>{…}<｜tool▁call▁end｜>`.
    """

    LLAMA = "llama"
    HERMES = "hermes"
    QWEN_XML = "qwen-xml"
    MISTRAL = "mistral"
    PHI = "phi"
    GEMMA = "gemma"
    FUNCTION_GEMMA = "function-gemma"
    GEMMA_4 = "gemma-4"
    DEEPSEEK = "deepseek"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """`calls` is None for a model without tool calls. `reasoning` is what opens and closes it, None without any.

    `takes_tools` says whether the template shows the model the tools of a conversation. `named_arguments` tells
    Mistral's newer calls from the older.
    """

    calls: CallFormat | None = None
    reasoning: tuple[str, str] | None = None
    takes_tools: bool = False
    named_arguments: bool = False


THINK = ("<think>", "</think>")
_REASONING = (THINK, ("[THINK]", "[/THINK]"), ("<|channel>", "<channel|>"))
# A variable `tools`, not a key of a message nor a word in a string that has quotes around it.
_TOOLS = re.compile(r"""(?<![\w.'"])tools(?![\w'"])""")
_BEGIN, _END = re.compile(r"\{[%{]"), re.compile(r"[%}]\}")
# In order: what is more special first.
_CALLS: tuple[tuple[tuple[str, ...], CallFormat], ...] = (
    (("<|tool_call>",), CallFormat.GEMMA_4),
    (("<start_function_call>",), CallFormat.FUNCTION_GEMMA),
    (("<｜tool▁call▁begin｜>",), CallFormat.DEEPSEEK),
    (("[TOOL_CALLS]",), CallFormat.MISTRAL),
    (("<tool_call>", "<function=", "<parameter="), CallFormat.QWEN_XML),
    (("<tool_call>",), CallFormat.HERMES),
    (("<|tool_call|>",), CallFormat.PHI),
    (("<|tool|>",), CallFormat.PHI),
    (("<|python_tag|>",), CallFormat.LLAMA),
    (("<|start_header_id|>",), CallFormat.LLAMA),
    (("<|header_start|>",), CallFormat.LLAMA),
    (("tool_code",), CallFormat.GEMMA),
    (("<start_of_turn>",), CallFormat.GEMMA),
    (("<function=",), CallFormat.LLAMA),
)


def output_format(template: str, tokens: Collection[str] = ()) -> OutputFormat:
    """What the text of a chat template gives away; `tokens` are control tokens that count as if it spelt them."""
    known = template + "\n" + "\n".join(tokens)
    calls = next((found for needed, found in _CALLS if all(part in known for part in needed)), None)
    reasoning = next((pair for pair in _REASONING if pair[1] in known), None)
    return OutputFormat(
        calls=calls,
        reasoning=reasoning,
        takes_tools=calls is not None and any(_TOOLS.search(block) for block in _blocks(template)),
        named_arguments="[ARGS]" in known,
    )


def _blocks(template: str) -> Iterator[str]:
    """What stands between `{%` or `{{` and the next end of either."""
    for piece in _END.split(template):
        begin = _BEGIN.search(piece)
        if begin is not None:
            yield piece[begin.end() :]
