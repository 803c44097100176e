"""Every family gives the tokens and the logits that transformers gives in float32."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from metalchat_engine import ModelSource
from metalchat_engine_mlx.checkpoint import read_checkpoint
from metalchat_engine_mlx.decoder import Decoder
from metalchat_engine_mlx.device import Blocks, DeviceBlocks
from metalchat_engine_mlx.host import HostBlocks
from metalchat_engine_mlx.parameters import Parameters
from metalchat_engine_mlx.streams import borrow
from metalchat_engine_mlx.testing import write_tiny_model

GOLDEN: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text())
BLOCKS: dict[str, Callable[[], Blocks]] = {
    "device": DeviceBlocks,
    "host": lambda: HostBlocks(borrow(mx.Device(mx.cpu, 0), 1)),
    "wide": lambda: HostBlocks(borrow(mx.Device(mx.cpu, 0), 2), wide=True),
    "two streams": lambda: HostBlocks(borrow(mx.Device(mx.cpu, 0), 2), split=1),
}


@pytest.fixture(autouse=True)
def _on_the_cpu():
    with mx.stream(mx.cpu):
        yield


def build(directory: Path, blocks: Blocks, **changes: Any) -> Decoder:
    write_tiny_model(directory, **changes)
    checkpoint = read_checkpoint(ModelSource(path=directory))
    arrays = mx.load(str(directory / "model.safetensors"))
    assert isinstance(arrays, dict)
    return Decoder(checkpoint.config, Parameters(arrays, checkpoint.packings), blocks)


def answer(decoder: Decoder, prompt: list[int], count: int, chunk: int) -> tuple[mx.array, list[int]]:
    """The logits after the prompt, and greedy tokens."""
    config, cache = decoder.config, decoder.new_cache()
    regime = config.regime(len(prompt))
    start = 0
    while len(prompt) - start > chunk:
        decoder.prefill(mx.array(prompt[start : start + chunk]), cache, regime)
        start += chunk
    logits = first = decoder(mx.array(prompt[start:]), cache, regime)
    tokens: list[int] = []
    while len(tokens) < count:
        tokens.append(int(mx.argmax(logits).item()))
        following = config.regime(cache.length + 1)
        if config.recomputes and following != regime:
            regime = following
            logits, cache = decoder.again(mx.array(prompt + tokens), regime, chunk)
        else:
            logits = decoder(mx.array(tokens[-1:]), cache, following)
    return first, tokens


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("variant", GOLDEN)
def test_tokens_and_logits_are_those_of_transformers(variant: str, blocks: str, tmp_path: Path) -> None:
    golden = GOLDEN[variant]
    decoder = build(tmp_path / "tiny", BLOCKS[blocks](), **golden["config"])
    for chunk in (1000, 7):
        logits, tokens = answer(decoder, golden["prompt"], len(golden["tokens"]), chunk)
        np.testing.assert_allclose(np.array(logits), golden["logits"], atol=1e-4, rtol=0)
        assert tokens == golden["tokens"]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group_size", [32, 64])
def test_the_blocks_of_a_cpu_compute_what_those_of_mlx_compute(bits: int, group_size: int, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"attention_bias": True, "mlp_bias": True}
    prompt = [place * 31 % 544 for place in range(20)]
    found = [
        answer(build(tmp_path / name, make(), bits=bits, group_size=group_size, **changes), prompt, count=8, chunk=8)
        for name, make in BLOCKS.items()
    ]
    for logits, tokens in found[1:]:
        np.testing.assert_allclose(np.array(logits), np.array(found[0][0]), atol=2e-4, rtol=0)
        assert tokens == found[0][1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_weights_give_nearly_the_same(dtype: Any, tmp_path: Path) -> None:
    prompt = [place * 31 % 544 for place in range(20)]
    wide, _ = answer(build(tmp_path / "wide", DeviceBlocks()), prompt, count=1, chunk=100)
    for name, make in BLOCKS.items():
        logits, _ = answer(build(tmp_path / name, make(), dtype=dtype), prompt, count=1, chunk=100)
        np.testing.assert_allclose(
            np.array(logits.astype(mx.float32)), np.array(wide), atol=0.3 if dtype == "bfloat16" else 0.05, rtol=0
        )
