"""Engines and other plug-ins, found by entry points."""

import sys
from pathlib import Path

import pytest
from metalchat_engine import (
    EngineConflict,
    EngineNotFound,
    IncompatibleEngine,
    ModelSource,
    OutOfMemory,
    engines,
    load_engine,
    load_plugin,
    plugin_points,
    select_plugin,
)
from metalchat_engine.testing import EchoEngine, write_distribution

ECHO = "metalchat_engine.testing:EchoEngine"
MODULE = """
from metalchat_engine import OutOfMemory

class Newer:
    spi_version = 2

class Older:
    spi_version = 0

class Nameless:
    pass

class Untrue:
    spi_version = True

class Mute:
    spi_version = 1
    def inspect(self, source): ...

class Fussy:
    def __init__(self):
        raise RuntimeError("no licence\\nfound")

class Poor:
    def __init__(self):
        raise OutOfMemory("the accelerator is full")

number = 7
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place of distributions, at first of none; METALCHAT_PLUGINS is not set."""
    monkeypatch.delenv("METALCHAT_PLUGINS", raising=False)
    # In this order: undone in reverse, the other one would leave the next tests without site-packages.
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])
    return tmp_path


def install(site: Path, distribution: str, *, group: str = "metalchat.engines", **points: str) -> None:
    write_distribution(site, distribution, {group: points})


def test_a_third_partys_engine_is_listed_and_loaded_by_name(site: Path) -> None:
    install(site, "acme-engine", acme=ECHO)
    (point,) = engines()
    assert (point.distribution, point.version, point.value) == ("acme-engine", "1.0", ECHO)
    engine = load_engine("acme")
    assert isinstance(engine, EchoEngine)
    assert engine.inspect(ModelSource(path=site)).loadable


def test_listing_imports_nothing(site: Path) -> None:
    (site / "acme_unlisted.py").write_text("raise RuntimeError('imported')")
    install(site, "acme-engine", acme="acme_unlisted:Engine")
    assert [point.name for point in engines()] == ["acme"]
    assert "acme_unlisted" not in sys.modules


@pytest.mark.parametrize(("name", "remedy"), [("mlx", "; install metalchat-engine-mlx"), ("llamacpp", "")])
def test_an_unknown_name_says_what_is_installed_and_what_would_provide_it(site: Path, name: str, remedy: str) -> None:
    install(site, "acme-engine", acme=ECHO)
    with pytest.raises(EngineNotFound) as caught:
        load_engine(name)
    assert str(caught.value) == f"engine '{name}' is not installed (installed: acme){remedy}"


def test_where_nothing_is_installed_the_message_says_so() -> None:
    with pytest.raises(EngineNotFound, match=r"^command 'x' is not installed \(installed: none\)$"):
        select_plugin([], "x", kind="command")


def test_two_distributions_of_one_name_are_an_error_that_names_both(site: Path) -> None:
    install(site, "acme-engine", acme=ECHO)
    install(site, "zeta-engine", acme="zeta:Engine")
    with pytest.raises(EngineConflict) as caught:
        load_engine("acme")
    assert str(caught.value) == (
        f"engine 'acme' is offered by acme-engine ({ECHO}) and zeta-engine (zeta:Engine); uninstall all but one"
    )
    assert [point.distribution for point in engines()] == ["acme-engine", "zeta-engine"]


def test_a_conflict_of_another_name_does_not_matter(site: Path) -> None:
    install(site, "acme-engine", acme=ECHO, same=ECHO)
    install(site, "zeta-engine", same=ECHO)
    assert isinstance(load_engine("acme"), EchoEngine)


