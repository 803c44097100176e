"""Options of a model's config.json, given as text."""

import pytest
from metalchat_manifest import KNOWN_OPTIONS, InvalidSetting, UnknownOption, nearest_key, parse_option, parse_value


@pytest.mark.parametrize(
    ("name", "text", "type_name", "value"),
    [
        ("rms_norm_eps", "1e-5", None, 1e-5),
        ("rms_norm_eps", "1", None, 1.0),
        ("rope_theta", "500000", None, 500000.0),
        ("rope_theta", "500000", "int", 500000),
        ("vocab_size", "+32", None, 32),
        ("pad_token_id", "-1", None, -1),
        ("tie_word_embeddings", "false", None, False),
        ("hidden_act", "silu", None, "silu"),
        ("hidden_act", "1", None, "1"),
        ("something_new", "1", "str", "1"),
        ("something_new", "1", "float", 1.0),
        ("something_new", "true", "bool", True),
    ],
)
def test_the_type_of_an_option_is_known_or_said(name, text, type_name, value):
    parsed = parse_option(name, text, type_name)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text", "type_name", "message"),
    [
        ("vocab_size", "many", None, "the option 'vocab_size' is 'many', expected an integer"),
        ("vocab_size", "1.0", None, "the option 'vocab_size' is '1.0', expected an integer"),
        ("vocab_size", "-1", None, "is -1, expected an integer that is not negative"),
        ("vocab_size", "9" * 20, None, "is '99999999999999999999', expected an integer"),
        ("vocab_size", "1_000", None, "expected an integer"),
        ("rms_norm_eps", "nan", None, "expected a number"),
        ("rms_norm_eps", "1e999", None, "expected a number"),
        ("rms_norm_eps", "", None, "expected a number"),
        ("rms_norm_eps", "٣", None, "expected a number"),
        ("tie_word_embeddings", "True", None, "expected true or false"),
        ("rms_norm_eps", "x", "str", "is a string, expected a number"),
        ("rms_norm_eps", "1", "double", "'double' is not a type of an option; the types are bool, int, float, str"),
    ],
)
def test_a_text_of_another_type_is_refused(name, text, type_name, message):
    with pytest.raises(InvalidSetting) as caught:
        parse_option(name, text, type_name)
    assert message in str(caught.value)
    assert not isinstance(caught.value, UnknownOption)


def test_an_unknown_option_names_the_nearest_one():
    with pytest.raises(UnknownOption, match=r"^'rms_norm_epz' is not a known option; did you mean 'rms_norm_eps'\?$"):
        parse_option("rms_norm_epz", "1", None)
    with pytest.raises(UnknownOption, match=r"^'xyz' is not a known option\. Say its type \(bool, int, float or str\)"):
        parse_option("xyz", "1")


def test_every_known_option_takes_a_value_of_its_type():
    texts = {bool: "true", int: "1", float: "0.5", str: "x"}
    for name, kind in KNOWN_OPTIONS.items():
        assert type(parse_option(name, texts[kind])) is kind


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("inference.sampling.temperature", "0", 0.0),
        ("prompt.system", "1", "1"),
        ("engine.threads", "1", 1),
        ("engine.threads", "1.5", 1.5),
        ("chat.name", "x", "x"),
        ("options.rope_theta", "1", 1.0),
    ],
)
def test_the_text_of_any_key_becomes_its_value(key, text, value):
    parsed = parse_value(key, text)
    assert (parsed, type(parsed)) == (value, type(value))
    with pytest.raises(InvalidSetting):
        parse_value("nothing.at.all", "1")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("inference.sampling.temprature", "inference.sampling.temperature"),
        ("sampling.top_p", "inference.sampling.probability"),
        ("context_length", "inference.max_sequence_length"),
        ("engine.nam", "engine.name"),
        ("options.rms_norm_ep", "options.rms_norm_eps"),
        ("rms_norm_eps", "options.rms_norm_eps"),
        ("inference.sampling.temperature", None),
        ("options.rms_norm_eps", None),
        ("engine.mlx.temperature", None),
        ("tools.temperature", None),
        ("options.temprature", None),
        ("nothing.like.it", None),
        ("", None),
        (".", None),
        ("x" * 10_000, None),
    ],
)
def test_the_key_that_was_meant(key, meant):
    assert nearest_key(key) == meant
