"""What was computed for a long prompt is found again by the next process, or computed again."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine import EngineSettings, GenerationRequest, Model, ModelSource, Sampling, UnsupportedRequest
from metalchat_engine.testing import Answer, collect
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.testing import write_tiny_adapter, write_tiny_model

LONG = "the water is hot and there is more of it than you said " * 36
WINDOWED = {
    "model_type": "gemma3_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "head_dim": 32,
    "query_pre_attn_scalar": 24,
    "sliding_window": 300,
    "sliding_window_pattern": 2,
}


def load(path: Path, states: Path | None, **extra: Any) -> Model:
    settings = EngineSettings(prefill_chunk=256, extra=extra, state_directory=states)
    return MlxEngine().load(ModelSource(path=path), settings)


def said(model: Model, prompt: str, adapter: str | None = None) -> Answer:
    greedy = GenerationRequest(prompt=prompt, sampling=Sampling(temperature=0), max_tokens=8, adapter=adapter)
    return collect(model, greedy)


def files(states: Path) -> list[Path]:
    return sorted(path for path in states.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("states") / "tiny", max_position_embeddings=4096)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.parametrize("changes", [{}, {"dtype": "bfloat16"}, WINDOWED], ids=["plain", "bfloat16", "window"])
def test_another_process_goes_on_where_a_long_prompt_ended(changes: dict[str, Any], tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny", max_position_embeddings=4096, **changes)
    with load(path, tmp_path / "states") as first:
        expected = said(first, LONG + "how are you")
    total = expected.finish.usage.prompt_tokens
    assert total > 512
    with load(path, tmp_path / "states") as second:
        again = said(second, LONG + "how are you")
        other = said(second, LONG + "and they").finish.usage
    assert again.finish.usage.cached_tokens == total - 1
    assert other.cached_tokens > 500
    assert again.text == expected.text


def test_what_is_written_is_private_and_named_by_digests(tiny: Path, tmp_path: Path, umask: None) -> None:
    with load(tiny, tmp_path / "states") as model:
        said(model, LONG)
    (file,) = files(tmp_path / "states")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in file.parents[:2]} == {0o700}
    assert set(file.name + file.parent.name) <= set("0123456789abcdef-")


@pytest.mark.parametrize("damage", ["changed", "cut", "empty", "other", "folder"])
def test_a_damaged_file_is_passed_over_and_written_again(damage: str, tiny: Path, tmp_path: Path) -> None:
    states = tmp_path / "states"
    with load(tiny, states) as model:
        expected = said(model, LONG)
    (file,) = files(states)
    data = file.read_bytes()
    if damage == "changed":
        file.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes({"cut": data[:-1], "empty": b"", "other": os.urandom(4096)}[damage])
    with load(tiny, states) as model:
        answer = said(model, LONG)
    assert (answer.text, answer.finish.usage.cached_tokens) == (expected.text, 0)
    if damage == "folder":
        return
    assert [path.read_bytes() == data for path in files(states)] == [True]


def test_a_state_serves_only_the_model_and_settings_it_was_computed_with(tiny: Path, tmp_path: Path) -> None:
    states = tmp_path / "states"
    with load(tiny, states) as model:
        said(model, LONG)

    def cached(path: Path, **extra: Any) -> int:
        with load(path, states, **extra) as model:
            return said(model, LONG).finish.usage.cached_tokens

    assert cached(tiny) > 500
    assert cached(tiny, threads=1) == 0
    assert cached(tiny, dtype="bfloat16") == 0
    other = write_tiny_model(tmp_path / "other", max_position_embeddings=4096, seed=1)
    assert cached(other) == 0
    os.utime(other / "model.safetensors", ns=(1, 1))
    assert cached(other) == 0
    assert cached(other) > 500


def test_what_an_adapter_computed_serves_that_adapter_alone(tiny: Path, tmp_path: Path) -> None:
    states = tmp_path / "states"
    red = write_tiny_adapter(tmp_path / "red")
    others = {"blue": write_tiny_adapter(tmp_path / "blue", seed=1)}
    others["louder"] = write_tiny_adapter(tmp_path / "louder", lora_alpha=16)

    def heard(states: Path | None, adapter: str | None, folders: dict[str, Path]) -> tuple[str, int]:
        """The answer, and the tokens that were taken over."""
        with load(tiny, states, adapters={name: str(folder) for name, folder in folders.items()}) as model:
            answer = said(model, LONG, adapter)
        return answer.text, answer.finish.usage.cached_tokens

    cold = {name: heard(None, name, {"red": red, **others})[0] for name in (None, "red", *others)}
    assert len(set(cold.values())) == 4
    assert heard(states, "red", {"red": red}) == (cold["red"], 0)
    # Another process has it, whatever else it has loaded, and whatever it calls it.
    for name, folders in (("red", {"red": red, **others}), ("rouge", {"rouge": red})):
        text, cached = heard(states, name, folders)
        assert text == cold["red"]
        assert cached > 500
    # Nobody else has.
    assert heard(states, None, {"red": red}) == (cold[None], 0)
    for name, folder in others.items():
        assert heard(states, "red", {"red": folder}) == (cold[name], 0), "the name alone is not enough"
    assert len(files(states)) == 4
    for name, folder in {"red": red, **others}.items():
        text, cached = heard(states, "any", {"any": folder})
        assert text == cold[name]
        assert cached > 500
    # What is damaged is computed again.
    for file in files(states):
        data = file.read_bytes()
        file.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
    assert heard(states, "red", {"red": red}) == (cold["red"], 0)


def test_nothing_is_saved_of_short_prompts_or_where_it_is_not_wanted(tiny: Path, tmp_path: Path) -> None:
    states = tmp_path / "states"
    for extra in ({"save_states": False}, {"state_bytes": 0}, {"state_bytes": 4096}, {"prefix_cache_bytes": 0}):
        with load(tiny, states, **extra) as model:
            said(model, LONG)
    with load(tiny, states) as model:
        said(model, LONG[:200])
    with load(tiny, None) as model:
        said(model, LONG)
    assert not states.exists() or files(states) == []
    with pytest.raises(UnsupportedRequest, match="'state_directory' must be an absolute path"):
        load(tiny, None, state_directory="states")


def test_the_quota_is_kept_and_the_directory_may_be_lost(tiny: Path, tmp_path: Path) -> None:
    states = tmp_path / "states"
    with load(tiny, states) as model:
        said(model, LONG)
    size = files(states)[0].stat().st_size
    for place, word in enumerate(("and ", "you ", "they ")):
        os.utime(files(states)[0], (place, place))
        with load(tiny, None, state_directory=str(states), state_bytes=int(2.5 * size)) as model:
            said(model, word + LONG)
    assert len(files(states)) == 2
    with load(tiny, states) as model:
        assert said(model, "they " + LONG).finish.usage.cached_tokens > 500
        shutil.rmtree(states)
        said(model, "more " + LONG)
    assert len(files(states)) == 1


def test_a_directory_that_cannot_be_written_costs_nothing_but_time(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "states").write_text("a file")
    with load(tiny, tmp_path / "states") as model:
        assert said(model, LONG).finish.usage.cached_tokens == 0


def test_only_files_of_its_own_are_ever_deleted(tiny: Path, tmp_path: Path) -> None:
    states = tmp_path / "states"
    foreign = [states / "kv" / "Documents" / ".hidden", states / "kv" / "Documents" / "letter", states / "kv" / "note"]
    (states / "kv" / "Documents").mkdir(parents=True)
    for path in foreign:
        path.write_text("mine")
        os.utime(path, (1, 1))
    with load(tiny, states) as model:
        said(model, LONG)
    saved = [path for path in files(states) if path not in foreign]
    beside = saved[0].parent / ".profile"
    beside.write_text("mine")
    os.utime(beside, (1, 1))
    with load(tiny, states, state_bytes=int(1.5 * saved[0].stat().st_size)) as model:
        said(model, "and so on " + LONG)
    assert [path.read_text() for path in (*foreign, beside)] == ["mine"] * 4
    assert not saved[0].exists(), "the quota was kept"


@pytest.mark.parametrize("level", ["kv", "model"])
def test_a_link_in_place_of_a_directory_is_not_followed(level: str, tiny: Path, tmp_path: Path) -> None:
    states, elsewhere = tmp_path / "states", tmp_path / "elsewhere"
    with load(tiny, states) as model:
        said(model, LONG)
    linked = states / "kv" if level == "kv" else files(states)[0].parent
    linked.rename(elsewhere)
    linked.symlink_to(elsewhere)
    before = [(path, path.stat()) for path in files(elsewhere)]
    with load(tiny, states) as model:
        assert said(model, LONG).finish.usage.cached_tokens == 0
        said(model, "and so on " + LONG)
    assert [(path, path.stat()) for path in files(elsewhere)] == before
