"""What a model says about itself is read strictly, and refused by the file's name."""

import json

import pytest
from metalchat_manifest import InvalidModelFile, ManifestUnreadable, read_config, read_generation_config

READERS = {"config.json": read_config, "generation_config.json": read_generation_config}

DAMAGED = {
    "empty": (b"", "line 1 column 1: Expecting value"),
    "half": (b'{\n"a": ', "line 2 column 6: Expecting value"),
    "array": (b"[]", "it is not a JSON object"),
    "null": (b"null", "it is not a JSON object"),
    "text": (b'"a"', "it is not a JSON object"),
    "two": (b"{}{}", "line 1 column 3: Extra data"),
    "mark": (b"\xef\xbb\xbf{}", "line 1 column 1: Unexpected UTF-8 BOM"),
    "latin": (b'{"a": "\xff"}', "it is not UTF-8 text"),
    "wide": ('{"a": 1}'.encode("utf-16"), "it is not UTF-8 text"),
    "nan": (b'{"temperature": NaN}', "a number is not finite"),
    "infinity": (b'{"a": [-Infinity]}', "a number is not finite"),
    "overflow": (b'{"rope_theta": 1e999}', "a number is not finite"),
    "digits": (b'{"a": ' + b"9" * 5000 + b"}", "a number is too large"),
    "deep": (b'{"a": ' + b"[" * 100_000, "it is nested too deeply"),
    "deep object": (b'{"a":' * 100_000, "it is nested too deeply"),
    "twice": (b'{"a": 1, "a": 2}', "a key is written twice"),
    "twice inside": (b'{"x": {"a": 1, "a": 2}}', "a key is written twice"),
    "surrogate": (b'{"a": "\\ud800"}', "a text has half of a surrogate pair"),
    "surrogate key": (b'{"a": [{"\\uDFFF": 1}]}', "a text has half of a surrogate pair"),
    "control": (b'{"a": "\x1b"}', "line 1 column 8: Invalid control character at"),
    "nul": (b"{}\x00", "line 1 column 3: Extra data"),
    "comment": (b"{} // a", "line 1 column 4: Extra data"),
    "large": (b" " * (16 * 2**20 + 1), "it is larger than 16 MiB"),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_refused_by_name(tmp_path, kind, name):
    data, message = DAMAGED[kind]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidModelFile) as caught:
        READERS[name](tmp_path)
    assert str(caught.value).startswith((f"{name} {message}", f"{name}: {message}"))
    assert str(caught.value).isprintable()
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("name", READERS)
def test_no_file_says_nothing(tmp_path, name):
    assert READERS[name](tmp_path) is None
    (tmp_path / name).mkdir()
    with pytest.raises(ManifestUnreadable):
        READERS[name](tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", "0.6"),
        ("temperature", True),
        ("temperature", 10**400),
        ("temperature", [0.6]),
        ("top_p", 1.5),
        ("top_k", 0.5),
        ("top_k", -2),
        ("top_k", 10**30),
        ("min_p", {}),
        ("repetition_penalty", 0),
        ("do_sample", "yes"),
        ("do_sample", 1),
    ],
)
def test_a_choice_of_sampling_out_of_range_is_named(tmp_path, name, value):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, name: value}))
    with pytest.raises(InvalidModelFile, match=rf"^generation_config.json: '{name}' is ") as caught:
        read_generation_config(tmp_path)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [0, -1, 10**30, 1e30, "x", True, [], 2.5])
def test_a_context_length_out_of_range_is_named(tmp_path, value):
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": value}))
    with pytest.raises(InvalidModelFile, match=r"^config.json: 'max_position_embeddings' is "):
        read_config(tmp_path)


def test_the_choice_of_sampling_has_the_keys_of_a_manifest(tmp_path):
    content = {
        "do_sample": True,
        "temperature": 1,
        "top_p": 0.9,
        "top_k": -1,
        "min_p": None,
        "repetition_penalty": 1.1,
        "eos_token_id": [1, 2],
        "transformers_version": "5",
    }
    (tmp_path / "generation_config.json").write_text(json.dumps(content, indent=2))
    file = read_generation_config(tmp_path)
    assert file is not None
    assert file.values == {
        "inference.sampling.type": "nucleus",
        "inference.sampling.temperature": 1.0,
        "inference.sampling.probability": 0.9,
        "inference.sampling.k": 0,
        "inference.sampling.repetition_penalty": 1.1,
    }
    assert file.line("inference.sampling.probability") == 4
    assert file.line("inference.sampling.min_p") is None


def test_do_sample_false_is_greedy(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"do_sample": false}')
    file = read_generation_config(tmp_path)
    assert file is not None
    assert file.values == {"inference.sampling.type": "greedy"}


def test_scalars_of_config_are_options_with_their_lines(tmp_path):
    (tmp_path / "config.json").write_text(
        '{\n  "model_type": "llama",\n  "rope_scaling": {"rope_theta": 1.0,\n    "x": [":", "}"]},\n'
        '  "rope\\u005ftheta": 5e5, "tie_word_embeddings": true,\n  "eos_token_id": [1],\n  "pad": null,\n'
        '  "a b": 1,\n  "max_position_embeddings": 64\n}\n'
    )
    file = read_config(tmp_path)
    assert file is not None
    assert {key: (value, file.line(key)) for key, value in file.values.items()} == {
        "options.model_type": ("llama", 2),
        "options.rope_theta": (500000.0, 5),
        "options.tie_word_embeddings": (True, 5),
        'options."a b"': (1, 8),
        "options.max_position_embeddings": (64, 9),
        "inference.max_sequence_length": (64, 9),
    }
    assert file.line("options.pad") is None
