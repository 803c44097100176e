"""Every quantised type of GGUF gives the values that llama.cpp gives for the same bits, without a tolerance."""

import base64
import json
import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from metalchat_engine import EngineSettings, GenerationRequest, InvalidModel, Message, ModelSource, Sampling
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.bits import pack
from metalchat_engine_mlx.gguf import load_weights, quantization, read_header
from metalchat_engine_mlx.testing.gguf import Floats, Stored, gguf_bytes, write_llama

GOLDEN: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "golden" / "gguf_blocks.json").read_text())
EXPANDED = ("Q2_K", "Q3_K", "Q6_K")
HIDDEN = 256


def golden(kind: str, rows: int, *, largest: float = 64) -> tuple[Stored, Floats]:
    """A matrix of HIDDEN columns of the golden blocks with values up to `largest`, over and over."""
    data, values = (base64.b64decode(GOLDEN[kind][part]) for part in ("blocks", "values"))
    found = np.frombuffer(values, "<f4").reshape(-1, 256 if "_K" in kind or kind == "IQ4_XS" else 32)
    blocks = np.frombuffer(data, np.uint8).reshape(len(found), -1)
    small = np.abs(found).max(axis=1) <= largest
    picked = np.resize(np.nonzero(small)[0], rows * HIDDEN // found.shape[1])
    stored = Stored(type=kind, shape=(rows, HIDDEN), data=blocks[picked].tobytes())
    return stored, found[picked].reshape(rows, HIDDEN)


def with_matrices(path: Path, kind: str, **changes: Stored) -> Path:
    """A Llama of one layer whose matrices of HIDDEN columns are of one type."""
    file = write_llama(path, layers=1, hidden=HIDDEN, heads=4, kv_heads=2, intermediate=HIDDEN)
    data, header = file.path.read_bytes(), read_header(file.path)
    tensors = {}
    for tensor in header.tensors.values():
        own = data[tensor.offset : tensor.offset + tensor.nbytes]
        tensors[tensor.name] = Stored(type=tensor.type, shape=tensor.shape, data=own)
        if len(tensor.shape) > 1:
            tensors[tensor.name] = golden(kind, tensor.shape[0], largest=0.3)[0]
    for name, stored in changes.items():
        tensors[f"blk.0.{name}.weight"] = stored
    path.write_bytes(gguf_bytes(file.metadata, tensors))
    return path


def loaded(path: Path, module: str, dtype: mx.Dtype | None = mx.float32) -> Floats:
    header = read_header(path)
    weights, packing = load_weights(path, header, dtype=dtype), quantization(header)[module]
    weight = weights[f"{module}.weight"]
    if packing is not None:
        scales, biases = (weights[f"{module}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
        weight = mx.dequantize(weight, scales, biases, bits=packing[0], group_size=packing[1])
    return np.array(weight.astype(mx.float32))


@pytest.mark.parametrize("kind", GOLDEN)
def test_values_are_those_of_llama_cpp(kind: str, tmp_path: Path) -> None:
    stored, expected = golden(kind, rows=256, largest=np.inf)
    path = with_matrices(tmp_path / "model.gguf", kind, ffn_up=stored)
    found = loaded(path, "model.layers.0.mlp.up_proj")
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected)) > 128


@pytest.mark.parametrize("kind", GOLDEN)
def test_rows_of_queries_move_with_their_blocks(kind: str, tmp_path: Path) -> None:
    path = with_matrices(tmp_path / "model.gguf", kind)
    expected = golden(kind, rows=256, largest=0.3)[1].reshape(4, 32, 2, -1).swapaxes(1, 2).reshape(256, -1)
    np.testing.assert_array_equal(loaded(path, "model.layers.0.self_attn.q_proj"), expected)
    if kind not in EXPANDED:
        # Scales that are products stay float32, so that nothing is lost without a dtype either.
        np.testing.assert_array_equal(loaded(path, "model.layers.0.self_attn.q_proj", None), expected)
    else:
        halves = expected.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(loaded(path, "model.layers.0.self_attn.q_proj", None), halves)


@pytest.mark.parametrize("kind", GOLDEN)
def test_inspect_tells_the_size_that_the_weights_take(kind: str, tmp_path: Path) -> None:
    path = with_matrices(tmp_path / "model.gguf", kind)
    inspection = MlxEngine().inspect(ModelSource(path=path))
    arrays = load_weights(path, read_header(path))
    # A CPU computes with scales of float32.
    scales = sum(array.size for name, array in arrays.items() if name.endswith((".scales", ".biases")))
    others = sum(array.nbytes for name, array in arrays.items() if not name.endswith((".scales", ".biases")))
    packed = EngineSettings(extra={"device": "cpu", "weights": "packed"})
    assert MlxEngine().estimate(ModelSource(path=path), packed).weights == 4 * scales + others
    if kind in EXPANDED:
        assert inspection.quantization == f"{kind} as float16"
    else:
        bits = {"4": "4", "5": "5", "8": "8"}[kind.removeprefix("I")[1]] if "IQ" not in kind else "8"
        assert inspection.quantization == f"{bits}-bit, group 32"


@pytest.mark.parametrize("kind", ["Q3_K", "Q5_K", "IQ4_XS"])
def test_a_model_of_such_blocks_answers(kind: str, tmp_path: Path) -> None:
    path = with_matrices(tmp_path / "model.gguf", kind)
    endless = Sampling(temperature=0, logit_bias=dict.fromkeys(range(16), -100))  # no special token, so no end
    request = GenerationRequest(messages=(Message.user("hello"),), sampling=endless, max_tokens=4)
    with MlxEngine().load(ModelSource(path=path), EngineSettings()) as model:
        finish = collect(model, request).finish
    assert (finish.reason, finish.usage.completion_tokens) == ("length", 4)


@pytest.mark.parametrize("scale", [1e4, float("inf"), float("nan")])
def test_values_beyond_16_bits_are_refused(scale: float, tmp_path: Path) -> None:
    stored, _ = golden("Q6_K", rows=256)
    data = bytearray(stored.data)
    data[208:210] = np.array(scale, "<f2").tobytes()
    broken = Stored(type="Q6_K", shape=stored.shape, data=bytes(data))
    path = with_matrices(tmp_path / "model.gguf", "Q6_K", ffn_up=broken)
    with pytest.raises(InvalidModel, match=re.escape("the tensor 'blk.0.ffn_up.weight' has values that are not")):
        load_weights(path, read_header(path))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_whole_numbers_are_packed_as_mlx_packs_them(bits: int) -> None:
    quants = np.random.default_rng(bits).integers(0, 2**bits, (4, 64), np.uint8)
    words = mx.array(pack(quants, bits).reshape(4, -1))
    ones = mx.ones((4, 2))
    found = mx.dequantize(words, ones, mx.zeros((4, 2)), group_size=32, bits=bits)
    np.testing.assert_array_equal(np.array(found), quants)
