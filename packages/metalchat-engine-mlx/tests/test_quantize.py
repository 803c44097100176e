"""Quantising writes what MLX itself would, and what it costs is measured."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from metalchat_engine import (
    EngineSettings,
    GenerationRequest,
    ModelSource,
    Quantization,
    Sampling,
    SupportsQuantization,
    UnsupportedModel,
    UnsupportedRequest,
)
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.checkpoint import read_checkpoint
from metalchat_engine_mlx.load import decoder_of
from metalchat_engine_mlx.testing import write_tiny_model

TEXT = "Once upon a time there was a small house near the sea, and nobody knew who had built it. " * 6
EXPERTS: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "head_dim": 32,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}


def quantised(source: Path, destination: Path, **asked: Any) -> Quantization:
    destination.mkdir()
    return MlxEngine().quantize(ModelSource(path=source, name="tiny"), destination, Quantization(**asked))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_tensor_is_what_mlx_makes_of_it(dtype: Any, tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "tiny", dtype=dtype, shards=2, tie_word_embeddings=False)
    found = quantised(source, tmp_path / "q", bits=4, group_size=32)
    assert found == Quantization(bits=4, group_size=32, mode="affine")
    plain: dict[str, mx.array] = {}
    for file in source.glob("*.safetensors"):
        arrays = mx.load(str(file))
        assert isinstance(arrays, dict)
        plain |= arrays
    packed = mx.load(str(tmp_path / "q" / "model.safetensors"))
    assert isinstance(packed, dict)
    for name, array in plain.items():
        if array.ndim == 1:
            assert mx.array_equal(packed[name], array)
            continue
        parts = mx.quantize(array, group_size=32, bits=4)
        stem = name.removesuffix("weight")
        for part, expected in zip(("weight", "scales", "biases"), parts, strict=True):
            assert packed[stem + part].dtype == expected.dtype
            assert mx.array_equal(packed[stem + part], expected)
    assert MlxEngine().inspect(ModelSource(path=tmp_path / "q")).quantization == "4-bit, group 32"


@pytest.mark.parametrize(
    ("asked", "label"),
    [
        ({}, "4-bit, group 64"),
        ({"bits": 8}, "8-bit, group 64"),
        ({"bits": 3, "group_size": 32}, "3-bit, group 32"),
        ({"mode": "mxfp4"}, "mxfp4"),
        ({"mode": "nvfp4"}, "nvfp4"),
        ({"mode": "mxfp8", "bits": 8}, "mxfp8"),
    ],
)
def test_a_quantised_model_answers(asked: dict[str, Any], label: str, tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "tiny", generation_config={"temperature": 0.5})
    quantised(source, tmp_path / "q", **asked)
    engine = MlxEngine()
    assert engine.inspect(ModelSource(path=tmp_path / "q")).quantization == label
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "q" / name).read_bytes() == (source / name).read_bytes()
    with engine.load(ModelSource(path=tmp_path / "q"), EngineSettings()) as model:
        assert (
            collect(
                model, GenerationRequest(prompt=TEXT, sampling=Sampling(temperature=0), max_tokens=4)
            ).finish.usage.completion_tokens
            > 0
        )


@pytest.mark.parametrize("stacked", [False, True])
def test_routers_and_odd_matrices_stay_as_they_are(stacked: bool, tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "tiny", stacked=stacked, **EXPERTS)
    quantised(source, tmp_path / "q", bits=4)  # rows of 32 values are no whole group of 64
    table = json.loads((tmp_path / "q" / "config.json").read_text())["quantization"]
    assert table["model.layers.0.mlp.gate"] is False
    down = "switch_mlp.down_proj" if stacked else "experts.0.down_proj"
    assert table[f"model.layers.0.mlp.{down}"] is False
    assert "model.layers.0.self_attn.q_proj" not in table
    with MlxEngine().load(ModelSource(path=tmp_path / "q"), EngineSettings()) as model:
        assert (
            collect(
                model, GenerationRequest(prompt=TEXT, sampling=Sampling(temperature=0), max_tokens=2)
            ).finish.usage.completion_tokens
            > 0
        )


def test_perplexity_is_the_mean_of_what_each_token_costs(tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "tiny")
    found = MlxEngine().perplexity(ModelSource(path=source), TEXT, tokens=100)
    checkpoint = read_checkpoint(ModelSource(path=source))
    from metalchat_engine_mlx.engine import read_prompt

    with read_prompt(checkpoint) as prompt:
        ids = prompt.encode_text(TEXT)[:100]
    decoder = decoder_of(checkpoint)
    cache = decoder.new_cache()
    costs = []
    for token, following in pairwise(ids):
        logits = np.array(decoder(mx.array([token]), cache, None), np.float64)
        costs.append(math.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[following])
    assert found.tokens == 100
    assert found.value == pytest.approx(math.exp(sum(costs) / len(costs)), rel=1e-4)
    quantised(source, tmp_path / "q8", bits=8)
    quantised(source, tmp_path / "q2", bits=2)
    eight, two = (MlxEngine().perplexity(ModelSource(path=tmp_path / name), TEXT, tokens=100) for name in ("q8", "q2"))
    assert abs(eight.value / found.value - 1) < abs(two.value / found.value - 1)


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "tiny", hidden_size=256, intermediate_size=1024, num_hidden_layers=8)
    size = (source / "model.safetensors").stat().st_size
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    quantised(source, tmp_path / "q")
    assert mx.get_peak_memory() - before < size / 8
    assert mx.get_active_memory() == before


def test_progress_counts_parameters(tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "tiny")
    (tmp_path / "q").mkdir()
    seen: list[tuple[int, int]] = []
    engine = MlxEngine()
    assert isinstance(engine, SupportsQuantization)
    engine.quantize(ModelSource(path=source), tmp_path / "q", Quantization(), lambda *now: seen.append(now))
    assert seen[-1] == (108864, 108864)
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("asked", "option"),
    [
        ({"bits": 7}, "bits"),
        ({"group_size": 16}, "group_size"),
        ({"mode": "int4"}, "mode"),
        ({"mode": "mxfp4", "bits": 8}, "bits"),
    ],
)
def test_what_mlx_does_not_have_is_refused_before_anything_is_written(
    asked: dict[str, Any], option: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedRequest) as caught:
        quantised(write_tiny_model(tmp_path / "tiny"), tmp_path / "q", **asked)
    assert caught.value.option == option
    assert list((tmp_path / "q").iterdir()) == []


def test_what_is_quantised_already_is_refused(tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "tiny", bits=4)
    with pytest.raises(UnsupportedModel, match=r"^'tiny' is quantised already \(4-bit, group 32\)"):
        quantised(source, tmp_path / "q")
    assert list((tmp_path / "q").iterdir()) == []
