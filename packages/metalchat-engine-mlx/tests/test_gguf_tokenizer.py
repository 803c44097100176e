"""Tokenizers of GGUF files: the ids are those of llama.cpp, recorded in golden/gguf_tokenizer.json."""

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine import InvalidModel, UnsupportedModel
from metalchat_engine_mlx.gguf import GgufTokenizer, config_from_gguf, read_header, tokenizer_from_gguf
from metalchat_engine_mlx.testing.gguf import (
    TEMPLATE,
    Value,
    byte_level_tokenizer,
    sentencepiece_tokenizer,
    write_llama,
)
from tokenizers import Tokenizer

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("golden").joinpath("gguf_tokenizer.json").read_text())

# llama.cpp leaves out the normalisation of qwen2 and simplifies the rules of tekken; both only show on combining marks.
APPROXIMATED = {"qwen2", "tekken"}


def converted(tmp_path: Path, tokenizer: dict[str, Value]) -> GgufTokenizer:
    return tokenizer_from_gguf(read_header(write_llama(tmp_path / "model.gguf", tokenizer=tokenizer, layers=1).path))


def assert_ids(tokenizer_json: bytes, texts: list[str], expected: list[list[list[int] | None]]) -> None:
    tokenizer, plain = Tokenizer.from_buffer(tokenizer_json), Tokenizer.from_buffer(tokenizer_json)
    plain.encode_special_tokens = True
    for text, (special, as_text, with_ends) in zip(texts, expected, strict=True):
        assert tokenizer.encode(text, add_special_tokens=False).ids == special, text
        assert plain.encode(text, add_special_tokens=False).ids == (special if as_text is None else as_text), text
        assert tokenizer.encode(text).ids == (special if with_ends is None else with_ends), text


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case[0]} {case[1]}")
def test_ids_are_those_of_llama_cpp(tmp_path: Path, case: tuple[str, dict[str, Value], list[Any]]):
    name, settings, ids = case
    texts = GOLDEN["texts"]
    if settings.get("tokenizer.ggml.pre") in APPROXIMATED:
        kept = [i for i, text in enumerate(texts) if not any(unicodedata.category(c)[0] == "M" for c in text)]
        texts, ids = [texts[i] for i in kept], [ids[i] for i in kept]
        assert len(kept) > 25
    assert_ids(converted(tmp_path, GOLDEN["vocabularies"][name] | settings).tokenizer_json, texts, ids)


