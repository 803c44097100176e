"""GPTQ, AWQ and FP8 checkpoints: every value is the one that the format's definition gives."""

import base64
import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from metalchat_engine import (
    EngineSettings,
    GenerationRequest,
    InvalidModel,
    Message,
    ModelSource,
    Sampling,
    UnsupportedModel,
)
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.checkpoint import read_checkpoint
from metalchat_engine_mlx.load import _read
from metalchat_engine_mlx.schemes import Integers
from metalchat_engine_mlx.schemes_load import convert
from metalchat_engine_mlx.testing import write_tiny_model
from metalchat_engine_mlx.testing._tiny import write_safetensors
from numpy.typing import NDArray

Tensors = dict[str, NDArray[Any]]
UP = "model.layers.0.mlp.up_proj"
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
DEEPSEEK = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [48, 40]}
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}},
}


GOLDEN: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "golden" / "schemes.json").read_text())


def golden(case: str) -> Tensors:
    return {
        part: np.frombuffer(base64.b64decode(held["data"]), held["dtype"]).reshape(held["shape"])
        for part, held in GOLDEN[case].items()
    }


@pytest.mark.parametrize("case", ["gptq 4", "gptq 8", "gptq 4 reordered", "awq"])
def test_what_the_tools_themselves_pack_comes_back(case: str) -> None:
    tensors, reorders = golden(case), case.endswith("reordered")
    values = tensors.pop("values").astype(np.float32)
    bits, is_awq = 8 if "8" in case else 4, case == "awq"
    scheme = Integers(bits=bits, group_size=32, offset=int(not is_awq), reorders=reorders, is_awq=is_awq)
    arrays = {f"m.{part}": mx.array(held) for part, held in tensors.items()}
    convert(scheme, [("m", False)], arrays)
    found = arrays["m.weight"]
    if not reorders:
        found = mx.dequantize(found, arrays["m.scales"], arrays["m.biases"], group_size=32, bits=bits)
    np.testing.assert_array_equal(np.array(found.astype(mx.float32)), values)


def test_floats_of_8_bits_are_those_of_torch() -> None:
    np.testing.assert_array_equal([float8(byte) for byte in range(256)], golden("fp8")["values"])


