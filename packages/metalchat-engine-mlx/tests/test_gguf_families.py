"""A family's GGUF file is the same model as its checkpoint."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from metalchat_engine import EngineSettings, GenerationRequest, InvalidModel, Message, ModelSource, Sampling
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.checkpoint import read_checkpoint
from metalchat_engine_mlx.decoder import Decoder
from metalchat_engine_mlx.device import DeviceBlocks
from metalchat_engine_mlx.gguf import load_weights, quantization, read_header
from metalchat_engine_mlx.gguf._architectures import ARCHITECTURES
from metalchat_engine_mlx.gguf.pretokenizers import PRETOKENIZERS
from metalchat_engine_mlx.load import _read
from metalchat_engine_mlx.testing import gguf_families, write_tiny_model
from metalchat_engine_mlx.testing.gguf_families import write_family
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text())


def variant(name: str, **changes: Any) -> dict[str, Any]:
    return GOLDEN[name]["config"] | changes


# What a GGUF file cannot say is as llama.cpp has it.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"vocab_size": 300, "tie_word_embeddings": False},
    "qwen2": variant("qwen2"),
    "qwen3": variant("qwen3"),
    "mistral": variant("mistral", sliding_window=None),
    "gemma2": variant("gemma2", query_pre_attn_scalar=32),
    "gemma3": variant("gemma3", query_pre_attn_scalar=32, sliding_window_pattern=6, num_hidden_layers=7),
    "gemma3-scaled": variant(
        "gemma3-scaled",
        query_pre_attn_scalar=32,
        sliding_window_pattern=6,
        num_hidden_layers=6,
        attention_bias=False,
    ),
    "phi3": variant("phi3"),
    "phi4": variant("phi4"),
    "phi4-long": variant(
        "phi4-long", rope_scaling=GOLDEN["phi4-long"]["config"]["rope_scaling"] | {"attention_factor": 1.25}
    ),
    "smollm3": variant("smollm3"),
    "olmo2": variant("olmo2"),
    "granite": variant("granite", mlp_bias=False),
    "starcoder2": variant("starcoder2", sliding_window=None),
    "starcoder2-plain": variant("starcoder2-plain"),
    "gpt_neox": variant("gpt_neox"),
    "gpt_neox-sequential": variant("gpt_neox-sequential", rotary_emb_base=500),
    "mixtral": variant("mixtral", sliding_window=None),
    "qwen3_moe": variant("qwen3_moe"),
}


@pytest.fixture(autouse=True)
def _on_the_cpu():
    with mx.stream(mx.cpu):
        yield


def logits(path: Path) -> np.ndarray:
    checkpoint = read_checkpoint(ModelSource(path=path))
    config, parameters = _read(checkpoint)
    decoder = Decoder(config, parameters, DeviceBlocks(mx.float32))
    prompt = [place * 31 % 300 for place in range(45)]
    return np.array(decoder(mx.array(prompt), decoder.new_cache(), config.regime(len(prompt))))


def test_every_architecture_is_proved() -> None:
    proved = {gguf_families.ARCHITECTURES[config.get("model_type", "llama")] for config in FAMILIES.values()}
    assert proved == set(ARCHITECTURES)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_is_the_model_of_the_checkpoint(family: str, tmp_path: Path) -> None:
    expected = logits(write_tiny_model(tmp_path / "tiny", **FAMILIES[family]))
    found = logits(write_family(tmp_path / "tiny.gguf", **FAMILIES[family]))
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "BF16"])
@pytest.mark.parametrize("family", ["gpt_neox", "mixtral", "qwen3_moe", "phi4", "granite"])
def test_quantised_files_hold_what_they_say(family: str, kind: str, tmp_path: Path) -> None:
    path = write_family(tmp_path / "tiny.gguf", kind=kind, **FAMILIES[family])
    header = read_header(path)
    weights = load_weights(path, header, dtype=mx.float32)
    exact = load_weights(*(plain := write_family(tmp_path / "plain.gguf", **FAMILIES[family]), read_header(plain)))
    for module, packing in quantization(header).items():
        weight = weights[f"{module}.weight"]
        if packing is not None:
            scales, biases = weights[f"{module}.scales"], weights[f"{module}.biases"]
            weight = mx.dequantize(weight, scales, biases, group_size=packing[1], bits=packing[0])
        assert (packing is None) == (kind == "BF16")
        np.testing.assert_allclose(np.array(weight), np.array(exact[f"{module}.weight"]), atol=0.15)


def test_an_engine_answers_from_such_a_file(tmp_path: Path) -> None:
    path = write_family(tmp_path / "tiny.gguf", **(FAMILIES["gemma3"] | {"vocab_size": 264, "num_hidden_layers": 2}))
    inspection = MlxEngine().inspect(ModelSource(path=path))
    assert (inspection.loadable, inspection.architecture) == (True, "gemma3_text")
    with MlxEngine().load(ModelSource(path=path), EngineSettings()) as model:
        request = GenerationRequest(messages=(Message.user("hello"),), sampling=Sampling(temperature=0), max_tokens=4)
        assert collect(model, request).finish.usage.completion_tokens > 0


def test_a_longrope_without_one_of_its_factors_is_refused(tmp_path: Path) -> None:
    path = write_family(tmp_path / "tiny.gguf", **FAMILIES["phi4-long"])
    path.write_bytes(path.read_bytes().replace(b"rope_factors_long", b"rope_factors_lost"))
    with pytest.raises(InvalidModel, match=r"the tensor 'rope_factors_long\.weight' is not 8 values of type F32"):
        read_checkpoint(ModelSource(path=path))


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("gpt-4o", ["Hello", " World's", " HTTPServer", " ", "123", "45", " /", "etc", "\n\n", " x"]),
        ("dbrx", ["Hello", " World", "'s", " HTTPServer", " ", "123", "45", " /", "etc", "\n\n", " x"]),
    ],
)
def test_text_is_cut_as_the_file_says(name: str, pieces: list[str]) -> None:
    cut = Split(Regex(PRETOKENIZERS[name].splits[0]), "isolated")
    found = cut.pre_tokenize_str("Hello World's HTTPServer 12345 /etc\n\n x")
    assert [piece for piece, _ in found] == pieces
