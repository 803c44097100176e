"""Every family in every form that its checkpoints have: quantised, in shards, its experts one by one or stacked."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from metalchat_engine import EngineSettings, GenerationRequest, Message, ModelSource, Sampling
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.cache import STEP
from metalchat_engine_mlx.checkpoint import read_checkpoint
from metalchat_engine_mlx.decoder import Decoder
from metalchat_engine_mlx.device import Blocks, DeviceBlocks
from metalchat_engine_mlx.host import HostBlocks
from metalchat_engine_mlx.models import FAMILIES
from metalchat_engine_mlx.parameters import Parameters
from metalchat_engine_mlx.prefix import PrefixCache
from metalchat_engine_mlx.streams import borrow
from metalchat_engine_mlx.testing import write_safetensors, write_tiny_model

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text())
ONE_OF_EACH = {
    found["config"]["model_type"]: found["config"] for found in GOLDEN.values() if "model_type" in found["config"]
}
WINDOWED = {name: config for name, config in ONE_OF_EACH.items() if name in ("mistral", "gemma2", "gemma3_text")}
WINDOWED["mistral"] = GOLDEN["mistral"]["config"]
MOE = ("mixtral", "qwen3_moe")
PROMPT = [place * 31 % 300 for place in range(70)]


@pytest.fixture(autouse=True)
def _on_the_cpu():
    with mx.stream(mx.cpu):
        yield


def blocks() -> list[Blocks]:
    cpu = mx.Device(mx.cpu, 0)
    # MLX gathers float32 alone on a CPU.
    host = [HostBlocks(borrow(cpu, 1)), HostBlocks(borrow(cpu, 2), split=1), HostBlocks(borrow(cpu, 2), wide=True)]
    return [DeviceBlocks(mx.float32), *host]


def build(directory: Path, made: Blocks) -> Decoder:
    checkpoint = read_checkpoint(ModelSource(path=directory))
    arrays: dict[str, mx.array] = {}
    for file in sorted(directory.glob("*.safetensors")):
        found = mx.load(str(file))
        assert isinstance(found, dict)
        arrays |= found
    return Decoder(checkpoint.config, Parameters(arrays, checkpoint.packings), made)


def answer(decoder: Decoder, prompt: list[int], count: int, chunk: int = 1000) -> tuple[mx.array, list[int]]:
    """The logits after the prompt, and greedy tokens."""
    logits, cache = decoder.again(mx.array(prompt), decoder.config.regime(len(prompt)), chunk)
    first, tokens = logits, list[int]()
    while len(tokens) < count:
        tokens.append(int(mx.argmax(logits).item()))
        logits = decoder(mx.array(tokens[-1:]), cache, decoder.config.regime(cache.length + 1))
    return first, tokens


def test_every_model_type_has_a_golden_answer() -> None:
    # A gemma3 is a gemma3_text with pictures.
    assert ONE_OF_EACH.keys() | {"llama", "gemma3"} == FAMILIES.keys()


@pytest.mark.parametrize("bits", [4, 6])
@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_quantised_weights_give_one_answer_on_every_path(family: str, bits: int, tmp_path: Path) -> None:
    mixed = {"o_proj": 8, "down_proj": 4, "gate": 8, "dense": 5, "lm_head": 0}
    path = write_tiny_model(tmp_path / "m", bits=bits, mixed=mixed, shards=2, **ONE_OF_EACH[family])
    # A token where two logits are next to equal may go either way.
    found = [answer(build(path, made), PROMPT, count=6) for made in blocks()]
    for logits, tokens in found[1:]:
        np.testing.assert_allclose(np.array(logits), np.array(found[0][0]), atol=5e-4, rtol=0)
        assert tokens == found[0][1]


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", MOE)
def test_stacked_experts_are_those_that_are_stored_one_by_one(
    family: str, dtype: Any, bits: int | None, tmp_path: Path
) -> None:
    one = write_tiny_model(tmp_path / "one", bits=bits, dtype=dtype, **ONE_OF_EACH[family])
    all_ = write_tiny_model(tmp_path / "all", bits=bits, dtype=dtype, stacked=True, **ONE_OF_EACH[family])
    for first, second in zip(blocks(), blocks(), strict=True):
        (logits, tokens), (others, others_tokens) = (
            answer(build(one, first), PROMPT, 6),
            answer(build(all_, second), PROMPT, 6),
        )
        np.testing.assert_array_equal(np.array(logits.astype(mx.float32)), np.array(others.astype(mx.float32)))
        assert tokens == others_tokens
    inspected = [MlxEngine().inspect(ModelSource(path=path)) for path in (one, all_)]
    assert inspected[0] == inspected[1]
    with MlxEngine().load(ModelSource(path=all_), EngineSettings(extra={"threads": 1})) as model:
        assert inspected[0].weights_bytes is not None
        assert model.info.memory_bytes < inspected[0].weights_bytes * 1.02
        assert model.info.architecture == inspected[0].architecture == family


def test_experts_that_are_quantised_in_different_ways_are_refused(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m", bits=4, mixed={"experts.2.w1": 8}, **ONE_OF_EACH["mixtral"])
    reason = MlxEngine().inspect(ModelSource(path=path)).reason
    assert reason == "the experts of 'model.layers.0.block_sparse_moe.experts.0.w1' are quantised in different ways"


@pytest.mark.parametrize("family", WINDOWED)
def test_a_window_forgets_and_the_answer_stays(family: str, tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m", max_position_embeddings=4096, **WINDOWED[family])
    prompt = [place * 7919 % 300 for place in range(3 * STEP + 17)]
    for made in blocks()[:2]:
        decoder = build(path, made)
        whole, tokens = answer(decoder, prompt, count=5, chunk=10_000)
        for chunk in (100, 2 * STEP):
            logits, same = answer(decoder, prompt, count=5, chunk=chunk)
            np.testing.assert_allclose(np.array(logits), np.array(whole), atol=1e-4, rtol=0)
            assert same == tokens


@pytest.mark.parametrize("family", WINDOWED)
def test_a_cache_goes_back_only_as_far_as_its_windows_reach(family: str, tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m", max_position_embeddings=4096, **WINDOWED[family])
    decoder = build(path, DeviceBlocks())
    prompt = [place * 7919 % 300 for place in range(4 * STEP)]
    expected, _ = answer(decoder, [*prompt[:-40], 7], count=1)
    _, cache = decoder.again(mx.array(prompt), None, STEP)
    held = cache.nbytes
    prefixes = PrefixCache(decoder.config.windows, 2**30)
    prefixes.put(cache, prompt, None)
    assert prefixes.take(prompt[:20], None).cache.length == 0
    back = prefixes.take([*prompt[:-40], 7], None).cache
    assert back.length == len(prompt) - 40
    np.testing.assert_allclose(np.array(decoder(mx.array([7]), back, None)), np.array(expected), atol=1e-4, rtol=0)
    for _ in range(30):
        decoder.prefill(mx.array(prompt[:10]), cache, None)
    full = sum(window is None for window in decoder.config.windows) / len(decoder.config.windows)
    assert cache.nbytes <= held * (1 + full)


def test_a_conversation_that_a_window_has_forgotten_is_computed_again(tmp_path: Path) -> None:
    path = write_tiny_model(
        tmp_path / "m", max_position_embeddings=4096, **(GOLDEN["mistral"]["config"] | {"vocab_size": 544})
    )
    long, short = ("the water is hot " * 200, "the water is hot and there")
    with MlxEngine().load(ModelSource(path=path), EngineSettings(prefill_chunk=100)) as model:

        def said(text: str, conversation: str | None) -> tuple[str, int]:
            request = GenerationRequest(
                messages=(Message.user(text),),
                sampling=Sampling(temperature=0),
                max_tokens=8,
                conversation=conversation,
            )
            found = collect(model, request)
            return found.text, found.finish.usage.cached_tokens

        expected = said(short, None)
        assert said(long, "c")[1] < 20
        assert said(long, "c")[1] > 500
        assert said(short, "c")[0] == expected[0]
        assert said(short, "c")[1] > 5


def rewritten(directory: Path, names: Callable[[str], str], extra: dict[str, Any]) -> Path:
    """The model of a directory with its tensors renamed, and some that it does not need."""
    found = mx.load(str(directory / "model.safetensors"))
    assert isinstance(found, dict)
    tensors = {names(name): np.array(values) for name, values in found.items()}
    write_safetensors(directory / "model.safetensors", tensors | extra)
    return directory


@pytest.mark.parametrize("start", ["language_model.model.", "model.language_model."])
def test_a_gemma_that_sees_pictures_is_run_as_its_text_model(start: str, tmp_path: Path) -> None:
    plain = write_tiny_model(tmp_path / "plain", bits=8, **ONE_OF_EACH["gemma3_text"])
    config = json.loads((plain / "config.json").read_text())
    pictures = write_tiny_model(tmp_path / "pictures", bits=8, **ONE_OF_EACH["gemma3_text"])
    outer = {"vision_config": {}, "eos_token_id": [1, 106], "quantization": config.pop("quantization")}
    (pictures / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": config, **outer}))
    extra = {
        "vision_tower.embed.weight": np.zeros((4, 4), np.float32),
        "model.multi_modal_projector.weight": np.zeros((4, 4), np.float32),
    }
    rewritten(pictures, lambda name: start + name.removeprefix("model."), extra)
    expected, tokens = answer(build(plain, DeviceBlocks()), PROMPT, count=6)
    found, same = answer(build(pictures, DeviceBlocks()), PROMPT, count=6)
    np.testing.assert_array_equal(np.array(found), np.array(expected))
    assert same == tokens
    inspected = [MlxEngine().inspect(ModelSource(path=path)) for path in (plain, pictures)]
    assert inspected[1].architecture == "gemma3"
    assert replace(inspected[1], architecture="gemma3_text") == inspected[0]
    assert read_checkpoint(ModelSource(path=pictures)).config.eos_token_ids == {1, 106}
    (pictures / "config.json").write_text(json.dumps({"model_type": "gemma3"}))
    reason = MlxEngine().inspect(ModelSource(path=pictures)).reason
    assert reason == "'config.json': 'text_config' is missing, expected an object"


def test_the_names_that_mlx_gives_a_gpt_neox_are_known(tmp_path: Path) -> None:
    plain = write_tiny_model(tmp_path / "plain", **ONE_OF_EACH["gpt_neox"])
    decoder = build(plain, DeviceBlocks())
    renamed = {"gpt_neox.layers.": "model.h.", "gpt_neox.": "model.", "embed_out": "model.embed_out"}

    def names(name: str) -> str:
        old = next(old for old in renamed if name.startswith(old))
        return renamed[old] + name.removeprefix(old)

    rewritten(plain, names, {"model.h.0.attention.bias": np.zeros((1, 4), np.float32)})
    found, _ = answer(build(plain, DeviceBlocks()), PROMPT, count=0)
    # The first decoder holds all it needs, although its file is another one now.
    np.testing.assert_array_equal(np.array(found), np.array(answer(decoder, PROMPT, count=0)[0]))


@pytest.mark.parametrize("family", [name for name in ONE_OF_EACH if name not in MOE])
def test_half_precision_stays_half_on_a_device(family: str, tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m", dtype="bfloat16", **ONE_OF_EACH[family])
    decoder = build(path, DeviceBlocks(mx.bfloat16))
    logits, cache = decoder.again(mx.array(PROMPT), decoder.config.regime(len(PROMPT)), 32)
    assert {array.dtype for array in (logits, *cache.arrays(), *decoder.arrays())} == {mx.bfloat16}
    whole, _ = decoder.again(mx.array(PROMPT), decoder.config.regime(len(PROMPT)), 1000)
    np.testing.assert_allclose(np.array(logits.astype(mx.float32)), np.array(whole.astype(mx.float32)), atol=1.0)
