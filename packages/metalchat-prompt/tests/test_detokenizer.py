"""Pieces of text add up to what decoding all ids at once gives, for every kind of decoder."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from metalchat_prompt import Tokenizer
from metalchat_prompt.detokenizer import _StagedDetokenizer, _WindowDetokenizer, detokenizer
from metalchat_prompt.testing import chatml_tokenizer_json, sentencepiece_tokenizer_json, tiny_tokenizer_json


def with_decoder(decoder: dict[str, Any] | None) -> Tokenizer:
    return Tokenizer(json.dumps({**json.loads(sentencepiece_tokenizer_json()), "decoder": decoder}).encode())


REPLACE = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
FALLBACK = {"type": "ByteFallback"}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def sequence(*decoders: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "decoders": list(decoders)}


def metaspace(scheme: str) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}


STAGED = {
    "byte level": Tokenizer(tiny_tokenizer_json()),
    "byte level with markup": Tokenizer(chatml_tokenizer_json()),
    "llama 2": Tokenizer(sentencepiece_tokenizer_json()),
    "gemma": with_decoder(sequence(REPLACE, FALLBACK, {"type": "Fuse"})),
    "metaspace always": with_decoder(metaspace("always")),
    "metaspace first": with_decoder(metaspace("first")),
    "metaspace never": with_decoder(metaspace("never")),
    "metaspace of old": with_decoder({"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}),
    "metaspace and bytes": with_decoder(sequence(FALLBACK, metaspace("first"))),
    "strip each": with_decoder(sequence(REPLACE, STRIP, {"type": "Fuse"})),
    "strip three": with_decoder(sequence(REPLACE, FALLBACK, {"type": "Fuse"}, {**STRIP, "start": 3})),
    "nothing": with_decoder(None),
}
# Byte tokens, spaces and special tokens come often, since they are where the rules are.
IDS = st.lists(st.one_of(st.integers(0, 40), st.integers(0, 300), st.integers(0, 640)), max_size=40)


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = detokenizer(tokenizer)
    return [*(stream.push(index) for index in ids), stream.flush()]


@pytest.mark.parametrize("name", STAGED)
@settings(max_examples=60, deadline=None)
@given(ids=IDS)
@example(ids=[])
@example(ids=[1, 2, 1])
def test_pieces_add_up_to_the_whole_text(name: str, ids: list[int]) -> None:
    tokenizer = STAGED[name]
    assert isinstance(detokenizer(tokenizer), _StagedDetokenizer)
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


@settings(max_examples=100, deadline=None)
@given(text=st.text(), name=st.sampled_from(["byte level", "llama 2", "gemma", "metaspace never"]))
def test_pieces_of_real_text_are_whole_characters(text: str, name: str) -> None:
    tokenizer = STAGED[name]
    ids = tokenizer.encode(text)
    pieces = streamed(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_of_several_tokens_comes_with_the_last_of_them() -> None:
    tokenizer = STAGED["byte level"]
    ids = tokenizer.encode("a🎉b")
    assert streamed(tokenizer, ids) == ["a", "", "", "", "🎉", "b", ""]


def test_a_character_that_never_ends_is_given_at_the_end_as_unknown() -> None:
    tokenizer = STAGED["byte level"]
    assert streamed(tokenizer, tokenizer.encode("a🎉")[:-1])[-1] == "\ufffd"


def test_only_the_first_space_of_a_sentencepiece_text_is_dropped() -> None:
    tokenizer = STAGED["llama 2"]
    ids = tokenizer.encode("the  first") + tokenizer.encode("the")
    assert "".join(streamed(tokenizer, ids)) == "the  first the"


def test_a_flushed_detokenizer_is_at_its_beginning_again() -> None:
    for tokenizer in STAGED.values():
        ids = tokenizer.encode("the 🎉 first")
        stream = detokenizer(tokenizer)
        once = "".join(map(stream.push, ids)) + stream.flush()
        assert "".join(map(stream.push, ids)) + stream.flush() == once == tokenizer.decode(ids)


def test_special_tokens_and_unknown_ids_add_nothing() -> None:
    tokenizer = STAGED["byte level"]
    end = tokenizer.id("<|eot_id|>")
    assert end is not None
    assert streamed(tokenizer, [end, 10**6, -1, 2**40]) == ["", "", "", "", ""]


@pytest.mark.parametrize(
    "decoder",
    [
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "BPEDecoder", "suffix": "</w>"},
        sequence(REPLACE, {"type": "Fuse"}, {**STRIP, "stop": 1}),
        sequence(REPLACE, {"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "ab"}, "content": "c"}),
        sequence(REPLACE, {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"}),
    ],
)
def test_other_decoders_stream_by_decoding_the_last_tokens_again(decoder: dict[str, Any]) -> None:
    tokenizer = with_decoder(decoder)
    assert isinstance(detokenizer(tokenizer), _WindowDetokenizer)
    ids = tokenizer.encode("the first of these words is hot")
    assert len([piece for piece in streamed(tokenizer, ids) if piece]) > 3
    assert "".join(streamed(tokenizer, [1, *ids, 10**6])).split() == tokenizer.decode(ids).split()


@pytest.mark.parametrize("model", ["llama3", "chatml", "llama2", "llama2-metaspace"])
def test_tokenizers_of_the_usual_kinds_need_no_second_decoding(model: str) -> None:
    data = (Path(__file__).parent / "golden" / f"{model}.tokenizer.json").read_bytes()
    assert isinstance(detokenizer(Tokenizer(data)), _StagedDetokenizer)


def test_a_long_answer_takes_time_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    real = Tokenizer.token

    def counted(self: Tokenizer, index: int) -> str | None:
        nonlocal calls
        calls += 1
        return real(self, index)

    monkeypatch.setattr(Tokenizer, "token", counted)
    monkeypatch.setattr(Tokenizer, "decode", None)
    tokenizer = STAGED["llama 2"]
    assert len("".join(streamed(tokenizer, tokenizer.encode("the ") * 2000))) >= 6000
    assert calls == 2000 * len(tokenizer.encode("the "))
