"""The README is right, and what should be light is light."""

import gc
import re
import subprocess
import sys
from pathlib import Path

import metalchat_engine_mlx
import mlx.core as mx
import pytest
from metalchat_engine import (
    EngineError,
    EngineSettings,
    GenerationRequest,
    Inspection,
    InvalidModel,
    ModelSource,
    Sampling,
)
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.testing import write_tiny_adapter, write_tiny_model

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_readme_runs(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_model(tmp_path / "SmolLM2-135M-Instruct")
    write_tiny_adapter(tmp_path / "adapters" / "pirate")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert ("loadable=True" in out) == (block == BLOCKS[0])
    assert len(out.splitlines()[-1]) > 0


def test_neither_the_import_nor_an_inspection_imports_mlx(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny")
    code = (
        "import sys; from pathlib import Path\n"
        "from metalchat_engine import ModelSource; from metalchat_engine_mlx import MlxEngine\n"
        "assert MlxEngine().inspect(ModelSource(path=Path(sys.argv[1]))).loadable\n"
        "print(sorted({'mlx', 'numpy', 'tokenizers', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tiny")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_inspection_tells_sizes(tmp_path: Path) -> None:
    engine = MlxEngine()
    plain = engine.inspect(ModelSource(path=write_tiny_model(tmp_path / "plain")))
    assert (plain.parameters, plain.dtype, plain.quantization) == (108864, "float32", None)
    assert plain.weights_bytes == 108864 * 4
    assert plain.cache_bytes_per_token == 2 * 2 * 2 * 16 * 4
    packed = engine.inspect(ModelSource(path=write_tiny_model(tmp_path / "packed", bits=4)))
    assert (packed.parameters, packed.quantization) == (108864, "4-bit, group 32")
    for path, inspection in (("plain", plain), ("packed", packed)):
        with engine.load(ModelSource(path=tmp_path / path), EngineSettings()) as model:
            # Beside the weights there is nothing but a few constants.
            assert inspection.weights_bytes is not None
            assert inspection.weights_bytes <= model.info.memory_bytes < inspection.weights_bytes * 1.02


def test_a_load_that_fails_keeps_no_memory(tmp_path: Path) -> None:
    (write_tiny_model(tmp_path / "tiny", bits=4) / "tokenizer.json").write_text("{}")
    gc.disable()
    try:
        before = mx.get_active_memory()
        for _ in range(2):
            with pytest.raises(InvalidModel):
                MlxEngine().load(ModelSource(path=tmp_path / "tiny"), EngineSettings())
        assert mx.get_active_memory() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["plain", "packed", "draft", "adapter", "states"])
def test_a_closed_model_keeps_no_memory(kind: str, tmp_path: Path) -> None:
    tiny = write_tiny_model(tmp_path / "tiny", bits=4 if kind == "packed" else None)
    extra = {
        "draft": {"draft": str(tiny), "lookup": 4},
        "adapter": {"adapters": {"red": str(write_tiny_adapter(tmp_path / "red"))}},
    }.get(kind, {})
    settings = EngineSettings(extra=extra, state_directory=tmp_path if kind == "states" else None)
    gc.disable()
    try:
        before = mx.get_active_memory()
        with MlxEngine().load(ModelSource(path=tiny), settings) as model:
            adapter = next(iter(model.info.adapters), None)
            request = GenerationRequest(
                prompt="so it is " * 8, sampling=Sampling(temperature=0), max_tokens=8, adapter=adapter
            )
            assert collect(model, request).finish.usage.completion_tokens > 0
        # Somebody may still hold the closed model.
        assert mx.get_active_memory() == before
        assert model.info.memory_bytes == 0
    finally:
        gc.enable()


def test_a_directory_without_a_model_says_so(tmp_path: Path) -> None:
    engine = MlxEngine()

    def inspected(path: Path) -> Inspection:
        return engine.inspect(ModelSource(path=path, name="x"))

    assert inspected(tmp_path).reason == "'x' has neither a config.json nor a GGUF file"
    (tmp_path / "a.gguf").write_bytes(b"")
    (tmp_path / "b.gguf").write_bytes(b"")
    assert inspected(tmp_path).reason == "'x' has 2 GGUF files; name the one to load"
    assert "is not a valid GGUF file" in str(inspected(tmp_path / "a.gguf").reason)
    with pytest.raises(EngineError):
        engine.load(ModelSource(path=tmp_path), EngineSettings())


def test_public_names_are_there() -> None:
    assert all(getattr(metalchat_engine_mlx, name) is not None for name in metalchat_engine_mlx.__all__)
    with pytest.raises(AttributeError):
        metalchat_engine_mlx.absent  # noqa: B018 - the look-up is the test
