"""A model's folder to a prompt, and what a prompt tells about itself."""

import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import metalchat_prompt
import pytest
from metalchat_engine import ImagePart, Message, TextPart, Tool
from metalchat_prompt import (
    ConversationRefused,
    InvalidTemplate,
    InvalidTokenizer,
    NoTemplate,
    Prompt,
    PromptError,
    errors,
    template_text,
)
from metalchat_prompt.testing import (
    CHATML_TEMPLATE,
    chatml_tokenizer_json,
    sentencepiece_tokenizer_json,
    tiny_tokenizer_json,
)

HI = [Message.user("hi")]
NAMED = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]


def folder(path: Path, **files: object) -> Path:
    path.mkdir(exist_ok=True)
    (path / "tokenizer.json").write_bytes(chatml_tokenizer_json())
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name.replace("__", ".")).write_text(text)
    return path


def text_of(path: Path, **options: Any) -> str:
    with Prompt.from_directory(path) as prompt:
        return prompt.text(HI, **options)


def test_the_template_comes_from_the_configuration(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", tokenizer_config__json={"chat_template": "from config"})
    assert text_of(path) == "from config"


def test_a_template_file_comes_before_the_configuration(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", tokenizer_config__json={"chat_template": "x"}, chat_template__jinja="from file")
    assert text_of(path) == "from file"
    path = folder(tmp_path / "n", chat_template__json={"chat_template": "from JSON"})
    assert text_of(path) == "from JSON"


def test_of_several_templates_tools_choose(tmp_path: Path) -> None:
    tool = Tool(name="f", description="")
    path = folder(tmp_path / "m", tokenizer_config__json={"chat_template": NAMED})
    assert text_of(path) == "plain"
    assert text_of(path, tools=[tool]) == "tools"
    path = folder(tmp_path / "n", chat_template__jinja="plain file")
    (path / "additional_chat_templates").mkdir()
    (path / "additional_chat_templates" / "tool_use.jinja").write_text("tools file")
    assert text_of(path) == "plain file"
    assert text_of(path, tools=[tool]) == "tools file"


def test_several_templates_without_a_default_are_named(tmp_path: Path) -> None:
    named = [{"name": "rag", "template": "x"}]
    path = folder(tmp_path / "m", tokenizer_config__json={"chat_template": named})
    with pytest.raises(InvalidTemplate, match=r"no chat template named 'default' \(it has 'rag'\)"):
        text_of(path)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.json"])
@pytest.mark.parametrize(
    "value",
    [5, True, {"default": 5}, ["x"], [{"name": "default", "template": 5}], [{"name": [], "template": "x"}], [NAMED]],
)
def test_what_is_no_template_is_refused_and_not_passed_over(name: str, value: object, tmp_path: Path) -> None:
    path = folder(tmp_path / "m", **{name.replace(".", "__"): {"chat_template": value}})
    for read in (Prompt.from_directory, template_text):
        with pytest.raises(InvalidTemplate, match="neither a text nor a list of named texts") as caught:
            read(path)
        assert caught.value.exit_code == 6


@pytest.mark.parametrize("value", [None, "", [], {}])
def test_an_empty_template_is_none(value: object, tmp_path: Path) -> None:
    assert template_text(folder(tmp_path / "m", tokenizer_config__json={"chat_template": value})) is None


def test_templates_see_special_tokens_as_strings(tmp_path: Path) -> None:
    template = "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token is defined }}{{ tools is none }}"
    path = folder(
        tmp_path / "m",
        special_tokens_map__json={"bos_token": "<|im_start|>", "eos_token": "wrong"},
        tokenizer_config__json={"eos_token": {"content": "<|im_end|>", "lstrip": False}, "pad_token": None},
        chat_template__jinja=template,
    )
    assert text_of(path) == "<|im_start|><|im_end|>FalseTrue"


def test_f1_paths_named_by_the_configuration_are_never_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    keys = ("vocab_file", "merges_file", "tokenizer_file", "spm_file", "name_or_path", "chat_template_file")
    path = folder(
        tmp_path / "m",
        tokenizer_config__json={**{key: str(secret) for key in keys}, "auto_map": {"AutoTokenizer": "evil.Evil"}},
        special_tokens_map__json={"vocab_file": str(secret)},
    )
    program = (
        "import sys; opened = []; sys.addaudithook(lambda event, args: opened.append(str(args[0])) "
        "if event == 'open' else None)\n"
        "from pathlib import Path; from metalchat_prompt import Prompt\n"
        "Prompt.from_directory(Path(sys.argv[1])).encode_text('x')\n"
        "print('\\n'.join(opened))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, check=True, text=True)
    assert str(path / "tokenizer_config.json") in done.stdout
    assert str(secret) not in done.stdout


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "chat_template.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"a": NaN}', b"[" * 10**5, b'{"a": "\\ud800"}'])
def test_f8_a_damaged_file_beside_the_tokenizer_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    (path / name).write_bytes(content)
    with pytest.raises(InvalidTokenizer, match=f"'{name}' could not be used"):
        Prompt.from_directory(path)


def test_a_template_file_that_is_no_text_or_too_large_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    (path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(InvalidTemplate, match="is not UTF-8"):
        Prompt.from_directory(path)
    (path / "chat_template.jinja").write_bytes(b"x" * (2**20 + 1))
    with pytest.raises(PromptError, match="larger than 1 MiB"):
        Prompt.from_directory(path)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidTokenizer, match=r"'gone' has no tokenizer\.json"):
        Prompt.from_directory(tmp_path / "gone")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    (path / "tokenizer_config.json").mkdir()
    with pytest.raises(InvalidTokenizer, match=r"'tokenizer_config\.json' could not be read"):
        Prompt.from_directory(path)


def test_a_model_without_any_template_still_takes_raw_text() -> None:
    prompt = Prompt.from_parts(tokenizer_json=sentencepiece_tokenizer_json(), chat_template=None, name="Mistral-7B")
    assert not prompt.has_template
    assert prompt.template_digest == ""
    assert prompt.encode_text("</s>") == (1, 2)
    with pytest.raises(NoTemplate, match="no chat template"):
        prompt.encode(HI)
    with pytest.raises(NoTemplate):
        prompt.text(HI)


def test_the_beginning_that_a_template_writes_is_not_doubled() -> None:
    with Prompt.from_parts(
        tokenizer_json=tiny_tokenizer_json(),
        chat_template="{{ bos_token }}{{ messages[0].content }}",
        bos_token="<|begin_of_text|>",
    ) as prompt:
        begin = prompt.tokenizer.id("<|begin_of_text|>")
        assert prompt.encode(HI).count(begin) == 1
        assert prompt.encode_text("hi") == prompt.encode(HI)


def test_the_digest_is_that_of_the_template() -> None:
    one = Prompt.from_parts(tokenizer_json=chatml_tokenizer_json(), chat_template="x")
    assert one.template_digest == hashlib.sha256(b"x").hexdigest()
    several = Prompt.from_parts(
        tokenizer_json=chatml_tokenizer_json(), chat_template=None, tokenizer_config={"chat_template": NAMED}
    )
    assert len(several.template_digest) == 64
    assert several.template_digest != one.template_digest


def test_stop_ids_are_the_ends_of_turn_that_the_vocabulary_has() -> None:
    chatml = Prompt.from_parts(tokenizer_json=chatml_tokenizer_json(), chat_template="x", eos_token="<|im_end|>")
    names = {chatml.tokenizer.token(index) for index in chatml.stop_ids}
    assert names == {"<|im_end|>", "<|endoftext|>"}
    llama = Prompt.from_parts(tokenizer_json=tiny_tokenizer_json(), chat_template="x", eos_token="nothing")
    names = {llama.tokenizer.token(index) for index in llama.stop_ids}
    assert names == {"<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"}
    custom = Prompt.from_parts(tokenizer_json=tiny_tokenizer_json(), chat_template="x", eos_token="<|python_tag|>")
    assert custom.stop_ids > llama.stop_ids


def test_in_harmony_the_end_of_a_message_is_not_the_end_of_a_turn() -> None:
    document = json.loads(chatml_tokenizer_json())
    names = ["<|end|>", "<|channel|>", "<|return|>"]
    for entry, name in zip(document["added_tokens"], names, strict=False):
        entry["content"] = name
    prompt = Prompt.from_parts(tokenizer_json=json.dumps(document).encode(), chat_template="x")
    assert {prompt.tokenizer.token(index) for index in prompt.stop_ids} == {"<|return|>"}


def test_images_are_parts_of_a_message() -> None:
    template = "{% for p in messages[0].content %}{{ '<image>' if p.type == 'image' else p.text }}{% endfor %}"
    with Prompt.from_parts(tokenizer_json=chatml_tokenizer_json(), chat_template=template) as prompt:
        image = ImagePart(data=b"", media_type="image/png")
        message = Message(role="user", parts=(TextPart(text="a"), image, TextPart(text="<|im_end|>")))
        assert prompt.text([message]) == "a<image><|im_end|>"
        assert not set(prompt.encode([message])) & prompt.tokenizer.special_ids


def test_arguments_that_are_no_json_object_stay_text() -> None:
    from metalchat_engine import ToolCallPart

    template = "{% for c in messages[0].tool_calls %}{{ c.function.arguments is string }}{% endfor %}"
    calls = tuple(ToolCallPart(id="1", name="f", arguments=text) for text in ("{", "[1]", '{"a": 1}'))
    with Prompt.from_parts(tokenizer_json=chatml_tokenizer_json(), chat_template=template) as prompt:
        assert prompt.text([Message(role="assistant", parts=calls)]) == "TrueTrueFalse"


def test_variables_reach_the_template_but_replace_nothing_of_the_conversation() -> None:
    with Prompt.from_parts(tokenizer_json=chatml_tokenizer_json(), chat_template="{{ date_string }}") as prompt:
        assert prompt.text(HI, variables={"date_string": "1 May 2030"}) == "1 May 2030"
        for name in ("messages", "tools", "documents", "add_generation_prompt"):
            with pytest.raises(ConversationRefused, match=f"'{name}' cannot be a variable"):
                prompt.encode(HI, variables={name: []})
        with pytest.raises(ConversationRefused, match="cannot be written as JSON"):
            prompt.encode(HI, variables={"x": object()})
        with pytest.raises(ConversationRefused, match="no messages"):
            prompt.encode([])


def test_threads_share_a_prompt() -> None:
    found: dict[int, bool] = {}
    with Prompt.from_parts(tokenizer_json=chatml_tokenizer_json(), chat_template=CHATML_TEMPLATE) as prompt:
        prompt.warm()

        def work(number: int) -> None:
            said = f"{number} <|im_end|> " * 50
            found[number] = said in prompt.tokenizer.decode(prompt.encode([Message.user(said)]))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == dict.fromkeys(range(6), True)


def test_importing_the_package_imports_no_template_engine_and_no_tokenizer_library() -> None:
    program = "import sys, metalchat_prompt; print({'jinja2', 'tokenizers', 'metalchat_engine'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "set()"


def test_rendering_imports_no_template_engine_into_this_process() -> None:
    program = (
        "import sys; from metalchat_prompt import ChatTemplate\n"
        "print(ChatTemplate('{{ messages[0] }}').render(['x']), 'jinja2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "x False"
    assert done.stderr == ""


def test_every_public_name_is_there() -> None:
    for name in metalchat_prompt.__all__:
        assert getattr(metalchat_prompt, name) is not None
    assert dir(metalchat_prompt) == sorted(metalchat_prompt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = metalchat_prompt.nothing


def test_the_tree_of_errors_is_the_one_in_the_docstring() -> None:
    drawn = [line.split("── ")[1].split()[0] for line in (errors.__doc__ or "").splitlines() if "── " in line]
    assert drawn == [kind.__name__ for kind in PromptError.__subclasses__()]
    assert {kind.__name__: kind.exit_code for kind in PromptError.__subclasses__() if kind.exit_code != 6} == {
        "ConversationRefused": 2
    }
