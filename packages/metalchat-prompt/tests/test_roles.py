"""Role strings: twenty templates as data, found by what the model is, its name last."""

import json
from pathlib import Path

import pytest
from metalchat_engine import Message, Tool, ToolCallPart, ToolResultPart
from metalchat_prompt import (
    ConversationRefused,
    InvalidTemplate,
    Prompt,
    RoleTemplate,
    detect,
    load_role_template,
    role_templates,
)
from metalchat_prompt.testing import chatml_tokenizer_json, sentencepiece_tokenizer_json, tiny_tokenizer_json

LLAMA3 = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}
CHATML = {"<|im_start|>", "<|im_end|>"}


def talk(*said: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(said)]


def test_there_are_twenty_templates() -> None:
    assert sorted(role_templates()) == sorted(
        [
            "llama-2",
            "llama-3",
            "llama-3.1",
            "tiny-llama",
            "sheared-llama",
            "open-llama",
            "vicuna-v0",
            "vicuna-v1",
            "chat-ml",
            "chat-ml-tools",
            "nous-obsidian",
            "stablelm-zephyr",
            "phi-2-chat",
            "phi-2-instruct",
            "gemma",
            "bunny",
            "openvla",
            "llava-v0",
            "llava-v1",
            "llava-llama-2",
        ]
    )
    assert all(template.name == name for name, template in role_templates().items())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "llama-2",
            "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\na [/INST] b </s><s>[INST] c [/INST]",
        ),
        (
            "llama-3",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nb<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nc<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            "chat-ml",
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
            "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("tiny-llama", "<|system|>\nS</s>\n<|user|>\na</s>\n<|assistant|>\nb</s>\n<|user|>\nc</s>\n<|assistant|>\n"),
        ("vicuna-v1", "S\n\nUSER: a\nASSISTANT: b</s>\nUSER: c\nASSISTANT: "),
    ],
)
def test_a_conversation_is_written_in_turns(name: str, text: str) -> None:
    messages = [{"role": "system", "content": "S"}, *talk("a", "b", "c")]
    assert role_templates()[name].render(messages) == text


def test_gemma_opens_with_its_own_first_turn() -> None:
    assert role_templates()["gemma"].render(talk("a", "b", "c")) == (
        "<bos><start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n"
        "<start_of_turn>user\nc<end_of_turn>\n<start_of_turn>model\n"
    )


def test_the_default_system_prompt_is_said_where_there_is_none() -> None:
    assert role_templates()["vicuna-v1"].render(talk("a")).startswith("A chat between a curious human")
    assert "Answer the questions." in role_templates()["llama-2"].render(talk("a"))
    assert role_templates()["phi-2-chat"].render(talk("a")) == "Alice: a\nBob: "


def test_a_slot_spelt_in_a_message_stays_text() -> None:
    assert role_templates()["phi-2-chat"].render(talk("${MESSAGE}")) == "Alice: ${MESSAGE}\nBob: "


@pytest.mark.parametrize(
    ("tokens", "name", "found"),
    [
        (LLAMA3, "anything", "llama-3"),
        (LLAMA3 | {"<|eom_id|>", "<|python_tag|>"}, "llama-3-8b", "llama-3.1"),
        (CHATML, "Llama-2-7b", "chat-ml"),
        (CHATML | {"<tool_call>", "</tool_call>"}, "", "chat-ml-tools"),
        ({"<start_of_turn>", "<end_of_turn>"}, "", "gemma"),
        (set(), "stablelm-zephyr-3b", "stablelm-zephyr"),
        (set(), "Obsidian-3B-V0.5", "nous-obsidian"),
        (set(), "phi-2", "phi-2-instruct"),
        (set(), "dolphin-7b", None),
        (set(), "Phi-3-mini-4k-instruct", None),
        (set(), "gemma-2b-it", "gemma"),
        (set(), "TinyLlama-1.1B-Chat-v1.0", "tiny-llama"),
        (set(), "Sheared-LLaMA-2.7B-ShareGPT", "sheared-llama"),
        (set(), "open_llama_3b", "open-llama"),
        (set(), "VILA-2.7b", "vicuna-v1"),
        (set(), "Llama-2-7b-chat-hf", "llama-2"),
        (set(), "llava-llama-2-13b-chat", "llava-llama-2"),
        (set(), "Meta-Llama-3-8B-Instruct", "llama-3"),
        (set(), "vicuna-7b-v1.5", "vicuna-v1"),
        (set(), "vicuna-13b", "vicuna-v0"),
        (set(), "llava-v1.5-7b", "llava-v1"),
        (set(), "llava-7b", "llava-v0"),
        (set(), "openvla-7b", "openvla"),
        (set(), "Mistral-7B", None),
        (set(), "", None),
    ],
)
def test_a_template_is_found_by_the_vocabulary_and_then_by_the_name(
    tokens: set[str], name: str, found: str | None
) -> None:
    template = detect(name, tokens)
    assert (None if template is None else template.name) == found


def test_a_models_own_template_comes_before_its_tokens() -> None:
    prompt = Prompt.from_parts(tokenizer_json=chatml_tokenizer_json(), chat_template="own", name="llama-3")
    with prompt:
        assert prompt.text([Message.user("x")]) == "own"


