"""What is read of an installed mlx-lm, shown with a small one that is written here, and held against the real one."""

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from metalchat_engine import (
    EngineSettings,
    GenerationRequest,
    InvalidModel,
    ModelSource,
    Sampling,
    UnsupportedModel,
)
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.fallback import library
from metalchat_engine_mlx.fallback.sizes import _COUNTS
from metalchat_engine_mlx.testing import write_safetensors
from metalchat_prompt.testing import chatml_tokenizer_json

PAIRS = """
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .cache import KVCache


@dataclass
class ModelArgs:
    vocab_size: int
    hidden_size: int
    scale: float = 1.0

    @classmethod
    def from_dict(cls, params):
        return cls(params["vocab_size"], params["hidden_size"], params.get("scale", 1.0))


class Model(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.embed = nn.Embedding(args.vocab_size, args.hidden_size)
        self.head = nn.Linear(args.hidden_size, args.vocab_size, bias=False)
        self.scale = args.scale

    def __call__(self, inputs, cache=None):
        cache[0].update(inputs)
        return self.head(self.embed(inputs)) * self.scale

    def sanitize(self, weights):
        return {name.removeprefix("old."): value for name, value in weights.items()}

    def make_cache(self):
        return [KVCache()]
"""
CACHE = '''
import mlx.core as mx


class KVCache:
    """The tokens themselves."""

    def __init__(self):
        self.state = mx.zeros((1, 0), dtype=mx.int32)

    def update(self, tokens):
        self.state = mx.concatenate([self.state, tokens], axis=1)

    @property
    def nbytes(self):
        return self.state.nbytes


def make_prompt_cache(model):
    return model.make_cache()


def can_trim_prompt_cache(caches):
    return False
'''
MODULES = {
    "pairs": PAIRS,
    "cache": CACHE,
    "no_model": "class ModelArgs:\n    pass\n",
    "broken": "class Model:\nclass ModelArgs:\n",
    "absent": "import no_such_package\nclass Model: pass\nclass ModelArgs: pass\n",
    "reaching": "from ..utils import load\nclass Model: pass\nclass ModelArgs: pass\n",
    "reaching_by_name": "from mlx_lm import load\nclass Model: pass\nclass ModelArgs: pass\n",
    "llama": PAIRS,
}

Checkpoints = Callable[..., ModelSource]


@pytest.fixture(autouse=True)
def _small_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of models in place of the installed one."""
    folder = tmp_path / "mlx_lm" / "models"
    folder.mkdir(parents=True)
    for name, source in MODULES.items():
        (folder / f"{name}.py").write_text(source)
    (folder.parent / "utils.py").write_text('MODEL_REMAPPING = {"couples": "pairs", "alpaca": "../pairs"}\n')
    monkeypatch.setattr(library, "_installed", lambda: (folder, "9.9"))
    monkeypatch.setattr(library, "_PACKAGE", f"metalchat_engine_mlx.fallback.{re.sub(r'[^a-z0-9]', '_', str(folder))}")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoints:
    def write(model_type: str = "pairs", **changes: object) -> ModelSource:
        path, random = tmp_path / "model", np.random.RandomState(0)
        path.mkdir(exist_ok=True)
        config = {"model_type": model_type, "vocab_size": 544, "hidden_size": 32, **changes}
        (path / "config.json").write_text(json.dumps(config))
        (path / "tokenizer.json").write_bytes(chatml_tokenizer_json())
        tensors = {name: random.standard_normal((544, 32)).astype(np.float32) for name in ("embed", "head")}
        write_safetensors(path / "model.safetensors", {f"old.{name}.weight": one for name, one in tensors.items()})
        return ModelSource(path=path, name="tiny")

    return write


def answer(source: ModelSource) -> list[int]:
    with MlxEngine().load(source, EngineSettings(extra={"device": "cpu"})) as model:
        request = GenerationRequest(prompt="Hello", sampling=Sampling(temperature=0), max_tokens=4, logprobs=0)
        return [token.chosen.token for token in collect(model, request).sampled]


def test_a_model_of_the_library_answers(checkpoint: Checkpoints) -> None:
    source, random = checkpoint(), np.random.RandomState(0)
    embed, head = (random.standard_normal((544, 32)).astype(np.float32) for _ in range(2))
    tokens = answer(source)
    assert len(tokens) == 4
    following = np.argmax(embed @ head.T, axis=1)
    assert tokens[1:] == [int(following[token]) for token in tokens[:-1]]
    assert answer(checkpoint("couples")) == tokens


def test_what_is_no_model_of_the_library_is_none_at_all(checkpoint: Checkpoints) -> None:
    assert library.known_families() == ["absent", "pairs"]
    for model_type in ("no_model", "broken", "reaching", "reaching_by_name", "alpaca", "cache", "../pairs", "pairs.py"):
        with pytest.raises(UnsupportedModel, match=r"mlx-lm 9\.9 has no model for it that could be used"):
            MlxEngine().load(checkpoint(model_type), EngineSettings())


def test_this_engine_s_own_families_are_never_asked_for(checkpoint: Checkpoints) -> None:
    assert library.find_family("llama") is None
    reason = MlxEngine().inspect(checkpoint("llama")).reason
    assert reason is not None
    assert "mlx-lm" not in reason


def test_a_library_that_fails_is_one_line(checkpoint: Checkpoints) -> None:
    assert MlxEngine().inspect(checkpoint("absent")).loadable
    with pytest.raises(InvalidModel) as caught:
        MlxEngine().load(checkpoint("absent"), EngineSettings())
    assert str(caught.value) == (
        "'tiny': mlx-lm 9.9 could not run it as 'absent': ModuleNotFoundError: No module named 'no_such_package'"
    )
    with pytest.raises(InvalidModel, match=r"'hidden_size' is missing, expected what mlx-lm 9\.9 needs for 'pairs'"):
        MlxEngine().load(checkpoint(hidden_size=None), EngineSettings())
    with pytest.raises(InvalidModel, match=r"could not run it as 'pairs': ValueError: Expected shape \(544, 64\)"):
        MlxEngine().load(checkpoint(hidden_size=64), EngineSettings())


@pytest.mark.skipif(library.installed_version() is None, reason="mlx-lm is not installed")
class TestTheInstalledOne:
    """Read from its source, which every version changes."""

    @pytest.fixture(autouse=True)
    def _small_library(self) -> None:
        """The real one stays."""

    def test_it_knows_many_families(self) -> None:
        known = set(library.known_families())
        assert {"cohere", "deepseek_v3", "gpt2", "gpt_oss", "mamba", "olmoe", "rwkv7", "stablelm"} <= known
        assert not {"llama", "base", "cache", "switch_layers", "__init__"} & known
        kinds = {name: library.find_family(name) for name in ("cohere", "mamba", "lfm2")}
        assert {name: (one.attends, one.recurs) for name, one in kinds.items() if one is not None} == {
            "cohere": (True, False),
            "mamba": (False, True),
            "lfm2": (True, True),
        }

    def test_a_loop_of_a_model_has_an_end(self) -> None:
        # What `range` takes from a config is one of the numbers that are held small.
        found = library._installed()
        assert found is not None
        taken = set()
        for name in library.known_families():
            for node in ast.walk(ast.parse((found[0] / f"{name}.py").read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "range":
                    taken |= set(re.findall(r"(?:args|config)\.(\w+)", " ".join(map(ast.unparse, node.args))))
        assert "num_hidden_layers" in taken
        assert not {name for name in taken - {"text_config"} if not _COUNTS.search(name)}