def words(values: NDArray[Any], bits: int, order: tuple[int, ...] | None = None) -> NDArray[np.int32]:
    """[n, m] numbers to [n, m * bits / 32] words: the number `order[i]` of a word's in its bits from i * bits on."""
    count = 32 // bits
    result = np.zeros((values.shape[0], values.shape[1] // count), np.uint32)
    for word in range(result.shape[1]):
        for place, which in enumerate(order or range(count)):
            result[:, word] |= values[:, word * count + which].astype(np.uint32) << np.uint32(place * bits)
    return result.view(np.int32)


def integers(kind: str, random: np.random.Generator, shape: tuple[int, int], **table: Any) -> tuple[Tensors, Any]:
    """A random matrix as the tool stores it, and its values in float32."""
    rows, columns = shape
    bits, size = table["bits"], columns if table["group_size"] == -1 else table["group_size"]
    quants = random.integers(0, 2**bits, (columns, rows))
    zeros = random.integers(0, 2**bits, (columns // size, rows))
    scales = (random.uniform(0.001, 0.02, zeros.shape) * 16 / 2**bits).astype(np.float16)
    groups = np.arange(columns) // size
    if table.get("desc_act"):
        groups = random.permutation(groups)
    values = scales.astype(np.float32)[groups] * (quants - zeros[groups]).astype(np.float32)
    if kind == "awq":
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        return {"qweight": words(quants, 4, order), "qzeros": words(zeros, 4, order), "scales": scales}, values.T
    stored = zeros if table.get("checkpoint_format") == "gptq_v2" else (zeros - 1) % 2**bits
    return {
        "qweight": np.ascontiguousarray(words(quants.T, bits).T),
        "qzeros": words(stored, bits),
        "scales": scales,
        "g_idx": groups.astype(np.int32),
    }, values.T


def float8(byte: int) -> float:
    """OCP e4m3: 4 bits of exponent, bias 7, no infinities."""
    sign, exponent, fraction = -1 if byte >> 7 else 1, byte >> 3 & 15, byte & 7
    if (exponent, fraction) == (15, 7):
        return math.nan
    return sign * (fraction / 8 * 2.0**-6 if exponent == 0 else (1 + fraction / 8) * 2.0 ** (exponent - 7))


def floats(random: np.random.Generator, shape: tuple[int, int], scale: str, name: str) -> tuple[Tensors, Any]:
    rows, columns = shape
    # Small enough for a model, and now and then large.
    weight = random.choice([byte for byte in range(256) if byte & 127 != 127], shape).astype(np.uint8)
    scale_shape = {
        "tensor": (),
        "one": (1,),
        "channel": (rows, 1),
        "row": (rows,),
        "block": (-(-rows // 48), -(-columns // 40)),
    }[scale]
    scales = np.float32(random.uniform(0.0001, 0.0005, scale_shape))
    values = np.array([float8(byte) for byte in range(256)], np.float32)[weight]
    for row in range(rows):
        for column in range(columns):
            if scale == "block":
                values[row, column] *= scales[row // 48, column // 40]
            else:
                values[row, column] *= np.resize(scales, rows)[row] if scales.size > 1 else scales.reshape(-1)[0]
    return {"weight": weight, name: np.asarray(scales)}, values


def write(path: Path, table: dict[str, Any], scale: str = "", **more: Any) -> dict[str, Any]:
    """A tiny Llama quantised so; returns the values of its matrices."""
    write_tiny_model(path, dtype="float16")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": table}))
    arrays = mx.load(str(path / "model.safetensors"))
    assert isinstance(arrays, dict)
    random = np.random.default_rng(1)
    tensors: Tensors = {}
    dtypes: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name, array in arrays.items():
        module = name.removesuffix(".weight")
        if not name.endswith("_proj.weight"):
            tensors[name] = np.array(array)
            continue
        if scale:
            key = "weight_scale_inv" if scale == "block" and table["quant_method"] == "fp8" else "weight_scale"
            found, values[module] = floats(random, array.shape, scale, key)
            dtypes[f"{module}.weight"] = "F8_E4M3"
            tensors[f"{module}.input_scale"] = np.ones(1, np.float32)
        else:
            found, values[module] = integers(table["quant_method"], random, array.shape, **table)
        tensors |= {f"{module}.{part}": held for part, held in found.items()}
    tensors |= more
    write_safetensors(path / "model.safetensors", tensors, dtypes=dtypes)
    return values


def matrix(path: Path, module: str) -> NDArray[np.float32]:
    """As loaded, in float32."""
    _, parameters = _read(read_checkpoint(ModelSource(path=path)))
    found = parameters.matrix(module)
    weight = found.weight
    if found.packing is not None:
        assert found.scales is not None
        packing = found.packing
        weight = mx.dequantize(weight, found.scales, found.biases, group_size=packing.group_size, bits=packing.bits)
    return np.array(weight.astype(mx.float32))


PACKED = {
    "gptq": GPTQ,
    "gptq v2": GPTQ | {"checkpoint_format": "gptq_v2"},
    "gptq of 2 bits": GPTQ | {"bits": 2},
    "gptq of 8 bits": GPTQ | {"bits": 8},
    "gptq of whole rows": GPTQ | {"group_size": -1, "desc_act": True},
    "gptq in groups of 64": GPTQ | {"group_size": 64},
    "awq": AWQ,
    "awq in groups of 64": AWQ | {"group_size": 64},
}


@pytest.mark.parametrize("case", PACKED)
def test_packed_values_are_exact_and_stay_packed(case: str, tmp_path: Path) -> None:
    table = PACKED[case]
    # A group of a whole row has one index.
    values = write(tmp_path / "m", table | ({"desc_act": False} if table["group_size"] == -1 else {}))
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"quantization_config": table}))
    for module, expected in values.items():
        np.testing.assert_array_equal(matrix(tmp_path / "m", module), expected)
    inspection = MlxEngine().inspect(ModelSource(path=tmp_path / "m"))
    assert str(inspection.quantization).startswith(f"{table['bits']}-bit, group ")


@pytest.mark.parametrize("bits", [4, 8])
def test_reordered_columns_become_float16(bits: int, tmp_path: Path) -> None:
    values = write(tmp_path / "m", GPTQ | {"bits": bits, "desc_act": True})
    for module, expected in values.items():
        np.testing.assert_array_equal(matrix(tmp_path / "m", module), expected.astype(np.float16))
    assert MlxEngine().inspect(ModelSource(path=tmp_path / "m")).quantization == "GPTQ as float16"


@pytest.mark.parametrize("scale", ["tensor", "one", "channel", "row", "block"])
@pytest.mark.parametrize("method", ["fp8", "compressed-tensors", "fbgemm_fp8"])
def test_floats_of_8_bits_become_bfloat16(method: str, scale: str, tmp_path: Path) -> None:
    if method == "compressed-tensors":
        weights = {"num_bits": 8, "type": "float", "strategy": {"one": "tensor", "row": "channel"}.get(scale, scale)}
        weights |= {"block_structure": [48, 40]} if scale == "block" else {}
        table = COMPRESSED | {"config_groups": {"group_0": {"weights": weights}}}
    elif scale == "block":
        if method == "fbgemm_fp8":
            return
        table = DEEPSEEK
    else:
        table = {"quant_method": method}
    values = write(tmp_path / "m", table, scale)
    for module, expected in list(values.items())[:7]:
        rounded = np.array(mx.array(expected).astype(mx.bfloat16).astype(mx.float32))
        np.testing.assert_array_equal(matrix(tmp_path / "m", module), rounded)
    assert MlxEngine().inspect(ModelSource(path=tmp_path / "m")).quantization == "FP8 as bfloat16"


@pytest.mark.parametrize(
    ("table", "scale"), [(GPTQ, ""), (GPTQ | {"desc_act": True}, ""), (AWQ, ""), (DEEPSEEK, "block")], ids=str
)
def test_such_a_model_answers_and_takes_what_inspect_says(table: dict[str, Any], scale: str, tmp_path: Path) -> None:
    write(tmp_path / "m", table, scale)
    source = ModelSource(path=tmp_path / "m")
    inspection = MlxEngine().inspect(source)
    with MlxEngine().load(source, EngineSettings(extra={"device": "cpu"})) as model:
        answer = collect(
            model, GenerationRequest(messages=(Message.user("hello"),), sampling=Sampling(temperature=0), max_tokens=4)
        )
    assert answer.finish.usage.completion_tokens in range(1, 5)
    _, parameters = _read(read_checkpoint(source))
    arrays = parameters._arrays
    # Scales, and the weights of norms, have the size of the arithmetic.
    small = [name.endswith((".scales", ".biases")) or array.ndim == 1 for name, array in arrays.items()]
    numbers = sum(array.size for array, is_small in zip(arrays.values(), small, strict=True) if is_small)
    others = sum(array.nbytes for array, is_small in zip(arrays.values(), small, strict=True) if not is_small)
    packed = EngineSettings(extra={"device": "cpu", "weights": "packed"})
    assert MlxEngine().estimate(source, packed).weights == 4 * numbers + others
    plain = write_tiny_model(tmp_path / "plain")
    assert inspection.parameters == MlxEngine().inspect(ModelSource(path=plain)).parameters


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"quant_method": "bitsandbytes"}, "the weights are quantised by 'bitsandbytes', this engine reads"),
        ({"quant_method": "exl2"}, "quantised by 'exl2'"),
        ({"quant_method": "hqq"}, "quantised by 'hqq'"),
        ({"quant_method": ["gptq"]}, "quantised by"),
        (GPTQ | {"bits": 3}, "'bits' is 3, this engine runs 2, 4 and 8 bits of GPTQ"),
        (GPTQ | {"bits": True}, "'bits' is True"),
        (GPTQ | {"group_size": 16}, "in groups of 16, expected a multiple of 32"),
        (GPTQ | {"group_size": 0}, "'group_size' is 0"),
        (GPTQ | {"group_size": 48}, "cannot be quantised in 4 bits by 48"),
        (GPTQ | {"checkpoint_format": "marlin"}, "'checkpoint_format' is 'marlin'"),
        (GPTQ | {"is_marlin_format": True}, "'is_marlin_format' is True"),
        (GPTQ | {"dynamic": {"-:lm_head": {}}}, "'dynamic' is"),
        (AWQ | {"version": "gemv"}, "'version' is 'gemv', this engine runs the version gemm of AWQ"),
        (AWQ | {"zero_point": False}, "'zero_point' is False"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "'fmt' is 'e5m2'"),
        (DEEPSEEK | {"weight_block_size": [0, 128]}, "'weight_block_size' is [0, 128], expected two whole numbers"),
        (COMPRESSED | {"format": "pack-quantized"}, "'format' is 'pack-quantized'"),
        (COMPRESSED | {"config_groups": {}}, "'config_groups' is {}"),
        (COMPRESSED | {"transform_config": {"a": 1}}, "'transform_config'"),
        (COMPRESSED | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "'sparsity_config'"),
        ("gptq", "quantised by 'gptq'"),
    ],
    ids=str,
)
def test_what_is_not_read_is_refused_in_one_line(table: Any, reason: str, tmp_path: Path) -> None:
    write(tmp_path / "m", GPTQ)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"quantization_config": table}))
    found = str(MlxEngine().inspect(ModelSource(path=tmp_path / "m")).reason)
    assert reason in found
    assert found.isprintable()


