"""F-3: a damaged or hostile tokenizer.json is one error, never a panic, an abort or an opened file."""

import base64
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from metalchat_prompt import ConversationRefused, InvalidTokenizer, Tokenizer, _panics
from metalchat_prompt import tokenizer as tokenizer_module
from metalchat_prompt.testing import chatml_tokenizer_json, sentencepiece_tokenizer_json, tiny_tokenizer_json

FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def charsmap(size: int, rest: bytes = b"") -> dict[str, Any]:
    encoded = base64.b64encode(struct.pack("<I", size) + rest).decode()
    return {"type": "Precompiled", "precompiled_charsmap": encoded}


def begin(token: str) -> dict[str, Any]:
    single = [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": {}}


RAW: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"hello",
    "cut short": tiny_tokenizer_json()[:-20],
    "an array": b"[]",
    "null": b"null",
    "a number": b"1",
    "a string": b'"x"',
    "an empty object": b"{}",
    "not UTF-8": b'{"model": "\xff"}',
    "UTF-16": '{"model": {}}'.encode("utf-16"),
    "NaN": b'{"model": {"type": "BPE", "dropout": NaN}}',
    "Infinity": b'{"model": {}, "x": Infinity}',
    "deep nesting": b'{"model": ' + b"[" * 100_000,
    "deep objects": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "a lone surrogate": b'{"model": {"type": "WordLevel", "vocab": {"\\ud800": 0}, "unk_token": "x"}}',
    "a number of 5,000 digits": b'{"model": {}, "x": ' + b"1" * 5000 + b"}",
    "two documents": b'{"model": {}}{"model": {}}',
    "NUL bytes": b'{"model": {}}\0\0',
    "a pickle": b"\x80\x04\x95\x00",
}
CHANGED: dict[str, tuple[str, object]] = {
    "a model that is a list": ("model", []),
    "a model that is null": ("model", None),
    "a model of no type": ("model", {}),
    "an unknown model": ("model", {"type": "Oracle", "vocab": {}}),
    "a vocabulary that is a list of numbers": ("model", {"type": "BPE", "vocab": [1, 2], "merges": []}),
    "negative ids": ("model", {"type": "BPE", "vocab": {"a": -1}, "merges": []}),
    "huge ids": ("model", {"type": "BPE", "vocab": {"a": 2**64}, "merges": []}),
    "an id that leaves room for 16 GB": ("model", {"type": "BPE", "vocab": {"a": 0, "b": 2**32 - 1}, "merges": []}),
    "ids that are text": ("model", {"type": "BPE", "vocab": {"a": "0"}, "merges": []}),
    "merges of unknown pieces": ("model", {"type": "BPE", "vocab": {"a": 0}, "merges": [["x", "y"]]}),
    "merges of one piece": ("model", {"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}),
    "merges that are numbers": ("model", {"type": "BPE", "vocab": {"a": 0}, "merges": [1]}),
    "a unigram without its unknown": ("model", {"type": "Unigram", "unk_id": 9, "vocab": [["a", 0.0]]}),
    "a unigram of words": ("model", {"type": "Unigram", "vocab": ["a"]}),
    "an unknown normaliser": ("normalizer", {"type": "Magic"}),
    "a normaliser that is text": ("normalizer", "NFC"),
    "an unknown pre-tokenizer": ("pre_tokenizer", {"type": "Magic"}),
    "an invalid regex": ("pre_tokenizer", split("(")),
    "an unknown decoder": ("decoder", {"type": "Magic"}),
    "an unknown post-processor": ("post_processor", {"type": "Magic"}),
    "a post-processor with a missing token": ("post_processor", begin("<gone>")),
    "a map for 8 GB": ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
    "a map within a sequence": ("normalizer", {"type": "Sequence", "normalizers": [charsmap(2**31)]}),
    "a map cut short": ("normalizer", charsmap(8, b"1234")),
    "a map of odd size": ("normalizer", charsmap(3, b"1234")),
    "a map that is no base64": ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "!!!!"}),
    "a map that is a number": ("normalizer", {"type": "Precompiled", "precompiled_charsmap": 5}),
    "a map of three bytes": ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "added tokens that are text": ("added_tokens", ["<s>"]),
    "an added token without content": ("added_tokens", [{"id": 0, **FLAGS}]),
    "an added token of a negative id": ("added_tokens", [{"id": -1, "content": "x", **FLAGS}]),
}


def changed(key: str, value: object) -> bytes:
    return json.dumps({**json.loads(tiny_tokenizer_json()), key: value}).encode()


@pytest.mark.parametrize("name", [*RAW, *CHANGED])
def test_f3_a_file_that_cannot_be_used_is_one_error(name: str) -> None:
    data = RAW[name] if name in RAW else changed(*CHANGED[name])
    with pytest.raises(InvalidTokenizer) as caught:
        Tokenizer(data).encode("the first text")
    assert str(caught.value).startswith("'tokenizer.json' could not be used: ")
    assert caught.value.exit_code == 6
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_f3_has_48_files_or_more() -> None:
    assert len(RAW) + len(CHANGED) >= 48


def test_f3_a_regex_that_never_ends_is_one_error_when_it_is_used() -> None:
    tokenizer = Tokenizer(changed("pre_tokenizer", split("(a+)+$")))
    with pytest.raises(InvalidTokenizer, match=r"'tokenizer\.json' could not be used"):
        tokenizer.encode("a" * 40 + "b")
    assert Tokenizer(tiny_tokenizer_json()).encode("ab")


