"""F-8: a config is checked before anything is allocated for it, and messages name the key and the range."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine import EngineSettings, InvalidModel, ModelSource, UnsupportedModel, UnsupportedRequest
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.models import read_config
from metalchat_engine_mlx.strict_json import parse_object
from metalchat_engine_mlx.testing import tiny_config, write_tiny_model

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text())
FAMILIES = {name: found["config"] for name, found in GOLDEN.items() if "model_type" in found["config"]}
OTHER_KEYS = ("norm_type", "mlp_type", "original_max_position_embeddings", "no_rope_layer_interval", "rope_parameters")
FILES = ("config.json", "generation_config.json", "model.safetensors.index.json")
MALFORMED = {
    "empty": b"",
    "a BOM": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "not UTF-8": b'{"a": "\xff"}',
    "cut short": b'{"a": 1',
    "two values": b"{} {}",
    "an array": b"[]",
    "a text": b'"x"',
    "a number": b"1",
    "null": b"null",
    "single quotes": b"{'a': 1}",
    "a comment": b"{} // x",
    "a trailing comma": b'{"a": 1,}',
    "a key twice": b'{"a": 1, "a": 2}',
    "a nested key twice": b'{"b": {"a": 1, "a": 2}}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": Infinity}',
    "minus Infinity": b'{"a": -Infinity}',
    "too large a number": b'{"a": 1e999}',
    "5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "100,000 lists": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 lists without end": b'{"a": ' + b"[" * 100_000,
    "100,000 objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "half a character": b'{"a": "\\ud800"}',
    "half a character in a key": b'{"\\udfff": 1}',
    "a control character": b'{"a": "\x01"}',
    "a NUL": b'{"a": 1}\0',
    "26 MB": b'{"a": "' + b"x" * 26_000_000 + b'"}',
}
LIES: list[tuple[str, Any, str]] = [
    ("num_hidden_layers", 1000000000, "'config.json': 'num_hidden_layers' is 1000000000, expected 1 to 1000"),
    ("num_hidden_layers", 0, "'config.json': 'num_hidden_layers' is 0, expected 1 to 1000"),
    ("vocab_size", 0, "'config.json': 'vocab_size' is 0, expected 1 to 1048576"),
    ("vocab_size", -1, "'config.json': 'vocab_size' is -1, expected 1 to 1048576"),
    ("vocab_size", 1e30, "'config.json': 'vocab_size' is 1e+30, expected 1 to 1048576"),
    ("vocab_size", "x", "'config.json': 'vocab_size' is 'x', expected 1 to 1048576"),
    ("vocab_size", None, "'config.json': 'vocab_size' is missing, expected 1 to 1048576"),
    ("vocab_size", True, "'config.json': 'vocab_size' is True, expected 1 to 1048576"),
    ("hidden_size", 2**40, "'config.json': 'hidden_size' is 1099511627776, expected 1 to 65536"),
    ("hidden_size", [64], "'config.json': 'hidden_size' is [64], expected 1 to 65536"),
    ("intermediate_size", -5, "'config.json': 'intermediate_size' is -5, expected 1 to 1048576"),
    ("num_attention_heads", 0, "'config.json': 'num_attention_heads' is 0, expected 1 to 1024"),
    ("num_attention_heads", 6, "'config.json': 'num_attention_heads' is 6, expected a divisor of 'hidden_size'"),
    ("num_key_value_heads", 3, "expected a divisor of 'num_attention_heads', which is 4"),
    ("num_key_value_heads", 8, "'config.json': 'num_key_value_heads' is 8, expected 1 to 4"),
    ("head_dim", 7, "'config.json': 'head_dim' is 7, expected an even number"),
    ("rms_norm_eps", "nan", "'config.json': 'rms_norm_eps' is 'nan', expected 1e-12 to 1"),
    ("rms_norm_eps", -1, "'config.json': 'rms_norm_eps' is -1, expected 1e-12 to 1"),
    ("rope_scaling", [], "'config.json': 'rope_scaling' is [], expected an object"),
    ("rope_scaling", {"rope_type": "linear"}, "'rope_scaling.factor' is missing, expected 1 to 1024"),
    ("rope_scaling", {"rope_type": "dynamic", "factor": 0.5}, "'rope_scaling.factor' is 0.5, expected 1 to 1024"),
    ("rope_scaling", {"rope_type": "llama3", "factor": 8}, "'rope_scaling.low_freq_factor' is missing"),
    (
        "rope_scaling",
        {"rope_type": "longrope", "short_factor": [1], "long_factor": [1]},
        "expected a list of 8 numbers",
    ),
    ("rope_theta", 0, "'config.json': 'rope_theta' is 0, expected 1 to 1e+12"),
    ("rope_theta", "1e4", "'config.json': 'rope_theta' is '1e4', expected 1 to 1e+12"),
    ("eos_token_id", [], "'config.json': 'eos_token_id' is [], expected a token id below 544, or a list of 1 to 64"),
    ("eos_token_id", 544, "'config.json': 'eos_token_id' is 544, expected a token id below 544"),
    ("tie_word_embeddings", "yes", "'config.json': 'tie_word_embeddings' is 'yes', expected true or false"),
    ("max_position_embeddings", 0, "'config.json': 'max_position_embeddings' is 0, expected 1 to 67108864"),
    ("quantization", {"group_size": 7, "bits": 4}, "'quantization.group_size' is 7, expected 32, 64 or 128"),
    ("quantization", {"group_size": 32, "bits": 7}, "'quantization.bits' is 7, expected 2, 3, 4, 5, 6 or 8"),
    ("quantization", [], "'config.json': 'quantization' is [], expected an object"),
]
UNSUPPORTED: list[tuple[str, Any, str]] = [
    ("model_type", "bert", "'model_type' is 'bert', this engine runs gemma2, gemma3, gemma3_text, gpt_neox, "),
    ("model_type", ["llama"], "'config.json': 'model_type' is ['llama'], this engine runs gemma2, "),
    ("model_type", None, "'config.json': 'model_type' is missing, this engine runs gemma2, "),
    ("hidden_act", "tanh", "'hidden_act' is 'tanh', this engine runs gelu, gelu_new, gelu_pytorch_tanh, relu and silu"),
    ("rope_scaling", {"rope_type": "su"}, "'rope_scaling.rope_type' is 'su', this engine runs default, linear"),
    ("partial_rotary_factor", 0.5, "'partial_rotary_factor' is not 1"),
    ("quantization_config", {"quant_method": "hqq"}, "the weights are quantised by 'hqq'"),
    ("quantization", {"group_size": 32, "bits": 4, "mode": "mxfp6"}, "'quantization.mode' is 'mxfp6'"),
]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("case", MALFORMED)
def test_f_8_malformed_json_is_refused_in_one_line(case: str, file: str, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "m", shards=2, generation_config={})
    (model / file).write_bytes(MALFORMED[case])
    inspection = MlxEngine().inspect(ModelSource(path=model))
    assert not inspection.loadable
    assert str(inspection.reason).startswith(f"'{file}' is ")
    assert str(inspection.reason).isprintable()
    assert len(str(inspection.reason)) < 200


@pytest.mark.parametrize("entry", [{"bits": 7}, {"bits": 4, "group_size": 7}, {"mode": "x"}])
def test_f_8_a_key_of_the_file_is_shown_without_what_a_terminal_obeys(entry: dict[str, Any]) -> None:
    table = {"group_size": 32, "bits": 4, "\x1b[2J\n": entry}
    with pytest.raises((InvalidModel, UnsupportedModel)) as caught:
        read_config(tiny_config(quantization=table))
    assert str(caught.value).isprintable()
    assert "quantization.\\x1b[2J\\n" in str(caught.value)


@pytest.mark.parametrize(("key", "value", "text"), LIES)
def test_f_8_a_value_out_of_range_is_refused_before_any_allocation(
    key: str, value: Any, text: str, tmp_path: Path
) -> None:
    model = write_tiny_model(tmp_path / "m")
    config = json.loads((model / "config.json").read_text()) | {key: value}
    (model / "config.json").write_text(json.dumps(config))
    tracemalloc.start()
    with pytest.raises(InvalidModel) as caught:
        MlxEngine().load(ModelSource(path=model), EngineSettings())
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()
    assert text in str(caught.value)


@pytest.mark.parametrize(("key", "value", "text"), UNSUPPORTED)
def test_what_this_engine_does_not_run_is_said(key: str, value: Any, text: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        read_config(tiny_config() | {key: value})
    assert text in str(caught.value)


@pytest.mark.parametrize("variant", FAMILIES)
def test_f_8_every_family_refuses_or_reads_whatever_its_keys_say(variant: str) -> None:
    config = tiny_config(**FAMILIES[variant])
    keys = {key for changes in FAMILIES.values() for key in changes} | set(config) | set(OTHER_KEYS)
    for key in sorted(keys):
        for value in (None, True, False, -1, 0, 3, 10**30, 1e300, 0.3, "x", "silu", [], [1], [{}], {}, {"a": {}}):
            said, layers = "", 1
            try:
                layers = len(read_config(config | {key: value}).layers)
            except (InvalidModel, UnsupportedModel) as error:
                said = str(error)
            assert said.isprintable()
            assert len(said) < 400
            assert 1 <= layers <= 1000


@pytest.mark.parametrize(
    ("variant", "key", "value", "text"),
    [
        ("gemma2", "use_bidirectional_attention", True, "'use_bidirectional_attention' is True, this engine runs"),
        ("gemma3", "hidden_activation", "swiglu", "'hidden_activation' is 'swiglu', this engine runs gelu, "),
        ("gemma3", "layer_types", ["chunked_attention"] * 4, "'layer_types' is 'chunked_attention', this engine runs"),
        ("gemma3", "sliding_window", 0, "'sliding_window' is 0, expected 1 to 67108864"),
        ("gemma3", "layer_types", ["full_attention"], "expected a list of 4 kinds of attention"),
        ("qwen2", "layer_types", ["sliding_attention"] * 2, "expected true where 'layer_types' has sliding_attention"),
        ("qwen3", "rope_parameters", {"full_attention": {}}, "this engine runs one rope for all layers"),
        ("smollm3", "no_rope_layers", [1, 0, 2, 1], "expected a list of 4 ones and noughts"),
        ("starcoder2", "mlp_type", "gated", "'mlp_type' is 'gated', this engine runs default"),
        ("gpt_neox", "rotary_pct", 0.1, "'rotary_pct' is 0.1, expected a share of 16 that is even"),
        ("gpt_neox", "num_key_value_heads", 2, "'num_key_value_heads' is 2, this engine runs 4"),
        ("granite", "logits_scaling", 0, "'logits_scaling' is 0, expected 1e-06 to 1e+06"),
        ("mixtral", "num_local_experts", 10**9, "'num_local_experts' is 1000000000, expected 1 to 1024"),
        ("mixtral", "num_experts_per_tok", 5, "'num_experts_per_tok' is 5, expected 1 to 4"),
        ("qwen3_moe", "mlp_only_layers", [7], "expected a list of layers below 2"),
        ("phi3", "rope_scaling", {"type": "su", "short_factor": [1], "long_factor": [1]}, "a list of 8 numbers"),
    ],
)
def test_what_a_family_cannot_mean_is_said(variant: str, key: str, value: Any, text: str) -> None:
    with pytest.raises((InvalidModel, UnsupportedModel)) as caught:
        read_config(tiny_config(**FAMILIES[variant]) | {key: value})
    assert text in str(caught.value)


def test_options_win_over_the_file_and_are_checked_like_it(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "m")
    assert read_config(tiny_config(), options={"rms_norm_eps": 0.0001}).norm.eps == 0.0001
    wrong = ModelSource(path=model, options={"num_hidden_layers": 5000})
    with pytest.raises(UnsupportedRequest, match="option 'num_hidden_layers' is 5000, expected 1 to 1000") as caught:
        MlxEngine().load(wrong, EngineSettings())
    assert caught.value.option == "num_hidden_layers"
    other = MlxEngine().inspect(ModelSource(path=model, options={"hidden_size": 32}))
    assert "has the shape [544, 64], expected [544, 32]" in str(other.reason)


@pytest.mark.parametrize(
    ("variant", "name"), [("llama", "num_hiden_layers"), ("llama", "attention_dropout"), ("gpt_neox", "rms_norm_eps")]
)
def test_an_option_that_would_change_nothing_is_refused(variant: str, name: str) -> None:
    kind = FAMILIES.get(variant, {})
    with pytest.raises(UnsupportedRequest, match=f"option '{name}' does nothing for a model of type '{variant}'") as no:
        read_config(tiny_config(**kind), options={name: 1})
    assert no.value.option == name


def test_both_forms_of_rope_in_a_config_mean_the_same() -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 64
    old = read_config(tiny_config(rope_theta=5e5, rope_scaling=scaling))
    new = read_config(tiny_config(rope_theta=None, rope_parameters=scaling | {"rope_theta": 5e5}))
    assert old.ropes() == new.ropes()
    assert read_config(tiny_config(rope_scaling={"type": "linear", "factor": 4})).context_length == 2048


@pytest.mark.parametrize("depth", [60, 70])
def test_nesting_is_counted_outside_of_texts_only(depth: int) -> None:
    text = json.dumps({"a": "[{" * 1000, "b": '\\"[' * 100})
    assert parse_object(text.encode(), "x")["a"].startswith("[{")
    nested = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    if depth < 64:
        assert parse_object(nested, "x")
    else:
        with pytest.raises(InvalidModel, match="nested deeper than 64"):
            parse_object(nested, "x")


def test_generation_config_is_checked(tmp_path: Path) -> None:
    for document, text in (
        ({"eos_token_id": []}, "'generation_config.json': 'eos_token_id' is []"),
        ({"temperature": -1}, "'generation_config.json': 'temperature' is -1, expected 0 to 100"),
        ({"top_p": "x"}, "'generation_config.json': 'top_p' is 'x'"),
        ({"do_sample": 1}, "'generation_config.json': 'do_sample' is 1, expected true or false"),
    ):
        model = write_tiny_model(tmp_path / "m", generation_config=document)
        assert text in str(MlxEngine().inspect(ModelSource(path=model)).reason)
