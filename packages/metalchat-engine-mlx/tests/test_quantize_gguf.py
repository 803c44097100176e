"""A GGUF file becomes a checkpoint of packed weights that is the same model, as far as the bits go."""

import json
import struct
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from metalchat_engine import (
    EngineSettings,
    GenerationRequest,
    Message,
    ModelSource,
    Quantization,
    Sampling,
    UnsupportedModel,
)
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.checkpoint import read_checkpoint
from metalchat_engine_mlx.engine import read_prompt
from metalchat_engine_mlx.gguf import read_header
from metalchat_engine_mlx.gguf._architectures import ARCHITECTURES
from metalchat_engine_mlx.load import decoder_of
from metalchat_engine_mlx.testing import gguf_families, write_tiny_model
from metalchat_engine_mlx.testing.gguf import write_llama
from metalchat_engine_mlx.testing.gguf_families import write_family

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text())
# What a GGUF file cannot say is as llama.cpp has it; the tokenizer has 264 tokens.
CHANGES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "gemma2": {"query_pre_attn_scalar": 32},
    "gemma3": {"query_pre_attn_scalar": 32, "sliding_window_pattern": 6, "num_hidden_layers": 7},
    "mistral": {"sliding_window": None},
    "mixtral": {"sliding_window": None},
    "granite": {"mlp_bias": False},
    "starcoder2": {"sliding_window": None},
}
FAMILIES = (
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma2",
    "gemma3",
    "phi3",
    "phi4",
    "phi4-long",
    "smollm3",
    "olmo2",
    "granite",
    "starcoder2",
    "gpt_neox",
    "mixtral",
    "qwen3_moe",
)


def config_of(name: str) -> dict[str, Any]:
    known = GOLDEN[name]["config"] if name != "llama" else {}
    if name == "phi4-long":
        known = known | {"rope_scaling": known["rope_scaling"] | {"attention_factor": 1.25}}
    return known | {"vocab_size": 264} | CHANGES.get(name, {})


def quantised(source: Path, destination: Path, **asked: Any) -> Path:
    destination.mkdir()
    MlxEngine().quantize(ModelSource(path=source, name="tiny"), destination, Quantization(**asked))
    return destination


def logits(path: Path) -> np.ndarray[Any, Any]:
    decoder = decoder_of(read_checkpoint(ModelSource(path=path)))
    tokens = [place * 31 % 260 for place in range(45)]
    return np.array(decoder(mx.array(tokens), decoder.new_cache(), decoder.config.regime(len(tokens))))


def test_every_architecture_is_tried() -> None:
    tried = {gguf_families.ARCHITECTURES[config_of(name).get("model_type", "llama")] for name in FAMILIES}
    assert tried == set(ARCHITECTURES)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_what_the_checkpoint_would_have_become(family: str, tmp_path: Path) -> None:
    file = write_family(tmp_path / "tiny.gguf", **config_of(family))
    folder = write_tiny_model(tmp_path / "tiny", **config_of(family))
    found, expected = (
        quantised(source, tmp_path / name, bits=4, group_size=32) for name, source in (("q1", file), ("q2", folder))
    )
    configs = [read_checkpoint(ModelSource(path=path)).config for path in (found, expected)]
    assert configs[0].context_length == configs[1].context_length
    assert configs[0].eos_token_ids == read_checkpoint(ModelSource(path=file)).config.eos_token_ids
    np.testing.assert_allclose(logits(found), logits(expected), atol=2e-4, rtol=0)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_the_numbers_are_those_of_the_file(kind: str, tmp_path: Path) -> None:
    source = write_llama(tmp_path / "tiny.gguf", types=kind, tied=False, biases=True)
    made = quantised(source.path, tmp_path / "q", bits=8, group_size=32)
    arrays = mx.load(str(made / "model.safetensors"))
    assert isinstance(arrays, dict)
    dtype = {"F32": mx.float32, "BF16": mx.bfloat16}.get(kind, mx.float16)
    for name, expected in source.weights.items():
        plain = mx.array(expected).astype(dtype)
        if plain.ndim == 1:
            assert mx.array_equal(arrays[name], plain)
            continue
        parts = mx.quantize(plain, group_size=32, bits=8)
        for part, wanted in zip(("weight", "scales", "biases"), parts, strict=True):
            assert mx.array_equal(arrays[f"{name.removesuffix('weight')}{part}"], wanted)


