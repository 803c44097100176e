"""Families that mlx-lm alone knows: the same answers as its own, and nothing of a checkpoint run."""

import gc
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
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
    Message,
    ModelSource,
    OutOfMemory,
    Quantization,
    Sampling,
    UnsupportedModel,
    UnsupportedRequest,
)
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.checkpoint import read_checkpoint
from metalchat_engine_mlx.drawing import numbers
from metalchat_engine_mlx.fallback.library import find_family, installed_version
from metalchat_engine_mlx.fallback.load import fallback_decoder
from metalchat_engine_mlx.testing import write_fallback_model, write_tiny_model

GOLDEN = Path(__file__).parent / "golden"
ANSWERS: dict[str, dict[str, Any]] = json.loads((GOLDEN / "mlx_lm.json").read_text())
PROMPT = [17, 260, 300, 41, 412, 5, 99, 230, 17, 260, 301, 77, 540, 8, 120, 333, 64, 64, 210, 19]
GREEDY = GenerationRequest(
    messages=(Message.user("Once upon a time there was a small house near the sea"),),
    sampling=Sampling(temperature=0),
    max_tokens=16,
    logprobs=0,
)

pytestmark = pytest.mark.skipif(installed_version() is None, reason="mlx-lm is not installed")


def written(directory: Path, variant: str = "cohere", **changes: Any) -> Path:
    """A checkpoint of the variant; `changes` go to its config.json alone, which then may be wrong."""
    answers = ANSWERS[variant]
    write_fallback_model(directory, answers["config"], bits=answers["bits"])
    changed(directory / "config.json", **changes)
    return directory


def changed(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in document.items() if value != "missing"}))


def answer(path: Path, request: GenerationRequest = GREEDY, **extra: Any) -> tuple[list[int], str]:
    with MlxEngine().load(ModelSource(path=path), EngineSettings(extra=extra)) as model:
        found = collect(model, request)
        return [token.chosen.token for token in found.sampled], found.text


def refused(call: Callable[[], object], kind: type[EngineError]) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_this_engine_s_own_families_win() -> None:
    assert find_family("llama") is None
    assert find_family("gemma3") is None
    assert find_family("cohere") is not None


@pytest.mark.parametrize("variant", ANSWERS)
@pytest.mark.parametrize("chunk", [64, 7])
def test_logits_and_greedy_tokens_are_those_of_mlx_lm(variant: str, chunk: int, tmp_path: Path) -> None:
    answers = ANSWERS[variant]
    path = write_fallback_model(tmp_path, answers["config"], bits=answers["bits"])
    checkpoint = read_checkpoint(ModelSource(path=path))
    assert checkpoint.fallback is not None
    with mx.stream(mx.cpu):
        decoder = fallback_decoder(checkpoint, checkpoint.fallback, on_cpu=True)
        cache, tokens, logprobs = decoder.new_cache(), [], []
        for start in range(0, len(PROMPT), chunk):
            logits = decoder(mx.array(PROMPT[start : start + chunk]), cache, None)
        for _ in answers["tokens"]:
            tokens.append(int(mx.argmax(logits).item()))
            logprobs += numbers((logits - mx.logsumexp(logits))[tokens[-1]].reshape(1))
            logits = decoder(mx.array(tokens[-1:]), cache, None)
    assert tokens == answers["tokens"]
    np.testing.assert_allclose(logprobs, answers["logprobs"], atol=2e-4)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="mlx-lm itself needs transformers")
