"""Texts as vectors: the mean of transformers' last hidden states, whoever else is being answered."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from metalchat_engine import (
    ContextTooLong,
    EngineSettings,
    GenerationRequest,
    Model,
    ModelClosed,
    ModelSource,
    Sampling,
    SupportsEmbedding,
    UnsupportedRequest,
)
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.checkpoint import read_checkpoint
from metalchat_engine_mlx.embedding import embedding
from metalchat_engine_mlx.load import decoder_of
from metalchat_engine_mlx.testing import write_tiny_model

GOLDEN: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "golden" / "embed.json").read_text())
TEXTS = ["A small house near the sea", "a", "My neighbour has two cats and three dogs. " * 8]


def load(path: Path, **settings: Any) -> Model:
    return MlxEngine().load(ModelSource(path=path, name="tiny"), EngineSettings(prefill_chunk=16, **settings))


def vectors(model: Model, texts: list[str]) -> list[list[float]]:
    assert isinstance(model, SupportsEmbedding)
    return [list(vector) for vector in model.embed(texts)]


@pytest.mark.parametrize("case", GOLDEN)
def test_vectors_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    golden = GOLDEN[case]
    decoder = decoder_of(read_checkpoint(ModelSource(path=write_tiny_model(tmp_path / "tiny", **golden["config"]))))
    for chunk in (100, 7):
        with mx.stream(mx.cpu):
            found = embedding(golden["tokens"], lambda work: work(decoder), chunk)
        np.testing.assert_allclose(found, golden["vector"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("bits", [None, 4])
def test_vectors_are_of_length_one_and_the_same_in_any_company(bits: int | None, tmp_path: Path) -> None:
    with load(write_tiny_model(tmp_path / "tiny", bits=bits)) as model:
        alone = [vectors(model, [text])[0] for text in TEXTS]
        assert {len(vector) for vector in alone} == {64}
        assert all(math.isclose(math.hypot(*vector), 1, rel_tol=1e-6) for vector in alone)
        assert vectors(model, TEXTS) == alone
        assert vectors(model, []) == []
        ask = GenerationRequest(prompt=TEXTS[0], sampling=Sampling(temperature=0), max_tokens=24)
        said = collect(model, ask).text
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(collect, model, ask) for _ in range(2)]
            found = [pool.submit(vectors, model, TEXTS) for _ in range(2)]
            assert [answer.result().text for answer in answers] == [said] * 2
            assert [vector.result() for vector in found] == [alone] * 2


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with load(write_tiny_model(tmp_path / "tiny"), context_length=32) as model:
        for wrong in ("", "\ud800", 7):
            with pytest.raises(UnsupportedRequest):
                vectors(model, ["fine", wrong])  # type: ignore[list-item]
        with pytest.raises(ContextTooLong, match="shorten it"):
            vectors(model, [TEXTS[2]])
    with pytest.raises(ModelClosed):
        vectors(model, ["fine"])
