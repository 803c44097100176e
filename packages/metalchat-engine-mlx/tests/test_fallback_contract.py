"""A model that mlx-lm runs keeps the engine's contract, whatever cache its family has."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from metalchat_engine import EngineSettings, Model, ModelSource, SupportsEmbedding
from metalchat_engine.testing import EngineContract
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.fallback.library import installed_version
from metalchat_engine_mlx.testing import write_fallback_model

ANSWERS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "golden" / "mlx_lm.json").read_text())

pytestmark = pytest.mark.skipif(installed_version() is None, reason="mlx-lm is not installed")


class _Fallback(EngineContract):
    variant: ClassVar[str]

    @pytest.fixture
    def engine(self) -> MlxEngine:
        return MlxEngine()

    @pytest.fixture
    def settings(self) -> EngineSettings:
        return EngineSettings(prefill_chunk=16)

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
        path = tmp_path_factory.mktemp("fallback") / "tiny"
        answers = ANSWERS[cls.variant]
        return ModelSource(path=write_fallback_model(path, answers["config"], bits=answers["bits"]))

    def test_it_gives_no_vectors_and_takes_no_adapters(self, model: Model) -> None:
        assert not isinstance(model, SupportsEmbedding)
        assert not model.info.capabilities.adapters


class TestKeysAndValues(_Fallback):
    variant = "cohere"


class TestWindows(_Fallback):
    """Caches that turn round after eight tokens, and cannot go back."""

    variant = "cohere2"


class TestStates(_Fallback):
    """No keys, no values, no positions."""

    variant = "mamba"


class TestExperts(_Fallback):
    variant = "olmoe in 4 bits"


class TestBoth(_Fallback):
    """Convolutions and attention, each answer computed from its first token on."""

    variant = "lfm2"

    @pytest.fixture
    def settings(self) -> EngineSettings:
        return EngineSettings(prefill_chunk=16, extra={"deterministic": True})
