"""A checkpoint as Meta gives it out, pulled and converted, gives the logits of Meta's own forward pass."""

import json
from pathlib import Path

import pytest
from metalchat_engine import EngineSettings, GenerationRequest, ModelSource, Sampling
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine
from metalchat_store import Store
from metalchat_store.remotes.meta import MetaRemote
from metalchat_store.testing import FakeMeta

META = Path(__file__).parents[1] / "packages" / "metalchat-store" / "tests" / "golden" / "meta"
EXPECTED = json.loads((META / "expected.json").read_text())


@pytest.fixture(scope="module", params=["link", "folder"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """The model by Meta's link, and from the folder that Meta's own downloader leaves."""
    files = {name: (META / name).read_bytes() for name in ("params.json", "tokenizer.model")}
    files["consolidated.00.pth"] = (META / "whole.pth").read_bytes()
    home = tmp_path_factory.mktemp("meta") / "home"
    if request.param == "folder":
        folder = tmp_path_factory.mktemp("checkpoints") / "Llama3.2-1B-Instruct"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return ModelSource(path=Store(home, environ={}).pull(folder.as_uri()).entry.path)
    with FakeMeta() as meta:
        meta.add("Llama-3.2-1B-Instruct", files)
        pulled = Store(home, environ=meta.environ, remotes={"meta": MetaRemote}).pull("meta:Llama3.2-1B-Instruct")
    return ModelSource(path=pulled.entry.path)


def test_the_engine_knows_what_it_is(source: ModelSource) -> None:
    found = MlxEngine().inspect(source)
    assert (found.loadable, found.architecture, found.dtype) == (True, "llama", "bfloat16")
    assert found.capabilities.tools


def test_the_next_token_has_the_probabilities_of_the_reference(source: ModelSource) -> None:
    with MlxEngine().load(source, EngineSettings(context_length=64)) as model:
        request = GenerationRequest(
            prompt=EXPECTED["text"], max_tokens=1, logprobs=20, sampling=Sampling(temperature=0.0)
        )
        done = collect(model, request)
    (sampled,) = [token for event in done.events for token in getattr(event, "sampled", ())]
    expected = EXPECTED["logprobs"]
    assert sampled.chosen.token == max(range(len(expected)), key=expected.__getitem__)
    for found in sampled.alternatives:
        assert found.logprob == pytest.approx(expected[found.token], abs=0.15)  # bfloat16 against float32