@pytest.mark.skipif("METALCHAT_TEST_SMOLLM2" not in os.environ, reason="METALCHAT_TEST_SMOLLM2 names no file")
def test_ids_of_smollm2_are_those_of_llama_cpp():
    header = read_header(os.environ["METALCHAT_TEST_SMOLLM2"])
    found = tokenizer_from_gguf(header)
    assert_ids(found.tokenizer_json, GOLDEN["texts"], GOLDEN["smollm2"])
    assert (found.bos_token, found.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert config_from_gguf(header)["vocab_size"] == 49152


def test_what_the_file_says_besides_is_passed_on(tmp_path: Path):
    found = converted(tmp_path, byte_level_tokenizer())
    assert (found.chat_template, found.bos_token, found.eos_token) == (TEMPLATE, "<|endoftext|>", "<|im_end|>")
    assert found.name == "tiny"
    bare = {key: value for key, value in byte_level_tokenizer().items() if "bos" not in key and "template" not in key}
    assert (converted(tmp_path, bare).bos_token, converted(tmp_path, bare).chat_template) == (None, None)


@pytest.mark.parametrize("text", ["hello world", " two  spaces\n", "héllo 🙂 \x00", "1234"])
@pytest.mark.parametrize("make", [byte_level_tokenizer, sentencepiece_tokenizer])
def test_decoding_gives_the_text_back(tmp_path: Path, make: Any, text: str):
    tokenizer = Tokenizer.from_buffer(converted(tmp_path, make()).tokenizer_json)
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_control_tokens_are_special_and_user_defined_ones_are_not(tmp_path: Path):
    vocabulary = byte_level_tokenizer()
    tokens: Any = vocabulary["tokenizer.ggml.tokens"]
    kinds: Any = vocabulary["tokenizer.ggml.token_type"]
    vocabulary |= {"tokenizer.ggml.tokens": [*tokens, "my token"], "tokenizer.ggml.token_type": [*kinds, 4]}
    tokenizer = Tokenizer.from_buffer(converted(tmp_path, vocabulary).tokenizer_json)
    added = tokenizer.get_added_tokens_decoder()
    assert {token.content: token.special for token in added.values()} == {
        "<|endoftext|>": True,
        "<|im_start|>": True,
        "<|im_end|>": True,
        "my token": False,
    }
    assert tokenizer.encode("a my token").tokens == ["a", "Ġ", "my token"]


def test_merges_of_tokens_with_spaces_are_written_as_pairs(tmp_path: Path):
    vocabulary = byte_level_tokenizer(("h e",))
    tokens: Any = vocabulary["tokenizer.ggml.tokens"]
    vocabulary |= {
        "tokenizer.ggml.tokens": [*tokens, "a b", "a bc"],
        "tokenizer.ggml.token_type": [1] * (len(tokens) + 2),
        "tokenizer.ggml.merges": ["h e", "a bc c"],
    }
    model = json.loads(converted(tmp_path, vocabulary).tokenizer_json)["model"]
    assert model["merges"] == [["h", "e"], ["a", "bc c"]]


def test_tokens_that_json_escapes_and_empty_ones_are_kept(tmp_path: Path):
    vocabulary = byte_level_tokenizer()
    tokens: Any = vocabulary["tokenizer.ggml.tokens"]
    odd = ['"', "\\", "\n", "\\n", "a\x7fb", "\x00", "é\u2028", ""]
    for extra in (odd, odd[:4]):
        said = [token for token in tokens if token not in extra] + extra
        vocabulary |= {"tokenizer.ggml.tokens": said, "tokenizer.ggml.token_type": [1] * len(said)}
        vocab = json.loads(converted(tmp_path, vocabulary).tokenizer_json)["model"]["vocab"]
        named = [token or f"[EMPTY_{index}]" for index, token in enumerate(said)]
        assert list(vocab.items()) == [(token, index) for index, token in enumerate(named)]


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        (
            {"tokenizer.ggml.model": "bert"},
            UnsupportedModel,
            "has a 'bert' tokenizer; 'gpt2' and 'llama' are supported",
        ),
        ({"tokenizer.ggml.pre": "poro-chat"}, UnsupportedModel, "'tokenizer.ggml.pre' is 'poro-chat'"),
        ({"tokenizer.ggml.tokens": []}, InvalidModel, "it has no list of strings 'tokenizer.ggml.tokens'"),
        ({"tokenizer.ggml.merges": 3}, InvalidModel, "it has no list of strings 'tokenizer.ggml.merges'"),
        ({"tokenizer.ggml.token_type": [1, 2]}, InvalidModel, "'tokenizer.ggml.token_type' does not have a number"),
        ({"tokenizer.ggml.add_bos_token": 1}, InvalidModel, "'tokenizer.ggml.add_bos_token' is not true or false"),
        ({"tokenizer.ggml.bos_token_id": 999}, InvalidModel, "'tokenizer.ggml.bos_token_id' is 999, expected 0 to"),
        ({"tokenizer.chat_template": ["a"]}, InvalidModel, "'tokenizer.chat_template' is not a string"),
        ({"tokenizer.ggml.model": "llama"}, InvalidModel, "'tokenizer.ggml.scores' is missing"),
    ],
)
def test_a_vocabulary_that_cannot_be_used_is_refused(
    tmp_path: Path, change: dict[str, Value], error: type[Exception], expected: str
):
    path = write_llama(tmp_path / "model.gguf", layers=1, metadata=change).path
    with pytest.raises(error) as caught:
        tokenizer_from_gguf(read_header(path))
    assert expected in str(caught.value)


def test_a_token_that_is_there_twice_is_refused(tmp_path: Path):
    vocabulary = byte_level_tokenizer()
    tokens: Any = vocabulary["tokenizer.ggml.tokens"]
    vocabulary["tokenizer.ggml.tokens"] = ["a" if token == "b" else token for token in tokens]
    with pytest.raises(InvalidModel, match="the token 'a' is in the vocabulary twice"):
        converted(tmp_path, vocabulary)


def test_more_tokens_than_embeddings_are_refused(tmp_path: Path):
    tokens: Any = byte_level_tokenizer()["tokenizer.ggml.tokens"]
    more = {"tokenizer.ggml.tokens": [*tokens, "more"], "tokenizer.ggml.token_type": [1] * (len(tokens) + 1)}
    path = write_llama(tmp_path / "model.gguf", layers=1, metadata=more).path
    with pytest.raises(InvalidModel, match="it has 265 tokens, but embeddings for 264"):
        tokenizer_from_gguf(read_header(path))


def test_importing_the_package_imports_neither_mlx_nor_numpy():
    code = "import sys, metalchat_engine_mlx.gguf; print(sorted({'mlx', 'numpy', 'tokenizers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