def test_it_says_and_hears_what_the_file_does(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "tiny.gguf", types="F16").path
    made = quantised(source, tmp_path / "q", bits=8, group_size=32)
    messages = (Message.system("Be brief."), Message.user("Where is the harbour? <|im_end|>"))
    prompts = [read_prompt(read_checkpoint(ModelSource(path=path))) for path in (source, made)]
    heard = [(prompt.encode(messages), prompt.encode_text("It's 12 o'clock"), prompt.stop_ids) for prompt in prompts]
    for prompt in prompts:
        prompt.close()
    assert heard[0] == heard[1]
    with MlxEngine().load(ModelSource(path=made), EngineSettings()) as model:
        assert model.info.quantization == "8-bit, group 32"
        request = GenerationRequest(messages=messages, sampling=Sampling(temperature=0), max_tokens=4)
        assert collect(model, request).finish.usage.completion_tokens > 0


@pytest.mark.parametrize(("factor", "kind"), [(8.0, "llama3"), (32.0, "llama3"), (3.0, "longrope")])
def test_factors_of_a_rope_become_words_of_a_config(factor: float, kind: str, tmp_path: Path) -> None:
    row = np.linspace(1, factor, 8).astype(np.float32)
    if kind == "llama3":
        wavelengths = 2 * np.pi * 10000.0 ** (np.arange(8) / 8)
        smooth = (8192 / wavelengths - 1) / 3
        mixed = 1 / ((1 - smooth) / factor + smooth)
        row = np.where(wavelengths < 8192 / 4, 1, np.where(wavelengths > 8192, factor, mixed)).astype(np.float32)
    source = write_llama(tmp_path / "tiny.gguf", types="F32", rope_factors=row)
    made = quantised(source.path, tmp_path / "q", bits=8, group_size=32)
    scaling = json.loads((made / "config.json").read_text())["rope_scaling"]
    assert scaling["rope_type"] == kind
    rope = read_checkpoint(ModelSource(path=made)).config.layers[0].attention.rope
    assert rope is not None
    plain = [10000.0 ** (pair / 8) for pair in range(8)]
    assert np.allclose(rope.periods(rope.regime(40)), plain * row, rtol=1e-4)
    assert rope.regime(40) == rope.regime(1)


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 0.5, 5000.0, 1e6])
def test_f_2_strange_factors_are_kept_or_refused(factor: float, tmp_path: Path) -> None:
    source = write_llama(tmp_path / "tiny.gguf", types="F32", rope_factors=[factor] * 8)
    made = quantised(source.path, tmp_path / "q", bits=8, group_size=32)
    rope = read_checkpoint(ModelSource(path=made)).config.layers[0].attention.rope
    assert rope is not None
    assert np.allclose(rope.periods(rope.regime(40)), [10000.0 ** (pair / 8) * factor for pair in range(8)], rtol=1e-4)


def test_f_2_values_beyond_16_bits_are_refused_without_a_warning(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "tiny.gguf", types="Q4_0").path
    place = read_header(path).tensors["token_embd.weight"].offset
    data = bytearray(path.read_bytes())
    data[place : place + 2] = struct.pack("<e", 65504.0)  # the scale of the first block
    path.write_bytes(data)
    with pytest.raises(UnsupportedModel, match=r"'token_embd\.weight' has values that are no numbers of float16$"):
        quantised(path, tmp_path / "q")
    assert list((tmp_path / "q").iterdir()) == []


def test_what_no_checkpoint_can_say_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "tiny.gguf").path
    data = path.read_bytes()
    old = struct.pack("<Q", len(b"gpt2")) + b"gpt2"
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, struct.pack("<Q", 4) + b"bert"))
    with pytest.raises(UnsupportedModel, match=r"'tiny\.gguf' has a 'bert' tokenizer; 'gpt2' and 'llama'"):
        quantised(path, tmp_path / "q")
    assert list((tmp_path / "q").iterdir()) == []
