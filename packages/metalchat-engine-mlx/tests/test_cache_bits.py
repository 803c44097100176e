"""Keys and values in 8 or 4 bits: smaller, close, and never a matter of who computed them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from metalchat_engine import EngineSettings, GenerationRequest, Model, ModelSource, Sampling, UnsupportedRequest
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.cache import KVCache
from metalchat_engine_mlx.testing import write_tiny_model

LONG = "the water is hot and there is more of it than you said " * 36
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"head_dim": 32, "max_position_embeddings": 4096},
    "wide": {"head_dim": 64, "max_position_embeddings": 4096, "bits": 4},
    "window": {
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "head_dim": 32,
        "query_pre_attn_scalar": 24,
        "sliding_window": 8,
        "sliding_window_pattern": 2,
        "max_position_embeddings": 4096,
    },
}


def load(path: Path, bits: int | None, **more: Any) -> Model:
    extra = {} if bits is None else {"cache_bits": bits}
    return MlxEngine().load(ModelSource(path=path, name="tiny"), EngineSettings(extra=extra, **more))


def said(model: Model, prompt: str) -> str:
    return collect(model, GenerationRequest(prompt=prompt, sampling=Sampling(temperature=0), max_tokens=12)).text


@pytest.mark.parametrize(("bits", "error", "size"), [(8, 0.03, 3.5), (4, 0.5, 6.3)])
def test_a_quantised_cache_is_smaller_and_close(bits: int, error: float, size: float) -> None:
    with mx.stream(mx.cpu):
        key = mx.random.key(1)
        plain, packed = KVCache((None, 20)), KVCache((None, 20), bits)
        for count in (300, 1, 1, 40):
            values = mx.random.normal((1, 2, count, 64), key=key)
            for layer in range(2):
                expected = plain.update(layer, values, values * 2)
                for found, wanted in zip(packed.update(layer, values, values * 2), expected, strict=True):
                    assert found.shape == wanted.shape
                    np.testing.assert_allclose(np.array(found), np.array(wanted), atol=2 * error, rtol=0)
            plain.length += count
            packed.length += count
        assert plain.nbytes > size * packed.nbytes


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_answers_do_not_depend_on_who_computed_the_cache(shape: str, bits: int, tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny", **SHAPES[shape])
    prompts = [LONG[:400] + end for end in ("how are you", "and they", "there is more")]
    with load(path, bits, prefill_chunk=64) as model:
        alone = [said(model, prompt) for prompt in prompts]
        assert [said(model, prompt) for prompt in prompts] == alone
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(lambda prompt: said(model, prompt), prompts * 2)) == alone * 2


def test_the_memory_that_is_kept_is_that_much_smaller(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny", **SHAPES["wide"])
    kept = []
    for bits in (None, 8, 4):
        with load(path, bits) as model:
            before = model.info.memory_bytes
            said(model, LONG)
            kept.append(model.info.memory_bytes - before)
    assert kept[0] > 3.3 * kept[1] > 1.7 * 3.3 * kept[2]


def test_quantised_states_are_not_saved(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny", **SHAPES["plain"])
    with load(path, 8, state_directory=tmp_path / "states") as model:
        said(model, LONG)
    assert not (tmp_path / "states").exists()


@pytest.mark.parametrize("bits", [5, True, "8", 8.0])
def test_other_bits_are_refused(bits: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedRequest, match="engine setting 'cache_bits' must be 4 or 8"):
        load(tmp_path, bits)


def test_heads_that_cannot_be_quantised_are_refused(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny")
    with pytest.raises(UnsupportedRequest, match="takes heads of a multiple of 32 values; those of 'tiny' have 16"):
        load(path, 8)
