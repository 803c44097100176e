"""The engine keeps the contract, on real models of random weights."""

import pytest
from metalchat_engine import EngineSettings, Model, ModelSource
from metalchat_engine.testing import EngineContract
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.testing import write_tiny_model
from metalchat_prompt.testing import CHATML_TOOLS_TEMPLATE


class _Tiny(EngineContract):
    @pytest.fixture
    def engine(self) -> MlxEngine:
        return MlxEngine()

    @pytest.fixture
    def settings(self) -> EngineSettings:
        return EngineSettings(prefill_chunk=16)


class TestPlain(_Tiny):
    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
        return ModelSource(path=write_tiny_model(tmp_path_factory.mktemp("plain") / "tiny"))


class TestTools(_Tiny):
    """A template that offers tools, and knows reasoning."""

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
        path = tmp_path_factory.mktemp("tools") / "tiny"
        return ModelSource(path=write_tiny_model(path, chat_template=CHATML_TOOLS_TEMPLATE))

    def test_tools_and_reasoning_are_declared(self, model: Model) -> None:
        assert model.info.capabilities.tools
        assert model.info.capabilities.reasoning


class TestDeterministic(_Tiny):
    """Each answer is computed as if it were alone."""

    @pytest.fixture
    def settings(self) -> EngineSettings:
        return EngineSettings(prefill_chunk=16, extra={"deterministic": True})

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
        return ModelSource(path=write_tiny_model(tmp_path_factory.mktemp("deterministic") / "tiny"))


class TestGrowingRope(_Tiny):
    """A rope that depends on the length of the text is where a reused cache would change the answer."""

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
        path = write_tiny_model(
            tmp_path_factory.mktemp("dynamic") / "tiny",
            max_position_embeddings=48,
            rope_scaling={"rope_type": "dynamic", "factor": 8.0},
        )
        return ModelSource(path=path)


class TestWindow(_Tiny):
    """Some layers see eight tokens, and a cache cannot go back far."""

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
        path = write_tiny_model(
            tmp_path_factory.mktemp("window") / "tiny",
            model_type="gemma3_text",
            hidden_activation="gelu_pytorch_tanh",
            head_dim=32,
            query_pre_attn_scalar=24,
            sliding_window=8,
            sliding_window_pattern=2,
        )
        return ModelSource(path=path)


class TestExperts(_Tiny):
    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
        path = write_tiny_model(
            tmp_path_factory.mktemp("experts") / "tiny",
            model_type="qwen3_moe",
            head_dim=32,
            num_experts=6,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            norm_topk_prob=True,
            bits=4,
            stacked=True,
        )
        return ModelSource(path=path)
