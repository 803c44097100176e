"""MLX's modes of small floats, mxfp4, mxfp8 and nvfp4: a CPU computes with them what it does with their values."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from metalchat_engine import EngineSettings, ModelSource
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.checkpoint import read_checkpoint
from metalchat_engine_mlx.decoder import Decoder
from metalchat_engine_mlx.device import Blocks, DeviceBlocks
from metalchat_engine_mlx.host import HostBlocks
from metalchat_engine_mlx.parameters import Parameters
from metalchat_engine_mlx.quantization import FLOATS
from metalchat_engine_mlx.streams import borrow
from metalchat_engine_mlx.testing import write_tiny_model

PROMPT = [place * 31 % 544 for place in range(20)]


def quantise(directory: Path, mode: str, **changes: Any) -> Path:
    """A tiny model of such matrices in `directory`, and one of their values in `directory`/plain."""
    write_tiny_model(directory, **changes)
    plain = write_tiny_model(directory / "plain", **changes)
    arrays = mx.load(str(directory / "model.safetensors"))
    assert isinstance(arrays, dict)
    packed, values = {}, {}
    with mx.stream(mx.cpu):
        for name, array in arrays.items():
            packed[name] = values[name] = array
            if array.ndim > 1:
                words, scales = mx.quantize(array, mode=mode)
                packed |= {name: words, f"{name.removesuffix('.weight')}.scales": scales}
                values[name] = mx.dequantize(words, scales, mode=mode, dtype=mx.float32)
        mx.save_safetensors(str(directory / "model.safetensors"), packed)
        mx.save_safetensors(str(plain / "model.safetensors"), values)
    config = json.loads((directory / "config.json").read_text())
    size, bits = FLOATS[mode]
    config["quantization"] = {"group_size": size, "bits": bits, "mode": mode}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def logits(directory: Path, blocks: Blocks) -> list[Any]:
    """After a prompt, and after one token more."""
    checkpoint = read_checkpoint(ModelSource(path=directory))
    arrays = mx.load(str(directory / "model.safetensors"))
    assert isinstance(arrays, dict)
    with mx.stream(mx.cpu):
        decoder = Decoder(checkpoint.config, Parameters(arrays, checkpoint.packings), blocks)
        cache = decoder.new_cache()
        return [np.array(decoder(mx.array(tokens), cache, None)) for tokens in (PROMPT, [7])]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("mode", FLOATS)
def test_logits_are_those_of_the_values(mode: str, tied: bool, tmp_path: Path) -> None:
    path = quantise(tmp_path / "m", mode, tie_word_embeddings=tied)
    streams = borrow(mx.Device(mx.cpu, 0), 1)
    expected = logits(path / "plain", DeviceBlocks(mx.float32))
    for blocks in (DeviceBlocks(mx.float32), HostBlocks(streams), HostBlocks(streams, wide=True)):
        for found, wanted in zip(logits(path, blocks), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=2e-4, rtol=0)


@pytest.mark.parametrize("mode", FLOATS)
def test_inspect_names_the_mode_and_its_size(mode: str, tmp_path: Path) -> None:
    path = quantise(tmp_path / "m", mode)
    inspection = MlxEngine().inspect(ModelSource(path=path))
    arrays = mx.load(str(path / "model.safetensors"))
    assert isinstance(arrays, dict)
    assert inspection.quantization == mode
    packed = EngineSettings(extra={"device": "cpu", "weights": "packed"})
    estimated = MlxEngine().estimate(ModelSource(path=path), packed)
    assert estimated.weights == sum(array.nbytes for array in arrays.values())
    MlxEngine().load(ModelSource(path=path), EngineSettings()).close()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mode": "mxfp6"}, "'quantization.mode' is 'mxfp6', this engine runs affine, mxfp4, mxfp8, nvfp4"),
        ({"mode": ["mxfp4"]}, "'quantization.mode' is"),
        ({"group_size": 64}, "'quantization.bits' is 4, expected 4 in groups of 32 for mxfp4"),
        ({"mode": "affine"}, "has the dtype U8"),
    ],
)
def test_what_does_not_fit_a_mode_is_refused(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = quantise(tmp_path / "m", "mxfp4")
    config = json.loads((path / "config.json").read_text())
    config["quantization"] |= changes
    (path / "config.json").write_text(json.dumps(config))
    assert reason in str(MlxEngine().inspect(ModelSource(path=path)).reason)
