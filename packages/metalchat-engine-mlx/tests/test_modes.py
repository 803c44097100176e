"""The engine keeps the whole contract in every mode: what is set, or under way, changes nothing but speed and size."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import metalchat_engine_mlx.recall as recall_module
import metalchat_engine_mlx.states as states_module
import pytest
from metalchat_engine import EngineSettings, GenerationRequest, Model, ModelClosed, ModelSource, Sampling
from metalchat_engine.testing import EngineContract, collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.testing import write_tiny_adapter, write_tiny_model


class _Mode(EngineContract):
    """`shape` is that of the model, `extra` the settings. One model serves all tests of a class, and so grows warm."""

    shape: ClassVar[dict[str, Any]] = {}
    extra: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> MlxEngine:
        return MlxEngine()

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
        return ModelSource(path=write_tiny_model(tmp_path_factory.mktemp("mode") / "tiny", **cls.shape))

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, source: ModelSource) -> EngineSettings:
        extra = dict(cls.extra)
        if "draft" in extra:
            extra["draft"] = str(write_tiny_model(source.path.parent / "draft", num_hidden_layers=1, seed=3))
        if "adapters" in extra:
            folders = {name: write_tiny_adapter(source.path.parent / name) for name in extra["adapters"]}
            extra["adapters"] = {name: str(folder) for name, folder in folders.items()}
        return EngineSettings(prefill_chunk=16, extra=extra)

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, engine: MlxEngine, source: ModelSource, settings: EngineSettings) -> Iterator[Model]:
        with engine.load(source, settings) as model:
            yield model


@contextmanager
def company(model: Model) -> Iterator[None]:
    """Others are being answered meanwhile, and come and go: each with another prompt, length, seed and reader."""
    over = threading.Event()

    def talk(number: int) -> None:
        turn = 0
        while not over.is_set():
            turn += 1
            request = GenerationRequest(
                prompt=f"{turn} of {number}, and the water is hot " * (1 + turn % 3),
                sampling=Sampling(temperature=1.0, seed=turn),
                max_tokens=7 + 9 * number,
            )
            try:
                for _ in model.generate(request):
                    if over.is_set():
                        break
            except ModelClosed:
                return

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


class _Company(_Mode):
    @pytest.fixture
    def model(self, engine: MlxEngine, source: ModelSource, settings: EngineSettings) -> Iterator[Model]:
        with engine.load(source, settings) as model, company(model):
            yield model


class TestWarm(_Mode):
    """Every prompt was asked before, and asked in another way."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def warmed(cls, model: Model) -> None:
        for prompt in cls.prompts:
            for length in (1, cls.length):
                collect(model, replace(cls.request(cls(), model, prompt), max_tokens=length))

    def test_what_is_asked_is_taken_over(self, model: Model) -> None:
        usage = collect(model, self.request(model)).finish.usage
        assert usage.cached_tokens == usage.prompt_tokens - 1


class TestPacked(_Mode):
    shape: ClassVar = {"bits": 4}
    extra: ClassVar = {"weights": "packed"}


class TestWidened(_Mode):
    shape: ClassVar = {"bits": 4}
    extra: ClassVar = {"weights": "float32"}


class TestHalf(_Mode):
    shape: ClassVar = {"dtype": "bfloat16"}
    extra: ClassVar = {"weights": "packed"}


class TestCacheOf8Bits(_Mode):
    shape: ClassVar = {"head_dim": 32}
    extra: ClassVar = {"cache_bits": 8}


class TestCacheOf4Bits(_Mode):
    shape: ClassVar = {"head_dim": 32}
    extra: ClassVar = {"cache_bits": 4}


class TestAdapted(_Mode):
    """All that is asked is asked of an adapter."""

    extra: ClassVar = {"adapters": ("red",)}

    def request(self, model: Model, prompt: str | None = None) -> GenerationRequest:
        return replace(super().request(model, prompt), adapter="red")


class TestInCompany(_Company):
    """Requests are answered together with others."""


class TestGuessingInCompany(_Company):
    extra: ClassVar = {"lookup": 4, "draft": "", "draft_tokens": 3}


class TestDeterministicInCompany(_Company):
    extra: ClassVar = {"deterministic": True}


class TestStates(_Mode):
    """Every prompt is taken up from a file that another model has written."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def short(cls) -> Iterator[None]:
        """Short prompts are saved too."""
        with pytest.MonkeyPatch.context() as patch:
            for module in (recall_module, states_module):
                patch.setattr(module, "MIN_TOKENS", 8)
            yield

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, short: None, engine: MlxEngine, source: ModelSource) -> EngineSettings:
        settings = EngineSettings(prefill_chunk=16, state_directory=source.path.parent / "states")
        for prompt in cls.prompts:
            with engine.load(source, settings) as model:
                collect(model, cls.request(cls(), model, prompt))
        return settings

    @pytest.fixture
    def model(self, engine: MlxEngine, source: ModelSource, settings: EngineSettings) -> Iterator[Model]:
        with engine.load(source, settings) as model:
            yield model

    def test_what_is_asked_is_taken_over(self, model: Model) -> None:
        usage = collect(model, self.request(model)).finish.usage
        assert usage.cached_tokens == usage.prompt_tokens - 1
