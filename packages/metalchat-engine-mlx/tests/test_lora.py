"""Adapters: what PEFT computes, several in one model, each request its own."""

import json
from concurrent.futures import ThreadPoolExecutor
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
    Model,
    ModelSource,
    Sampling,
    UnsupportedModel,
    UnsupportedRequest,
)
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.adapters import read_adapter
from metalchat_engine_mlx.checkpoint import read_checkpoint
from metalchat_engine_mlx.decoder import Decoder
from metalchat_engine_mlx.device import DeviceBlocks
from metalchat_engine_mlx.host import HostBlocks
from metalchat_engine_mlx.load import _read
from metalchat_engine_mlx.streams import borrow
from metalchat_engine_mlx.testing import write_safetensors, write_tiny_adapter, write_tiny_model
from metalchat_engine_mlx.testing.gguf import write_llama
from numpy.typing import NDArray

HERE = Path(__file__).parent / "golden"
GOLDEN: dict[str, dict[str, Any]] = json.loads((HERE / "lora.json").read_text())
BLOCKS = {
    "device": DeviceBlocks,
    "host": lambda: HostBlocks(borrow(mx.Device(mx.cpu, 0), 1)),
    "two streams": lambda: HostBlocks(borrow(mx.Device(mx.cpu, 0), 2), split=1),
}
PROMPT = "Once upon a time there was a small house near the sea"
Q = "base_model.model.model.layers.0.self_attn.q_proj"


def values(place: int, shape: list[int]) -> NDArray[np.float32]:
    return (np.random.RandomState(1000 + place).standard_normal(shape) * 0.15).astype(np.float32)


def write_adapter(folder: Path, config: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    write_safetensors(
        folder / ("adapter_model.safetensors" if "peft_type" in config else "adapters.safetensors"), tensors
    )
    return folder


def golden_adapter(folder: Path, case: str) -> Path:
    shapes = GOLDEN[case]["shapes"]
    tensors = {name: values(place, shape) for place, (name, shape) in enumerate(sorted(shapes.items()))}
    return write_adapter(folder, GOLDEN[case]["adapter_config"], tensors)


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("case", GOLDEN)
def test_tokens_and_logits_are_those_of_peft(case: str, blocks: str, tmp_path: Path) -> None:
    golden = GOLDEN[case]
    checkpoint = read_checkpoint(ModelSource(path=write_tiny_model(tmp_path / "tiny", **golden["config"])))
    folder = golden_adapter(tmp_path / "adapter", case)
    adapter = read_adapter("a", folder, checkpoint.config, tied=checkpoint.config.tie_word_embeddings)
    with mx.stream(mx.cpu):
        config, parameters = _read(checkpoint, [adapter])
        decoder = Decoder(config, parameters, BLOCKS[blocks]())
        cache = decoder.new_cache("a")
        decoder.prefill(mx.array(golden["prompt"][:30]), cache, None)
        logits = decoder(mx.array(golden["prompt"][30:]), cache, None)
        np.testing.assert_allclose(np.array(logits), golden["logits"], atol=2e-4, rtol=0)
        tokens: list[int] = []
        while len(tokens) < len(golden["tokens"]):
            tokens.append(int(mx.argmax(logits).item()))
            logits = decoder(mx.array(tokens[-1:]), cache, None)
        assert tokens == golden["tokens"]


def ask(model: Model, adapter: str | None, **more: Any) -> str:
    sampling = Sampling(temperature=0)
    return collect(
        model, GenerationRequest(prompt=PROMPT, adapter=adapter, sampling=sampling, max_tokens=16, **more)
    ).text


def load(path: Path, adapters: dict[str, Path], **extra: Any) -> Model:
    settings = EngineSettings(prefill_chunk=16, extra={"adapters": {k: str(v) for k, v in adapters.items()}, **extra})
    return MlxEngine().load(ModelSource(path=path, name="tiny"), settings)


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_requests_with_and_without_adapters_share_a_batch_and_nothing_else(bits: int | None, tmp_path: Path) -> None:
    tiny = write_tiny_model(tmp_path / "tiny", bits=bits)
    adapters = {name: write_tiny_adapter(tmp_path / name, seed=seed) for seed, name in enumerate(("red", "blue"))}
    with MlxEngine().load(ModelSource(path=tiny), EngineSettings()) as model:
        plain = ask(model, None)
    expected: dict[str | None, str] = {None: plain}
    for name, path in adapters.items():
        with load(tiny, {name: path}) as model:
            expected[name] = ask(model, name)
    assert len(set(expected.values())) == 3
    with load(tiny, adapters) as model:
        assert model.info.adapters == ("red", "blue")
        asked = [None, "red", "blue"] * 3
        with ThreadPoolExecutor(len(asked)) as pool:
            assert list(pool.map(lambda name: ask(model, name), asked)) == [expected[name] for name in asked]
        # What another adapter has left in the tree of prefixes is not taken over.
        assert [ask(model, name) for name in asked] == [expected[name] for name in asked]


def test_an_adapter_changes_the_answers_of_a_gguf_file(tmp_path: Path) -> None:
    file = write_llama(tmp_path / "tiny.gguf", types="Q8_0", intermediate=128).path
    with load(file, {"red": write_tiny_adapter(tmp_path / "red")}) as model:
        assert ask(model, None) != ask(model, "red")


def test_the_layout_of_mlx_lm_says_the_same(tmp_path: Path) -> None:
    tiny = write_tiny_model(tmp_path / "tiny")
    peft = write_tiny_adapter(tmp_path / "peft")
    arrays = mx.load(str(peft / "adapter_model.safetensors"))
    assert isinstance(arrays, dict)
    tensors: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        stem, _, letter = name.removesuffix(".weight").rpartition("_")
        tensors[f"{stem.removeprefix('base_model.model.')}_{letter.lower()}"] = np.array(array.T)
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 4, "scale": 2.0, "dropout": 0.0}}
    ours = write_adapter(tmp_path / "mlx", config, tensors)
    with load(tiny, {"peft": peft, "mlx": ours}) as model:
        assert ask(model, "peft") == ask(model, "mlx") != ask(model, None)