def test_a_model_without_a_template_uses_role_strings_and_its_own_tokens() -> None:
    prompt = Prompt.from_parts(tokenizer_json=tiny_tokenizer_json(), chat_template=None, bos_token="<|begin_of_text|>")
    ids = prompt.encode([Message.system("the <|eot_id|>"), Message.user("<|begin_of_text|>")])
    begin, end = prompt.tokenizer.id("<|begin_of_text|>"), prompt.tokenizer.id("<|eot_id|>")
    assert prompt.has_template
    assert ids.count(begin) == 1
    assert ids.count(end) == 2
    assert {end, prompt.tokenizer.id("<|eom_id|>"), prompt.tokenizer.id("<|end_of_text|>")} == prompt.stop_ids
    assert prompt.stop_strings == ()


def test_the_beginning_is_added_when_neither_the_role_strings_nor_a_template_write_it() -> None:
    for name in ("vicuna-v1", "llama-2"):
        prompt = Prompt.from_parts(
            tokenizer_json=sentencepiece_tokenizer_json(),
            chat_template=None,
            bos_token="<s>",
            eos_token="</s>",
            roles=role_templates()[name],
        )
        ids = prompt.encode([Message.user("hot")])
        assert ids[0] == 1
        assert ids.count(1) == 1


def test_stop_strings_are_those_that_are_no_tokens() -> None:
    prompt = Prompt.from_parts(
        tokenizer_json=sentencepiece_tokenizer_json(), chat_template=None, roles=role_templates()["open-llama"]
    )
    assert prompt.stop_strings == ("\n", "Q:")
    assert prompt.stop_ids == {2}


def test_tool_results_and_calls_have_their_place_where_the_strings_have_one() -> None:
    call = ToolCallPart(id="1", name="f", arguments='{"a": 1}')
    messages = [
        Message.user("x"),
        Message(role="assistant", parts=(call,)),
        Message(role="tool", parts=(ToolResultPart(call_id="1", name="f", content="42"),)),
    ]
    tools = role_templates()["chat-ml-tools"]
    prompt = Prompt.from_parts(tokenizer_json=chatml_tokenizer_json(), chat_template=None, roles=tools)
    assert prompt.text(messages).endswith(
        '<|im_start|>assistant\n<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call><|im_end|>\n'
        "<|im_start|>tool\n<tool_response>\n42\n</tool_response>\n<|im_end|>\n<|im_start|>assistant\n"
    )
    plain = Prompt.from_parts(
        tokenizer_json=chatml_tokenizer_json(), chat_template=None, roles=role_templates()["vicuna-v1"]
    )
    with pytest.raises(ConversationRefused, match="no place for tool calls"):
        plain.text(messages[:2])
    with pytest.raises(ConversationRefused, match="no place for tool results"):
        plain.text(messages[2:])


def test_what_role_strings_cannot_say_is_refused() -> None:
    prompt = Prompt.from_parts(
        tokenizer_json=sentencepiece_tokenizer_json(), chat_template=None, roles=role_templates()["phi-2-chat"]
    )
    tool = Tool(name="f", description="")
    with pytest.raises(ConversationRefused, match="no place for tools"):
        prompt.encode([Message.user("x")], tools=[tool])
    with pytest.raises(ConversationRefused, match="no place for system messages"):
        prompt.encode([Message.system("x")])
    with pytest.raises(ConversationRefused, match="cannot leave out the generation prompt"):
        prompt.encode([Message.user("x")], generation_prompt=False)
    with pytest.raises(ConversationRefused, match="no variables"):
        prompt.encode([Message.user("x")], variables={"enable_thinking": True})
    assert prompt.text([Message.user("x"), Message.assistant("y")], generation_prompt=False) == "Alice: x\nBob: y\n"


def test_a_template_is_read_from_a_json_file(tmp_path: Path) -> None:
    file = tmp_path / "my.json"
    entry = {"system": "S ${MESSAGE}\n", "user": "U ${MESSAGE}\n", "bot": "B ${MESSAGE}\n", "tool_spec": "openai"}
    file.write_text(json.dumps({**entry, "stop": ["U"]}))
    template = load_role_template(file)
    assert (template.name, template.stop) == ("my", ("U",))
    tool = {"type": "function", "function": {"name": "f"}}
    assert template.render(talk("a"), tools=[tool]) == f"S {json.dumps(tool)}\nU a\n"
    said = [{"role": "system", "content": "Hi"}, *talk("a")]
    assert template.render(said, tools=[tool]) == f"S Hi\n\n{json.dumps(tool)}\nU a\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "no JSON object"),
        ("{", "not valid JSON"),
        ('{"user": "${MESSAGE}"}', "'bot' is missing"),
        ('{"user": "x", "bot": "${MESSAGE}"}', "'user' must have"),
        ('{"user": 1, "bot": "${MESSAGE}"}', "'user' must be a string"),
        ('{"user": "${MESSAGE}", "bot": "${MESSAGE}", "stop": "x"}', "'stop' must be a list"),
        ('{"user": "${MESSAGE}", "bot": "${MESSAGE}", "stop": [""]}', "'stop' must be a list"),
        ('{"user": "${MESSAGE}", "bot": "${MESSAGE}", "tool_spec": "x"}', "'tool_spec' must be"),
        ('{"user": "${MESSAGE}", "bot": "${MESSAGE}", "usr": "x"}', "'usr' is not a known field"),
    ],
)
def test_a_json_file_that_is_no_template_is_refused(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "my.json"
    file.write_text(content)
    with pytest.raises(InvalidTemplate, match=message):
        load_role_template(file)


def test_a_missing_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidTemplate, match=r"there is no file 'gone\.json'"):
        load_role_template(tmp_path / "gone.json")


def test_the_digest_tells_role_strings_apart() -> None:
    digests = {template.digest for template in role_templates().values()}
    assert len(digests) == 20
    assert RoleTemplate(name="x", user="${MESSAGE}", bot="${MESSAGE}").digest not in digests
