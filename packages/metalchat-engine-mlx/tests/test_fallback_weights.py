"""How the weights of a family that only mlx-lm knows may be stored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from metalchat_engine import (
    EngineError,
    EngineSettings,
    GenerationRequest,
    InvalidModel,
    ModelSource,
    Sampling,
    UnsupportedModel,
)
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.fallback.library import installed_version
from metalchat_engine_mlx.testing import write_fallback_model, write_safetensors
from numpy.typing import NDArray

ANSWERS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "golden" / "mlx_lm.json").read_text())

pytestmark = pytest.mark.skipif(installed_version() is None, reason="mlx-lm is not installed")


def written(directory: Path, variant: str = "cohere", **changes: Any) -> Path:
    """A checkpoint of the variant; `changes` go to its config.json alone."""
    path = write_fallback_model(directory, ANSWERS[variant]["config"])
    document = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps(document))
    return path


def arrays_of(path: Path) -> dict[str, NDArray[Any]]:
    found = mx.load(str(path / "model.safetensors"))
    assert isinstance(found, dict)
    return {name: np.array(array) for name, array in found.items()}


def answer(path: Path) -> list[int]:
    request = GenerationRequest(prompt="Once upon", sampling=Sampling(temperature=0), max_tokens=16, logprobs=0)
    with MlxEngine().load(ModelSource(path=path), EngineSettings()) as model:
        return [token.chosen.token for token in collect(model, request).sampled]


def refused(call: Callable[[], object], kind: type[EngineError]) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_experts_that_are_stored_one_by_one_are_the_same(tmp_path: Path) -> None:
    path = written(tmp_path / "model", "olmoe")
    stacked = answer(path)
    single: dict[str, NDArray[Any]] = {}
    for name, array in arrays_of(path).items():
        if ".switch_mlp." in name:
            for expert in range(array.shape[0]):
                single[name.replace("switch_mlp", f"experts.{expert}")] = array[expert]
        else:
            single[name] = array
    write_safetensors(path / "model.safetensors", single)
    assert answer(path) == stacked


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "model")
    tensors = arrays_of(path)
    write_safetensors(path / "model.safetensors", tensors | {"model.norm.weight": np.ones(64, dtype=np.uint8)})
    source = ModelSource(path=path)
    assert "which such a model does not have there" in refused(
        lambda: MlxEngine().load(source, EngineSettings()), InvalidModel
    )
    write_safetensors(path / "model.safetensors", tensors | {"model.norm.weight": np.ones(64, dtype=np.int64)})
    assert "'model.norm.weight' is I64" in refused(lambda: MlxEngine().load(source, EngineSettings()), UnsupportedModel)


def test_quantisation_of_another_tool_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "model", quantization_config={"quant_method": "awq", "bits": 4})
    said = refused(lambda: MlxEngine().load(ModelSource(path=path), EngineSettings()), UnsupportedModel)
    assert "'quantization_config.quant_method'" in said


def test_the_small_floats_of_gpt_oss_stay_as_they_are(tmp_path: Path) -> None:
    path = written(tmp_path / "model", "gpt_oss", quantization_config={"quant_method": "mxfp4"})
    tensors, random = arrays_of(path), np.random.RandomState(0)
    blocks: dict[str, NDArray[Any]] = {}
    for layer in range(2):
        experts = f"model.layers.{layer}.mlp.experts."
        inner, hidden = tensors[f"{experts}gate_proj.weight"].shape[1:]
        tensors = {name: array for name, array in tensors.items() if not name.startswith(experts)}
        for module, rows, columns in (("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)):
            shape = (4, rows, columns // 32)
            blocks[f"{experts}{module}_blocks"] = random.randint(0, 256, (*shape, 16)).astype(np.uint8)
            blocks[f"{experts}{module}_scales"] = random.randint(118, 124, shape).astype(np.uint8)
            blocks[f"{experts}{module}_bias"] = random.standard_normal((4, rows)).astype(np.float32)
    write_safetensors(path / "model.safetensors", tensors | blocks)
    found = MlxEngine().inspect(ModelSource(path=path))
    assert found.quantization == "mxfp4"
    packed = sum(array.size for name, array in blocks.items() if name.endswith("_blocks"))
    assert found.parameters == 2 * packed + sum(
        array.size for name, array in (tensors | blocks).items() if not name.endswith(("_blocks", "_scales"))
    )
    with MlxEngine().load(ModelSource(path=path), EngineSettings()) as model:
        assert model.info.memory_bytes == found.weights_bytes
    # What mlx-lm 0.32.2 itself answers to these weights.
    assert answer(path) == [15, 543, 314, 350, 231, 543, 27, 130, 382, 316, 158, 231, 333, 357, 223, 383]
