"""How a model writes calls is told from its template."""

import pytest
from metalchat_engine import Tool, ToolCall
from metalchat_prompt import CallFormat, OutputFormat, Prompt, output_format, role_templates
from metalchat_prompt.testing import CHATML_TEMPLATE, CHATML_TOOLS_TEMPLATE, chatml_tokenizer_json, tiny_tokenizer_json

TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}"
THINK = ("<think>", "</think>")
CLOCK = Tool(name="clock", description="The time.")


@pytest.mark.parametrize(
    ("template", "calls"),
    [
        ("<|start_header_id|>{{ tools }}<|python_tag|>", CallFormat.LLAMA),
        ("<|header_start|>{{ tools }}", CallFormat.LLAMA),
        ('<tool_call>\n{"name": <function-name>}', CallFormat.HERMES),
        ("<tool_call>\n<function=example>\n<parameter=a>", CallFormat.QWEN_XML),
        ("[AVAILABLE_TOOLS][TOOL_CALLS]", CallFormat.MISTRAL),
        ("<|tool|>{{ tools }}<|/tool|><|tool_call|>", CallFormat.PHI),
        ("<start_of_turn>", CallFormat.GEMMA),
        ("<start_of_turn><start_function_call>call:", CallFormat.FUNCTION_GEMMA),
        ("<|turn>model\n<|tool_call>call:", CallFormat.GEMMA_4),
        ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>", CallFormat.DEEPSEEK),
        ("<|im_start|>{{ message.content }}<|im_end|>", None),
        ("{{ bos_token }}### Human: ", None),
    ],
)
def test_the_family_is_told_from_the_template(template: str, calls: CallFormat | None) -> None:
    assert output_format(template + TOOLS).calls is calls
    assert output_format(template + TOOLS).takes_tools == (calls is not None)


@pytest.mark.parametrize(
    "template",
    [
        "<tool_call>{{ message['tools'] }}",
        "<tool_call>{% if 'tools' in message %}",
        "<tool_call>{{ message.tools }}",
        "<tool_call>",
        "<tool_call> You have tools. {{ message.content }} No tools?",
    ],
)
def test_a_template_that_never_looks_at_the_tools_takes_none(template: str) -> None:
    assert not output_format(template).takes_tools


def test_reasoning_and_mistral_s_two_kinds_of_call_are_told_too() -> None:
    assert output_format("{{ content.split('</think>') }}").reasoning == THINK
    assert output_format("[THINK]…[/THINK]").reasoning == ("[THINK]", "[/THINK]")
    assert output_format("<|channel>thought<channel|>").reasoning == ("<|channel>", "<channel|>")
    assert output_format("plain").reasoning is None
    assert output_format("[TOOL_CALLS]f[ARGS]").named_arguments
    assert not output_format("[TOOL_CALLS]").named_arguments


def test_a_prompt_knows_its_format_and_parses_by_it() -> None:
    with Prompt.from_parts(tokenizer_json=chatml_tokenizer_json(), chat_template=CHATML_TOOLS_TEMPLATE) as prompt:
        assert prompt.output_format == OutputFormat(calls=CallFormat.HERMES, reasoning=THINK, takes_tools=True)
        opened = prompt.parser([CLOCK], after=prompt.encode_text("<|im_start|>assistant\n<think>\n"))
        assert opened.reasoning
        made = prompt.parser([CLOCK], after=prompt.encode_text("<think></think>"), by_token=True)
        assert not made.reasoning
        (begin, end) = (prompt.tokenizer.id(mark) for mark in ("<tool_call>", "</tool_call>"))
        assert begin is not None
        assert end is not None
        assert made.push("", [begin]) == ()
        (call,) = made.push('{"name": "clock"}', [end])
        assert isinstance(call, ToolCall)


def test_a_format_can_be_forced() -> None:
    with Prompt.from_parts(tokenizer_json=chatml_tokenizer_json(), chat_template=CHATML_TEMPLATE) as prompt:
        assert prompt.output_format == OutputFormat()
        made = prompt.parser([CLOCK], layout=OutputFormat(calls=CallFormat.LLAMA))
        (call,) = made.push("[clock()]")
        assert isinstance(call, ToolCall)


def test_role_strings_have_a_format_too() -> None:
    hermes = role_templates()["chat-ml-tools"].output_format(["<think>", "</think>"])
    assert hermes == OutputFormat(calls=CallFormat.HERMES, reasoning=THINK)
    assert role_templates()["llama-3.1"].output_format([]) == OutputFormat(calls=CallFormat.LLAMA)
    assert role_templates()["vicuna-v1"].output_format([]) == OutputFormat()
    with Prompt.from_parts(tokenizer_json=tiny_tokenizer_json(), chat_template=None, name="x") as prompt:
        assert prompt.output_format.calls is CallFormat.LLAMA
