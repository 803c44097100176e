"""Tensors of GGUF files in MLX: every value is the one that ggml's definition gives, without a tolerance."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from metalchat_engine import InvalidModel, UnsupportedModel
from metalchat_engine_mlx.gguf import load_weights, quantization, read_header
from metalchat_engine_mlx.testing.gguf import Floats, LlamaFile, Stored, decode, encode, gguf_bytes, write_llama

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
MIXED = {"embed_tokens.weight": "Q8_0", "v_proj.weight": "F16", "down_proj.weight": "BF16", "q_proj.weight": "Q4_0"}


def values_of(weights: dict[str, mx.array], name: str, packing: tuple[int, int] | None) -> Floats:
    """The matrix as float32: dequantised by MLX."""
    weight = weights[f"{name}.weight"]
    if packing is not None:
        bits, group_size = packing
        scales, biases = weights[f"{name}.scales"], weights[f"{name}.biases"]
        weight = mx.dequantize(weight, scales, biases, group_size=group_size, bits=bits)
    return np.array(weight.astype(mx.float32))


def assert_same(file: LlamaFile, weights: dict[str, mx.array]) -> None:
    header = read_header(file.path)
    packings = quantization(header)
    for name, expected in file.weights.items():
        module, _, part = name.rpartition(".")
        found = values_of(weights, module, packings.get(module)) if part == "weight" else np.array(weights[name])
        np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.parametrize("types", [*KINDS, {**MIXED, "": "Q4_1"}], ids=str)
def test_values_equal_those_of_ggml_exactly(tmp_path: Path, types: str | dict[str, str]):
    file = write_llama(tmp_path / "model.gguf", types=types, tied=False, biases=True, seed=3)
    weights = load_weights(file.path, read_header(file.path), dtype=mx.float32)
    assert_same(file, weights)
    assert {array.dtype for array in weights.values()} <= {mx.float32, mx.uint32}


def test_names_are_those_of_hugging_face(tmp_path: Path):
    file = write_llama(tmp_path / "model.gguf", types={"q_proj.weight": "Q4_0", "": "F16"}, layers=1)
    weights = load_weights(file.path, read_header(file.path))
    assert sorted(weights) == sorted(
        [*file.weights, "model.layers.0.self_attn.q_proj.scales", "model.layers.0.self_attn.q_proj.biases"]
    )


def test_without_a_dtype_everything_keeps_that_of_the_file(tmp_path: Path):
    file = write_llama(tmp_path / "model.gguf", types={**MIXED, "": "Q4_1"})
    weights = load_weights(file.path, read_header(file.path))
    layer = "model.layers.1."
    assert weights["model.embed_tokens.scales"].dtype == mx.float16
    assert weights[f"{layer}self_attn.q_proj.biases"].dtype == mx.float16
    assert weights[f"{layer}self_attn.v_proj.weight"].dtype == mx.float16
    assert weights[f"{layer}mlp.down_proj.weight"].dtype == mx.bfloat16
    assert weights[f"{layer}input_layernorm.weight"].dtype == mx.float32
    exact = load_weights(file.path, read_header(file.path), dtype=mx.float32)
    for name, array in weights.items():
        assert mx.array_equal(array.astype(exact[name].dtype), exact[name]), name


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_every_bit_pattern_of_a_block_is_read(tmp_path: Path, kind: str):
    """All values of every byte of quants, scales from subnormal to large, of both signs."""
    random = np.random.default_rng(5)
    file = write_llama(tmp_path / "model.gguf", types=kind, layers=1, hidden=128)
    data, header = bytearray(file.path.read_bytes()), read_header(file.path)
    tensor = header.tensors["blk.0.ffn_up.weight"]
    length = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34}[kind]
    blocks = random.integers(0, 256, (tensor.nbytes // length, length), np.uint8)
    ends = 2 if kind == "Q4_1" else 1
    scales = random.choice(np.array([6e-8, 1e-5, 0.5, 1, 300, -0.3, -300, 0, -0.0], np.float16), (len(blocks), ends))
    blocks[:, : 2 * ends] = scales.view(np.uint8)
    blocks[:16, 2 * ends :] = np.arange(16)[:, None] * 17
    data[tensor.offset : tensor.offset + tensor.nbytes] = blocks.tobytes()
    file.path.write_bytes(data)

    weights = load_weights(file.path, read_header(file.path), dtype=mx.float32)

    found = values_of(weights, "model.layers.0.mlp.up_proj", quantization(header)["model.layers.0.mlp.up_proj"])
    expected = decode(Stored(type=kind, shape=tensor.shape, data=blocks.tobytes()))
    np.testing.assert_array_equal(found, expected)


def test_mlx_reads_the_same_from_the_file_itself(tmp_path: Path):
    file = write_llama(tmp_path / "model.gguf", types={"q_proj.weight": "Q4_0", "k_proj.weight": "Q8_0", "": "Q4_1"})
    ours, theirs = load_weights(file.path, read_header(file.path)), mx.load(str(file.path))
    assert isinstance(theirs, dict)
    names = {"embed_tokens": "token_embd", "layers.1.mlp.down_proj": "blk.1.ffn_down"}
    for name, ggml in names.items():
        for part in ("weight", "scales", "biases"):
            assert mx.array_equal(ours[f"model.{name}.{part}"], theirs[f"{ggml}.{part}"]), (name, part)


def test_rows_of_queries_and_keys_return_to_the_order_of_hugging_face(tmp_path: Path):
    file = write_llama(tmp_path / "model.gguf", types="F32", biases=True, heads=4, kv_heads=2)
    header = read_header(file.path)
    weights, raw = load_weights(file.path, header), mx.load(str(file.path))
    for name, ggml, heads in (("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2)):
        for part in ("weight", "bias"):
            ours = weights[f"model.layers.0.self_attn.{name}.{part}"]
            stored = raw[f"blk.0.{ggml}.{part}"]  # type: ignore[index]
            pairs = ours.reshape(heads, 2, 8, -1).swapaxes(1, 2).reshape(stored.shape)
            assert mx.array_equal(pairs, stored)
            assert not mx.array_equal(ours, stored)


def test_a_missing_output_bias_is_zeros(tmp_path: Path):
    file = write_llama(tmp_path / "model.gguf", biases=True, layers=1)
    data, header = file.path.read_bytes(), read_header(file.path)
    tensors = {
        tensor.name: Stored(type="F32", shape=tensor.shape, data=data[tensor.offset : tensor.offset + tensor.nbytes])
        for tensor in header.tensors.values()
        if tensor.name != "blk.0.attn_output.bias"
    }
    file.path.write_bytes(gguf_bytes(file.metadata, tensors))
    weights = load_weights(file.path, read_header(file.path), dtype=mx.bfloat16)
    bias = weights["model.layers.0.self_attn.o_proj.bias"]
    assert (bias.tolist(), bias.dtype) == ([0.0] * 64, mx.bfloat16)


def test_the_factors_of_rotary_frequencies_stay_float32(tmp_path: Path):
    factors = [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 7.0, 8.1]
    file = write_llama(tmp_path / "model.gguf", rope_factors=factors)
    found = load_weights(file.path, read_header(file.path), dtype=mx.bfloat16)["rope_freqs"]
    assert (found.dtype, np.array(found).tolist()) == (mx.float32, np.array(factors, np.float32).tolist())


@pytest.mark.parametrize("factor", [0.0, -1.0, 1e-9, float("nan"), float("inf")])
def test_factors_that_no_model_has_are_refused(tmp_path: Path, factor: float):
    file = write_llama(tmp_path / "model.gguf", rope_factors=[1.0] * 7 + [factor])
    with pytest.raises(InvalidModel, match=r"the tensor 'rope_freqs\.weight' has a factor that is not from"):
        load_weights(file.path, read_header(file.path))


def test_nothing_is_loaded_from_a_file_that_cannot_be_run(tmp_path: Path):
    file = write_llama(tmp_path / "model.gguf", metadata={"general.architecture": "mamba"})
    with pytest.raises(UnsupportedModel, match="'mamba'"):
        load_weights(file.path, read_header(file.path))


def test_a_file_that_changed_after_its_header_was_read_is_refused(tmp_path: Path):
    file = write_llama(tmp_path / "model.gguf")
    header = read_header(file.path)
    file.path.write_bytes(file.path.read_bytes()[:-1])
    with pytest.raises(InvalidModel, match="was changed while it was being loaded"):
        load_weights(file.path, header)
    file.path.unlink()
    with pytest.raises(InvalidModel, match="cannot be read"):
        load_weights(file.path, header)


@pytest.mark.parametrize("kind", KINDS)
def test_the_writer_and_its_reader_agree(kind: str):
    values = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    tolerance = {"F32": 0, "F16": 1e-3, "BF16": 1e-2, "Q8_0": 0.02}.get(kind, 0.25)
    np.testing.assert_allclose(decode(encode(values, kind)), values, atol=tolerance)