@pytest.mark.parametrize("value", ["", "other", " , "])
def test_metalchat_plugins_bars_what_it_does_not_name(site: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    install(site, "acme-engine", acme=ECHO)
    monkeypatch.setenv("METALCHAT_PLUGINS", value)
    assert [point.allowed for point in engines()] == [False]
    with pytest.raises(EngineNotFound) as caught:
        load_engine("acme")
    assert str(caught.value) == ("engine 'acme' of acme-engine is not allowed by METALCHAT_PLUGINS; add 'acme' to it")
    with pytest.raises(EngineNotFound, match=r"^engine 'unknown' is not installed \(installed: none\)$"):
        load_engine("unknown")


def test_metalchat_plugins_lets_through_what_it_names(site: Path) -> None:
    install(site, "acme-engine", acme=ECHO)
    assert isinstance(load_engine("acme", environ={"METALCHAT_PLUGINS": "other, acme"}), EchoEngine)


def test_metalchat_plugins_never_bars_metalchats_own(site: Path) -> None:
    install(site, "Metalchat_Engine.mlx", mlx=ECHO)
    assert isinstance(load_engine("mlx", environ={"METALCHAT_PLUGINS": ""}), EchoEngine)


@pytest.mark.parametrize("name", ["metalchat-engine-acme", "metalchat-engine-openai", "metalchat-server"])
def test_a_stranger_with_a_name_like_metalchats_is_no_built_in(site: Path, name: str) -> None:
    install(site, name, acme=ECHO)
    with pytest.raises(EngineNotFound, match="METALCHAT_PLUGINS"):
        load_engine("acme", environ={"METALCHAT_PLUGINS": ""})


def test_a_barred_plugin_does_not_conflict_with_metalchats_own(site: Path) -> None:
    install(site, "metalchat-engine-mlx", mlx=ECHO)
    install(site, "acme-engine", mlx="acme:Engine")
    assert isinstance(load_engine("mlx", environ={"METALCHAT_PLUGINS": ""}), EchoEngine)
    with pytest.raises(EngineConflict):
        load_engine("mlx", environ={})


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        (
            "Newer",
            "implements version 2 of the engine contract, metalchat-engine implements 1; upgrade metalchat-engine",
        ),
        ("Older", "implements version 0 of the engine contract, metalchat-engine implements 1; upgrade acme-engine"),
        ("Nameless", "is not an engine: it has no spi_version"),
        ("Untrue", "is not an engine: it has no spi_version"),
        ("Mute", "is not an engine: it has no load()"),
        ("Fussy", "does not start: RuntimeError: no licence found"),
        ("number", "is not a factory: {module}:number cannot be called"),
        ("Missing", "does not import: AttributeError: module '{module}' has no attribute 'Missing'"),
    ],
)
def test_what_is_no_engine_is_named_with_its_distribution(site: Path, attribute: str, message: str) -> None:
    module = f"acme_{attribute.lower()}"
    (site / f"{module}.py").write_text(MODULE)
    install(site, "acme-engine", acme=f"{module}:{attribute}")
    with pytest.raises(IncompatibleEngine) as caught:
        load_engine("acme")
    expected = message.format(module=module, contract="the engine contract, metalchat-engine implements 1")
    assert str(caught.value) == f"engine 'acme' of acme-engine 1.0 {expected}"


def test_an_error_of_the_contract_passes_through(site: Path) -> None:
    (site / "acme_passing.py").write_text(MODULE)
    install(site, "acme-engine", acme="acme_passing:Poor")
    with pytest.raises(OutOfMemory, match="the accelerator is full"):
        load_engine("acme")


@pytest.mark.parametrize("value", ["acme_not_there:Engine", "acme broken", "metalchat_engine.testing:EchoEngine.nope"])
def test_what_does_not_import_is_named_with_its_distribution(site: Path, value: str) -> None:
    install(site, "acme-engine", acme=value)
    with pytest.raises(IncompatibleEngine, match=r"^engine 'acme' of acme-engine 1\.0 does not import: [^\n]+$"):
        load_engine("acme")


def test_any_group_is_served(site: Path) -> None:
    install(site, "acme-serve", group="metalchat.commands", serve="json:dumps")
    points = plugin_points("metalchat.commands")
    loaded = load_plugin(select_plugin(points, "serve", kind="command"), kind="command")
    assert callable(loaded)
    assert loaded({}) == "{}"
    with pytest.raises(EngineNotFound, match=r"^command 'push' is not installed"):
        select_plugin(points, "push", kind="command")
