"""Engines, found by the entry points that installed distributions register in `metalchat.engines`."""

from collections.abc import Mapping
from typing import TypeAlias, cast

from metalchat_engine.engine import SPI_VERSION, Engine
from metalchat_engine.errors import EngineError, IncompatibleEngine
from metalchat_engine.plugins import PluginPoint, load_plugin, one_line, owner, plugin_points, select_plugin

ENGINES_GROUP = "metalchat.engines"
# Distributions that exist: a message that names another one would send people to whoever registers it.
ENGINE_PROVIDERS: Mapping[str, str] = {"mlx": "metalchat-engine-mlx"}

EnginePoint: TypeAlias = PluginPoint


def engines(*, environ: Mapping[str, str] | None = None) -> tuple[EnginePoint, ...]:
    """Every installed engine, from metadata alone; those that METALCHAT_PLUGINS bars are not `allowed`."""
    return plugin_points(ENGINES_GROUP, environ=environ)


def load_engine(name: str, *, environ: Mapping[str, str] | None = None) -> Engine:
    """Import the engine of that name and make one.

    Raises:
        EngineNotFound: no such engine is installed or allowed.
        EngineConflict: two distributions offer it.
        IncompatibleEngine: it does not import, or speaks another version of the contract.
    """
    point = select_plugin(engines(environ=environ), name, kind="engine", providers=ENGINE_PROVIDERS)
    factory = load_plugin(point, kind="engine")
    if not callable(factory):
        raise IncompatibleEngine(f"{owner(point, 'engine')} is not a factory: {point.value} cannot be called")
    try:
        engine = factory()
    except EngineError:
        raise
    except Exception as error:
        raise IncompatibleEngine(f"{owner(point, 'engine')} does not start: {one_line(error)}") from error
    version = getattr(engine, "spi_version", None)
    if type(version) is not int:
        raise IncompatibleEngine(f"{owner(point, 'engine')} is not an engine: it has no spi_version")
    if version != SPI_VERSION:
        stale = "metalchat-engine" if version > SPI_VERSION else point.distribution
        raise IncompatibleEngine(
            f"{owner(point, 'engine')} implements version {version} of the engine contract,"
            f" metalchat-engine implements {SPI_VERSION}; upgrade {stale}"
        )
    missing = [method for method in ("inspect", "load") if not callable(getattr(engine, method, None))]
    if missing:
        raise IncompatibleEngine(f"{owner(point, 'engine')} is not an engine: it has no {missing[0]}()")
    return cast(Engine, engine)