def test_the_recorded_answers_are_what_mlx_lm_says() -> None:
    script = str(GOLDEN / "make_mlx_lm.py")
    done = subprocess.run([sys.executable, "-W", "ignore", script, "-"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert {name: each["tokens"] for name, each in found.items()} == {
        name: each["tokens"] for name, each in ANSWERS.items()
    }


def test_no_code_of_a_checkpoint_runs(tmp_path: Path) -> None:
    path, canary = written(tmp_path / "model"), tmp_path / "canary"
    tokens = answer(path)
    code = f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n"
    for name in ("evil.py", "cohere.py", "tokenization_evil.py", "__init__.py"):
        (path / name).write_text(code)
    mapped = {key: f"evil.{key}" for key in ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")}
    changed(path / "config.json", model_file="evil.py", auto_map=mapped, trust_remote_code=True)
    changed(path / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}, tokenizer_class="Evil")
    assert MlxEngine().inspect(ModelSource(path=path)).loadable
    assert answer(path) == tokens
    assert not canary.exists()
    assert not [name for name, module in sys.modules.items() if str(path) in str(getattr(module, "__file__", ""))]


def test_mlx_lm_itself_is_never_imported_and_nothing_compiled(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from metalchat_engine import EngineSettings, GenerationRequest, ModelSource\n"
        "from metalchat_engine_mlx import MlxEngine\n"
        "source, files = ModelSource(path=Path(sys.argv[1])), resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "assert MlxEngine().inspect(source).loadable\n"
        "assert not {'mlx', 'numpy', 'tokenizers'} & set(sys.modules)\n"
        "with MlxEngine().load(source, EngineSettings(extra={'device': 'cpu'})) as model:\n"
        "    list(model.generate(GenerationRequest(prompt='Once', max_tokens=2)))\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == files\n"
        "print(sorted({'mlx_lm', 'transformers', 'sentencepiece'} & set(sys.modules)))"
    )
    path, temporary = written(tmp_path / "model"), tmp_path / "temporary"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    "model_type",
    ["", ".", "..", "base", "cache", "__init__", "cohere.py", "models.cohere", "../cohere", "/etc/passwd",
     "switch_layers", "utils", "plamo2", "Cohere", "cohere\0", "cohere\n", "os", 7, None, ["cohere"], {"cohere": 1}],
)  # fmt: skip
def test_a_name_that_is_no_model_of_mlx_lm_is_refused(model_type: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "model", model_type=model_type)
    said = refused(lambda: MlxEngine().load(ModelSource(path=path), EngineSettings()), UnsupportedModel)
    assert "this engine runs gemma2, gemma3," in said
    assert said.endswith(f"mlx-lm {installed_version()} has no model for it that could be used)")
    assert MlxEngine().inspect(ModelSource(path=path)).reason == said


def test_an_unknown_family_names_the_extra_where_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "model")
    monkeypatch.setattr("metalchat_engine_mlx.fallback.library._installed", lambda: None)
    said = refused(lambda: MlxEngine().load(ModelSource(path=path), EngineSettings()), UnsupportedModel)
    assert "'model_type' is 'cohere', this engine runs gemma2," in said
    assert said.endswith("mlx-lm may know it: install metalchat-engine-mlx[mlx-lm])")