def test_an_adapter_that_is_not_loaded_is_refused_by_name(tmp_path: Path) -> None:
    tiny = write_tiny_model(tmp_path / "tiny")
    with (
        load(tiny, {"red": write_tiny_adapter(tmp_path / "red")}) as model,
        pytest.raises(UnsupportedRequest) as caught,
    ):
        ask(model, "green")
    assert str(caught.value) == "model 'tiny' has no adapter 'green'; it was loaded with: red"
    assert caught.value.option == "adapter"


def refused(tmp_path: Path, folder: Path) -> EngineError:
    tiny = write_tiny_model(tmp_path / "tiny")
    with pytest.raises(EngineError) as caught:
        load(tiny, {"red": folder})
    assert str(caught.value).isprintable()
    return caught.value


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"use_dora": True}, "'use_dora' is True"),
        ({"peft_type": "IA3"}, "'peft_type' is 'IA3', this engine runs 'LORA'"),
        ({"bias": "all"}, "'bias' is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "'modules_to_save' is ['lm_head']"),
        ({"alpha_pattern": {"q_proj": 2}}, "'alpha_pattern' is"),
        ({"init_lora_weights": "pissa_niter_16"}, "'init_lora_weights' is 'pissa_niter_16'"),
        ({"what_comes_next_year": {"x": 1}}, "'what_comes_next_year' is {'x': 1}"),
        ({"\x1b[2J": 1}, "'\\x1b[2J' is 1"),
        ({"r": 0}, "'r' is 0, expected 1 to 4096"),
        ({"lora_alpha": "x"}, "'lora_alpha' is 'x'"),
    ],
)
def test_what_is_no_plain_lora_is_refused_by_name(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    error = refused(tmp_path, write_tiny_adapter(tmp_path / "red", **change))
    assert isinstance(error, UnsupportedModel | InvalidModel)
    assert str(error).startswith("the adapter 'red': ")
    assert says in str(error)


def test_a_pickled_adapter_is_never_opened(tmp_path: Path) -> None:
    folder = write_tiny_adapter(tmp_path / "red")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert str(refused(tmp_path, folder)) == (
        "the adapter 'red': it has no adapter_model.safetensors (found 'adapter_model.bin', which can run code and is"
        " not read)"
    )


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (
            {f"{Q}.lora_embedding_A": (4, 64)},
            f"'{Q}.lora_embedding_A' ends in neither .lora_A.weight nor .lora_B.weight",
        ),
        ({f"{Q}.lora_A.weight": (4, 64)}, f"'{Q}.lora_A.weight' is there without its .lora_B.weight"),
        (
            {f"{Q[:-6]}x.lora_A.weight": (4, 64), f"{Q[:-6]}x.lora_B.weight": (64, 4)},
            f"it adapts '{Q[:-6]}x', which is no linear map of this model",
        ),
        (
            {f"{Q}.lora_A.weight": (4, 65), f"{Q}.lora_B.weight": (64, 4)},
            "and the model's 'model.layers.0.self_attn.q_proj' has 64 rows and 64 columns",
        ),
        ({f"{Q}.lora_A.weight": (5, 64), f"{Q}.lora_B.weight": (64, 4)}, "have the shapes [5, 64] and [64, 4]"),
        (
            {
                f"{prefix}{Q.removeprefix('base_model.model.model.')}.lora_{half}.weight": shape
                for prefix in ("base_model.model.model.", "base_model.model.model.language_model.")
                for half, shape in (("A", (4, 64)), ("B", (64, 4)))
            },
            "it adapts 'model.layers.0.self_attn.q_proj' twice",
        ),
        ({}, "it has no tensors"),
    ],
)
def test_tensors_of_another_model_are_refused(tensors: dict[str, tuple[int, int]], says: str, tmp_path: Path) -> None:
    arrays = {name: np.zeros(shape, np.float32) for name, shape in tensors.items()}
    folder = write_adapter(tmp_path / "red", {"peft_type": "LORA", "r": 4, "lora_alpha": 8}, arrays)
    assert says in str(refused(tmp_path, folder))


def test_settings_name_adapters_by_absolute_folders(tmp_path: Path) -> None:
    tiny = write_tiny_model(tmp_path / "tiny")
    for wrong in ("x", ["x"], {"red": "relative"}, {"": str(tmp_path)}, {"a\nb": str(tmp_path)}, {"red": 7}):
        with pytest.raises(UnsupportedRequest) as caught:
            MlxEngine().load(ModelSource(path=tiny), EngineSettings(extra={"adapters": wrong}))
        assert caught.value.option == "adapters"
    with pytest.raises(UnsupportedRequest, match="the adapter 'red' is not there") as caught:
        load(tiny, {"red": tmp_path / "nowhere"})
    assert caught.value.option == "adapters"