@pytest.mark.parametrize(
    ("part", "shape", "dtype", "reason"),
    [
        ("qweight", (64, 16), np.int32, "has the shape [64, 16], expected [8, 128]"),
        ("qweight", (8, 128), np.float32, "has the dtype F32, expected I32"),
        ("qzeros", (1, 16), np.int32, "has the shape [1, 16], expected [2, 16]"),
        ("scales", (2, 127), np.float16, "has the shape [2, 127], expected [2, 128]"),
        ("scales", (2, 128), np.int32, "has the dtype I32"),
        ("g_idx", (63,), np.int32, "has the shape [63], expected [64]"),
        ("bias", (127,), np.float16, "has the shape [127], expected [128]"),
    ],
)
def test_f_2_tensors_that_do_not_fit_are_refused(
    part: str, shape: Any, dtype: Any, reason: str, tmp_path: Path
) -> None:
    write(tmp_path / "m", GPTQ, **{f"{UP}.{part}": np.zeros(shape, dtype)})
    assert reason in str(MlxEngine().inspect(ModelSource(path=tmp_path / "m")).reason)


def test_a_group_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for place, index in enumerate((-1, 2, 2**31 - 1)):
        indices = np.zeros(64, np.int32)
        indices[9] = index
        path = tmp_path / str(place)
        write(path, GPTQ | {"desc_act": True}, **{f"{UP}.g_idx": indices})
        with pytest.raises(InvalidModel, match="names a group that is not there"):
            MlxEngine().load(ModelSource(path=path), EngineSettings())


def test_another_order_that_the_config_denies_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "m", GPTQ, **{f"{UP}.g_idx": np.zeros(64, np.int32)})
    with pytest.raises(UnsupportedModel, match="though 'desc_act' is false"):
        MlxEngine().load(ModelSource(path=tmp_path / "m"), EngineSettings())


def test_biases_of_zeros_that_the_model_does_not_have_are_dropped(tmp_path: Path) -> None:
    values = write(tmp_path / "m", GPTQ, **{f"{UP}.bias": np.zeros(128, np.float16)})
    np.testing.assert_array_equal(matrix(tmp_path / "m", UP), values[UP])
    write(tmp_path / "n", GPTQ, **{f"{UP}.bias": np.ones(128, np.float16)})
    with pytest.raises(UnsupportedModel, match="is not zeros"):
        MlxEngine().load(ModelSource(path=tmp_path / "n"), EngineSettings())
