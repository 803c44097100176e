"""What configuration a GGUF file means, and which models are refused."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from metalchat_engine import InvalidModel, UnsupportedModel
from metalchat_engine_mlx.gguf import config_from_gguf, quantization, read_header
from metalchat_engine_mlx.testing.gguf import Stored, Value, encode, gguf_bytes, write_llama

FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0)


def written(tmp_path: Path, **settings: object) -> Path:
    return write_llama(tmp_path / "model.gguf", **settings).path  # type: ignore[arg-type]


def config_with(tmp_path: Path, metadata: Mapping[str, Value], **settings: object) -> dict[str, object]:
    return config_from_gguf(read_header(written(tmp_path, metadata=metadata, **settings)))


def without(tmp_path: Path, key: str) -> Path:
    file = write_llama(tmp_path / "model.gguf", layers=1)
    embedding = encode(np.zeros((300, 64), np.float32), "F32")
    said = {name: value for name, value in file.metadata.items() if name != key}
    file.path.write_bytes(gguf_bytes(said, {"token_embd.weight": embedding}))
    return file.path


def test_the_words_are_those_of_hugging_face(tmp_path: Path):
    config = config_with(tmp_path, {"tokenizer.ggml.eot_token_id": 1})
    assert config == {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": pytest.approx(1e-5),
        "max_position_embeddings": 512,
        "vocab_size": 264,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 0,
        "eos_token_id": [2, 1],
    }


def test_tensors_say_what_is_tied_and_biased(tmp_path: Path):
    config = config_with(tmp_path, {}, tied=False, biases=True)
    assert [config[key] for key in ("tie_word_embeddings", "attention_bias", "mlp_bias")] == [False, True, True]


@pytest.mark.parametrize(
    ("metadata", "scaling"),
    [
        ({}, None),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}, None),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0}, None),
        (
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
            {"rope_type": "linear", "factor": 4.0},
        ),
        ({"llama.rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"llama.rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 16.0,
                "llama.rope.scaling.original_context_length": 32,
                "llama.rope.scaling.yarn_beta_fast": 64.0,
            },
            {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 32, "beta_fast": 64.0},
        ),
    ],
)
def test_rope_scaling_is_that_of_the_file(
    tmp_path: Path, metadata: dict[str, Value], scaling: dict[str, object] | None
):
    assert config_with(tmp_path, metadata)["rope_scaling"] == scaling


def test_llama3_scaling_is_said_to_be_the_factors_of_a_tensor(tmp_path: Path):
    assert config_with(tmp_path, {}, rope_factors=FACTORS)["rope_scaling"] == {"rope_type": "gguf_factors"}
    with pytest.raises(InvalidModel, match=r"the tensor 'rope_freqs\.weight' is not 8 values of type F32"):
        config_with(tmp_path, {}, rope_factors=FACTORS[1:])
    with pytest.raises(UnsupportedModel, match=r"has both 'rope_freqs\.weight' and 'linear' rope scaling"):
        config_with(tmp_path, {"llama.rope.scaling.factor": 2.0}, rope_factors=FACTORS)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("llama.block_count", 10**9, "'llama.block_count' is 1000000000, expected a whole number from 1 to 1000"),
        ("llama.block_count", 0, "'llama.block_count' is 0, expected a whole number from 1 to 1000"),
        ("llama.block_count", "two", "'llama.block_count' is not a number"),
        ("llama.block_count", 2.0, "'llama.block_count' is 2.0, expected a whole number from 1 to 1000"),
        ("llama.block_count", True, "'llama.block_count' is not a number"),
        ("llama.block_count", ["2"], "'llama.block_count' is not a number"),
        ("llama.embedding_length", 66, "'llama.embedding_length' 66 is not a multiple of 4 attention heads"),
        ("llama.attention.head_count", 0, "'llama.attention.head_count' is 0"),
        ("llama.attention.head_count_kv", 3, "4 attention heads cannot share 3 key and value heads"),
        ("llama.attention.layer_norm_rms_epsilon", float("nan"), "'llama.attention.layer_norm_rms_epsilon' is nan"),
        ("llama.rope.freq_base", float("inf"), "'llama.rope.freq_base' is inf, expected 1 to 1e+12"),
        ("llama.context_length", 2**31, "'llama.context_length' is 2147483648"),
        ("general.architecture", 3, "'general.architecture' is not a string"),
        ("tokenizer.ggml.eos_token_id", 264, "'tokenizer.ggml.eos_token_id' is 264, expected 0 to 263"),
        ("tokenizer.ggml.bos_token_id", "<s>", "'tokenizer.ggml.bos_token_id' is not a whole number"),
    ],
)
def test_values_out_of_range_are_named(tmp_path: Path, key: str, value: Value, expected: str):
    with pytest.raises(InvalidModel) as caught:
        config_with(tmp_path, {key: value})
    assert str(caught.value).startswith(f"'model.gguf' is not a valid GGUF file: {expected}")


@pytest.mark.parametrize(
    "key",
    [
        "general.architecture",
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
    ],
)
def test_what_must_be_there_is_named_when_missing(tmp_path: Path, key: str):
    with pytest.raises(InvalidModel, match=f"'{key}' is missing"):
        config_from_gguf(read_header(without(tmp_path, key)))


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (
            {"general.architecture": "rwkv\x1b[2J"},
            r" holds a 'rwkv\u001b[2J' model; 'gemma2', 'gemma3', 'gptneox', 'granite', 'llama', ",
        ),
        ({"split.count": 3}, " is one of 3 parts of a model; join them with llama-gguf-split --merge"),
        ({"llama.expert_shared_count": 2}, " sets 'llama.expert_shared_count', which is not supported"),
        ({"llama.expert_gating_func": 2}, " sets 'llama.expert_gating_func', which is not supported"),
        ({"llama.attention.scale": 0.5}, " sets 'llama.attention.scale', which is not supported"),
        (
            {"llama.rope.dimension_count": 8},
            ": 'llama.rope.dimension_count' is 8; only the length of an attention head",
        ),
        ({"llama.feed_forward_length": [96, 64]}, ": 'llama.feed_forward_length' differs by layer"),
        ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}, " has 'longrope' rope scaling"),
    ],
)
def test_what_the_engine_has_not_is_unsupported(tmp_path: Path, metadata: dict[str, Value], expected: str):
    with pytest.raises(UnsupportedModel) as caught:
        config_with(tmp_path, metadata)
    assert str(caught.value).startswith(f"'model.gguf'{expected}")


def test_one_number_for_all_layers_may_be_written_as_a_list(tmp_path: Path):
    config = config_with(tmp_path, {"llama.feed_forward_length": [96, 96], "llama.attention.head_count_kv": [2, 2]})
    assert (config["intermediate_size"], config["num_key_value_heads"]) == (96, 2)


def test_every_matrix_says_how_it_is_packed(tmp_path: Path):
    types = {"embed_tokens.weight": "Q8_0", "q_proj.weight": "Q4_0", "v_proj.weight": "F16", "": "Q4_1"}
    found = quantization(read_header(written(tmp_path, types=types, layers=1)))
    assert found == {
        "model.embed_tokens": (8, 32),
        "model.layers.0.self_attn.q_proj": (4, 32),
        "model.layers.0.self_attn.k_proj": (4, 32),
        "model.layers.0.self_attn.v_proj": None,
        "model.layers.0.self_attn.o_proj": (4, 32),
        "model.layers.0.mlp.gate_proj": (4, 32),
        "model.layers.0.mlp.up_proj": (4, 32),
        "model.layers.0.mlp.down_proj": (4, 32),
    }


def changed(tmp_path: Path, name: str, stored: Stored | None) -> Path:
    """A file whose tensor `name` is replaced, added or, with None, absent."""
    file = write_llama(tmp_path / "model.gguf", layers=1)
    data, header = file.path.read_bytes(), read_header(file.path)
    tensors = {
        tensor.name: Stored(type="F32", shape=tensor.shape, data=data[tensor.offset : tensor.offset + tensor.nbytes])
        for tensor in header.tensors.values()
    }
    tensors.pop(name, None)
    if stored is not None:
        tensors[name] = stored
    file.path.write_bytes(gguf_bytes(file.metadata, tensors))
    return file.path


@pytest.mark.parametrize(
    ("name", "stored", "error", "expected"),
    [
        ("blk.0.attn_k.weight", None, InvalidModel, "the tensor 'blk.0.attn_k.weight' is missing"),
        ("output_norm.weight", None, InvalidModel, "the tensor 'output_norm.weight' is missing"),
        ("token_embd.weight", None, InvalidModel, "it has no two-dimensional tensor 'token_embd.weight'"),
        (
            "blk.0.attn_k.weight",
            encode(np.zeros((64, 32), np.float32), "F32"),
            InvalidModel,
            "the tensor 'blk.0.attn_k.weight' is 64 x 32, expected 32 x 64",
        ),
        (
            "blk.0.ffn_up.weight",
            Stored(type="Q6_K", shape=(96, 64), data=b""),
            InvalidModel,
            "the tensor 'blk.0.ffn_up.weight' of type Q6_K has 64 columns, not a multiple of 256",
        ),
        (
            "blk.0.attn_norm.weight",
            encode(np.zeros(64, np.float32), "Q8_0"),
            UnsupportedModel,
            "the tensor 'blk.0.attn_norm.weight' is of type Q8_0; F32, F16 and BF16 are supported",
        ),
        (
            "blk.0.attn_q_norm.weight",
            encode(np.zeros(16, np.float32), "F32"),
            UnsupportedModel,
            "has the tensor 'blk.0.attn_q_norm.weight', which a llama model does not have",
        ),
        (
            "blk.1.attn_norm.weight",
            encode(np.zeros(64, np.float32), "F32"),
            UnsupportedModel,
            "has the tensor 'blk.1.attn_norm.weight', which a llama model does not have",
        ),
    ],
)
def test_tensors_must_be_those_of_the_model(
    tmp_path: Path, name: str, stored: Stored | None, error: type[Exception], expected: str
):
    with pytest.raises(error) as caught:
        quantization(read_header(changed(tmp_path, name, stored)))
    assert expected in str(caught.value)


def test_a_quantisation_that_is_not_read_is_named_with_its_tensor(tmp_path: Path):
    file = write_llama(tmp_path / "model.gguf", layers=1, hidden=256, types="F32")
    data, header = file.path.read_bytes(), read_header(file.path)
    tensors = {
        tensor.name: Stored(type="F32", shape=tensor.shape, data=data[tensor.offset : tensor.offset + tensor.nbytes])
        for tensor in header.tensors.values()
    }
    tensors["blk.0.ffn_up.weight"] = Stored(type="IQ2_XS", shape=(96, 256), data=bytes(96 * 74))
    file.path.write_bytes(gguf_bytes(file.metadata, tensors))
    with pytest.raises(UnsupportedModel) as caught:
        quantization(read_header(file.path))
    assert str(caught.value) == (
        "'model.gguf': the tensor 'blk.0.ffn_up.weight' is of type IQ2_XS; F32, F16, BF16, Q4_0, "
        "Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, IQ4_XS, Q4_K, Q5_K, Q2_K, Q3_K and Q6_K are supported"
    )


def test_the_factors_of_old_files_are_passed_over(tmp_path: Path):
    path = changed(tmp_path, "blk.0.attn_rot_embd.weight", encode(np.zeros(8, np.float32), "F32"))
    assert len(quantization(read_header(path))) == 8