PROGRAM = """
import json, sys
from metalchat_prompt import InvalidTokenizer, Tokenizer

for data in json.load(sys.stdin):
    try:
        Tokenizer(data.encode()).encode("a" * 40 + "b")
    except InvalidTokenizer as error:
        print(error)
"""
PANICS = {
    "a template without its token": ("post_processor", begin("[ZZ]")),
    "such a template in a sequence": ("post_processor", {"type": "Sequence", "processors": [begin("[ZZ]")]}),
    "a regex that splits": ("pre_tokenizer", split("(a+)+$")),
    "a regex that replaces": ("normalizer", {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "x"}),
    "a map of nonsense": ("normalizer", charsmap(1024, b"\xff" * 1024 + b"abc")),
    "a map that jumps about": ("normalizer", charsmap(1024, bytes(range(256)) * 4)),
    "a merge of two pieces with one id": ("model", {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": [["a", "b"]]}),
    "pieces of no length": ("pre_tokenizer", {"type": "FixedLength", "length": 0}),
    "nothing that is replaced": ("normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": "b" * 1000}),
    "a map of 8 GB": ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
}


def test_f3_a_panic_leaves_nothing_on_standard_error_and_the_process_alive() -> None:
    files = [changed(*change).decode() for change in PANICS.values()]
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(files),
        capture_output=True,
        check=True,
        text=True,
        env={"RUST_BACKTRACE": "1"},
    )
    lines = found.stdout.splitlines()
    assert found.stderr == ""
    assert len(lines) == len(files)
    assert all(line.startswith("'tokenizer.json' could not be used: ") for line in lines)
    assert "'[ZZ]'" in lines[0]


def test_what_others_write_to_standard_error_while_a_doubtful_tokenizer_works_is_not_lost(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def call() -> int:
        os.write(2, b"a line of the log\n")
        return 5

    assert _panics.quietly(call) == 5
    with pytest.raises(ZeroDivisionError):
        _panics.quietly(lambda: call() // 0)
    assert capfd.readouterr().err == "a line of the log\n" * 2


def test_published_splits_are_not_doubtful() -> None:
    llama = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    llama += r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    assert not _panics.doubtful([{"Regex": llama}, {"type": "ByteLevel"}])
    assert _panics.doubtful([{"Regex": llama + "|(a+)+$"}])


def test_f3_truncation_and_padding_are_never_applied() -> None:
    text = "the first " * 20
    whole = Tokenizer(tiny_tokenizer_json()).encode(text)
    fixed = {"strategy": {"Fixed": 2_000_000_000}, "direction": "Right", "pad_to_multiple_of": None}
    padding = {**fixed, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
    for stride in (0, 4, 100):
        truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": stride}
        assert Tokenizer(changed("truncation", truncation)).encode(text) == whole
    assert Tokenizer(changed("padding", padding)).encode(text) == whole


def test_f3_size_is_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tokenizer_module.SIZE_LIMIT == 100 * 2**20
    monkeypatch.setattr(tokenizer_module, "SIZE_LIMIT", 2**20)
    with pytest.raises(InvalidTokenizer, match="larger than 1 MiB"):
        Tokenizer(b" " * (2**20 + 1))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_not_swallowed(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: bytes) -> Any:
        raise error

    monkeypatch.setattr(tokenizer_module, "_load", interrupted)
    with pytest.raises(error):
        Tokenizer(tiny_tokenizer_json())


def test_a_byte_order_mark_is_no_damage() -> None:
    with pytest.raises(InvalidTokenizer):
        Tokenizer(b"\xef\xbb\xbf[]")
    document = json.loads(tiny_tokenizer_json())
    document["padding"] = {}
    assert Tokenizer(b"\xef\xbb\xbf" + json.dumps(document).encode()).vocab_size == 524


@pytest.mark.parametrize("make", [tiny_tokenizer_json, chatml_tokenizer_json, sentencepiece_tokenizer_json])
def test_the_tokenizers_for_tests_are_small_and_the_same_in_every_process(make: Callable[[], bytes]) -> None:
    program = f"import hashlib, metalchat_prompt.testing as t; print(hashlib.sha256(t.{make.__name__}()).hexdigest())"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    tokenizer = Tokenizer(make())
    assert len(digests) == 1
    assert tokenizer.vocab_size <= 600
    text = "The weather: 21° – naïve 🎉"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_text_that_is_no_unicode_is_not_the_tokenizers_fault() -> None:
    tokenizer = Tokenizer(tiny_tokenizer_json())
    for special in (True, False):
        with pytest.raises(ConversationRefused, match="half a surrogate pair"):
            tokenizer.encode("a \ud800 <|eot_id|>", special=special)


def test_ids_and_tokens_are_looked_up_both_ways() -> None:
    tokenizer = Tokenizer(tiny_tokenizer_json())
    end = tokenizer.id("<|eot_id|>")
    assert end is not None
    assert tokenizer.token(end) == "<|eot_id|>"
    assert end in tokenizer.special_ids
    assert tokenizer.id("nothing of the kind") is None
    assert tokenizer.token(tokenizer.vocab_size) is None
    assert tokenizer.token(-1) is None
    assert tokenizer.token(2**40) is None


def test_decode_leaves_out_special_tokens_and_ids_that_do_not_exist() -> None:
    tokenizer = Tokenizer(chatml_tokenizer_json())
    ids = tokenizer.encode("<|im_start|>the <think>", special=True)
    assert tokenizer.decode([*ids, -1, 10**6, 2**40]) == "the <think>"
    assert tokenizer.decode(ids, skip_special=False) == "<|im_start|>the <think>"