def test_another_name_of_a_family_is_known(tmp_path: Path) -> None:
    path = written(tmp_path / "model", "mamba")
    tokens = answer(path)
    changed(path / "config.json", model_type="falcon_mamba")
    family = find_family("falcon_mamba")
    assert family is not None
    assert (family.model_type, family.module) == ("falcon_mamba", "mamba")
    assert MlxEngine().inspect(ModelSource(path=path)).architecture == "falcon_mamba"
    assert len(answer(path)[0]) == len(tokens[0])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("adapters", {"a": "/tmp"}),
        ("batch", 4),
        ("blas", "/lib/libblas.so"),
        ("cache_bits", 8),
        ("draft", "/tmp"),
        ("dtype", "float16"),
        ("lookup", 8),
        ("save_states", True),
        ("state_bytes", 0),
        ("threads", 2),
        ("weights", "float32"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    path, settings = written(tmp_path / "model"), EngineSettings(extra={key: value})
    source = ModelSource(path=path, name="tiny")
    for call in (MlxEngine().load, MlxEngine().estimate):
        said = refused(lambda: call(source, settings), UnsupportedRequest)  # noqa: B023 - called at once
        assert said == (
            f"engine setting '{key}' is not for 'tiny', a cohere model that mlx-lm runs: it takes deterministic,"
            " device, memory_limit, prefix_cache_bytes"
        )


def test_what_needs_a_decoder_of_this_engine_is_refused(tmp_path: Path) -> None:
    engine, source = MlxEngine(), ModelSource(path=written(tmp_path / "model"), name="tiny")
    (tmp_path / "new").mkdir()
    said = refused(lambda: engine.quantize(source, tmp_path / "new", Quantization(bits=4)), UnsupportedModel)
    assert said == "'tiny' is a cohere model, which mlx-lm runs; it cannot be quantised here"
    assert not list((tmp_path / "new").iterdir())
    assert "mlx-lm runs" in refused(lambda: engine.perplexity(source, "a text"), UnsupportedModel)
    own = ModelSource(path=write_tiny_model(tmp_path / "own"))
    settings = EngineSettings(extra={"draft": str(source.path)})
    assert refused(lambda: engine.load(own, settings), UnsupportedModel).endswith("it cannot guess ahead")


def test_an_option_is_one_that_the_family_reads(tmp_path: Path) -> None:
    path = written(tmp_path / "model")
    sharper = ModelSource(path=path, options={"logit_scale": 4.0})
    with MlxEngine().load(sharper, EngineSettings()) as model:
        found = collect(model, GREEDY).sampled[0].chosen
    with MlxEngine().load(ModelSource(path=path), EngineSettings()) as model:
        usual = collect(model, GREEDY).sampled[0].chosen
    assert found.token == usual.token
    assert found.logprob > usual.logprob
    useless = ModelSource(path=path, options={"sliding_window": 4})
    said = refused(lambda: MlxEngine().load(useless, EngineSettings()), UnsupportedRequest)
    assert said == "option 'sliding_window' does nothing for a model of type 'cohere'"


@pytest.mark.parametrize(
    ("variant", "changes", "expected"),
    [
        ("cohere", {"num_hidden_layers": 10**9}, "'num_hidden_layers' is 1000000000, expected at most 22"),
        ("cohere", {"num_hidden_layers": "2"}, "'num_hidden_layers' is '2', expected a number"),
        ("cohere", {"vocab_size": 10**9}, "'vocab_size' is 1000000000, expected 1 to 16777216"),
        ("cohere", {"hidden_size": 2**20}, "Expected shape (544, 1048576) but received shape (544, 64)"),
        ("cohere", {"hidden_size": None}, "'hidden_size' is missing, expected"),
        ("cohere", {"num_attention_heads": 0}, "'num_attention_heads' is 0, expected 1 to 4096"),
        ("cohere", {"num_key_value_heads": 3}, "mlx-lm"),
        ("cohere", {"max_position_embeddings": 0}, "'max_position_embeddings' is 0, expected 1 to"),
        ("cohere", {"eos_token_id": 10**6}, "'eos_token_id' is 1000000, expected a token id below 544"),
        ("cohere", {"num_hidden_layers": 1}, "parameters not in model"),
        ("cohere", {"quantization": {"bits": 9, "group_size": 64}}, "'quantization.bits' is 9, expected"),
        ("cohere in 4 bits", {"quantization": "missing"}, "is uint32, which such a model does not have there"),
        ("glm4", {"partial_rotary_factor": []}, "'partial_rotary_factor' is [], expected a number"),
        ("exaone", {"rope_scaling": {"rope_type": "spiral", "factor": 2.0}}, "Unsupported RoPE type spiral"),
        ("exaone", {"rope_scaling": {"rope_type": "linear"}}, "KeyError: 'factor'"),
        ("olmoe", {"num_experts": 10**9}, "'num_experts' is 1000000000, expected at most 4096"),
        ("olmoe", {"num_experts_per_tok": 5}, "mlx-lm"),
        ("gpt_oss", {"layer_types": ["sliding_attention"]}, "mlx-lm"),
        ("mamba", {"state_size": 10**12}, "'state_size' is 1000000000000, expected at most 2147483648"),
    ],
)
def test_a_config_that_is_wrong_is_one_line(
    variant: str, changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    source = ModelSource(path=written(tmp_path / "model", variant, **changes))
    said = refused(lambda: MlxEngine().load(source, EngineSettings()), InvalidModel)
    assert expected in said
    assert len(said) < 400


def test_a_load_that_fails_keeps_no_memory(tmp_path: Path) -> None:
    path = written(tmp_path / "model", num_key_value_heads=1)
    gc.disable()
    try:
        gc.collect()
        before = mx.get_active_memory()
        for _ in range(2):
            with pytest.raises(InvalidModel):
                MlxEngine().load(ModelSource(path=path), EngineSettings())
        assert mx.get_active_memory() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("variant", [name for name in ANSWERS if "bits" not in name])
def test_the_memory_that_is_foreseen_is_enough(variant: str, tmp_path: Path) -> None:
    source = ModelSource(path=written(tmp_path / "model", variant))
    settings = EngineSettings(context_length=128)
    estimate = MlxEngine().estimate(source, settings)
    text = "Once upon a time there was a small house near the sea. " * 3
    gc.collect()
    others = mx.get_active_memory()
    with MlxEngine().load(source, settings) as model:
        found = collect(model, replace(GREEDY, messages=(), prompt=text, max_tokens=16)).finish
        assert found.usage.prompt_tokens > 64
        assert found.timings is not None
        assert found.timings.peak_memory is not None
        assert found.timings.peak_memory - others <= estimate.total
        assert model.info.memory_bytes <= estimate.weights + estimate.cache
    assert MlxEngine().inspect(source).weights_bytes == estimate.weights


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    source = ModelSource(path=written(tmp_path / "model", max_position_embeddings=2**20), name="tiny")
    settings = EngineSettings(extra={"memory_limit": 4_000_000})
    with MlxEngine().load(source, settings) as model:
        assert 256 < model.info.context_length < 2**20
    said = refused(lambda: MlxEngine().load(source, replace(settings, context_length=2**18)), OutOfMemory)
    assert "for 262144 tokens of context; 4.0 MB are allowed by memory_limit, which is enough for" in said
    tight = EngineSettings(extra={"memory_limit": 300_000})
    assert "choose a smaller model" in refused(lambda: MlxEngine().load(source, tight), OutOfMemory)


@pytest.mark.parametrize(("variant", "goes_back"), [("cohere", True), ("cohere2", False), ("mamba", False)])
def test_what_the_last_text_computed_is_taken_over(variant: str, goes_back: bool, tmp_path: Path) -> None:
    path = written(tmp_path / "model", variant)
    first = GenerationRequest(prompt="Once upon a time", sampling=Sampling(temperature=0), max_tokens=4, logprobs=0)
    said: dict[int, list[list[int]]] = {}
    spared: list[int] = []
    for budget in (2**20, 0):
        settings = EngineSettings(extra={"prefix_cache_bytes": budget})
        with MlxEngine().load(ModelSource(path=path), settings) as model:
            found = [collect(model, first)]
            longer = replace(first, prompt=f"Once upon a time{found[0].text} and so on")
            parted = replace(first, prompt="Once upon a hill")
            found += [collect(model, longer), collect(model, parted)]
        said[budget] = [[token.chosen.token for token in one.sampled] for one in found]
        if budget:
            spared = [one.finish.usage.cached_tokens for one in found]
        else:
            assert not any(one.finish.usage.cached_tokens for one in found)
    assert said[2**20] == said[0]
    assert spared[0] == 0
    assert (spared[2] > 0) == goes_back
    if goes_back:
        assert spared[1] > 4
