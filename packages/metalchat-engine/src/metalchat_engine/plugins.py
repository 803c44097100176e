"""Plug-ins of any entry-point group: listed from metadata, chosen by name, restricted by METALCHAT_PLUGINS."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from metalchat_engine.errors import EngineConflict, EngineNotFound, IncompatibleEngine

PLUGINS_VARIABLE = "METALCHAT_PLUGINS"

# The distributions of the metalchat project: METALCHAT_PLUGINS never restricts these.
_BUILT_IN = frozenset(
    {
        "metalchat-cli",
        "metalchat-credentials",
        "metalchat-engine",
        "metalchat-engine-mlx",
        "metalchat-manifest",
        "metalchat-prompt",
        "metalchat-store",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginPoint:
    """What a distribution's metadata says about one plug-in; `value` is the `module:attribute` of its object.

    `allowed` is whether METALCHAT_PLUGINS lets it load.
    """

    group: str
    name: str
    distribution: str
    version: str
    value: str
    allowed: bool = True


def plugin_points(group: str, *, environ: Mapping[str, str] | None = None) -> tuple[PluginPoint, ...]:
    """Every installed plug-in of the group, by name and distribution; imports none of them.

    METALCHAT_PLUGINS is a list of names, separated by commas: what it leaves out is not allowed,
    metalchat's own distributions excepted. Unset, it allows all; empty, none but metalchat's own.
    """
    from importlib.metadata import entry_points

    variable = (os.environ if environ is None else environ).get(PLUGINS_VARIABLE)
    names = None if variable is None else {name.strip() for name in variable.split(",")}
    found: set[tuple[str, str, str, str]] = set()
    for point in entry_points(group=group):
        distribution = point.dist
        if distribution is not None:
            # A damaged METADATA gives None for either.
            found.add((point.name, _normalised(str(distribution.name)), str(distribution.version), point.value))
    return tuple(
        PluginPoint(
            group=group,
            name=name,
            distribution=distribution,
            version=version,
            value=value,
            allowed=names is None or name in names or distribution in _BUILT_IN,
        )
        for name, distribution, version, value in sorted(found)
    )


def select_plugin(
    points: Iterable[PluginPoint], name: str, *, kind: str, providers: Mapping[str, str] | None = None
) -> PluginPoint:
    """The one allowed plug-in of that name. `kind` is the word for it in a message: "engine", "command".

    `providers` maps names to the distributions that would install them.

    Raises:
        EngineNotFound: none is installed, or METALCHAT_PLUGINS does not allow it.
        EngineConflict: two distributions offer it.
    """
    points = tuple(points)
    named = [point for point in points if point.name == name]
    allowed = [point for point in named if point.allowed]
    if len(allowed) == 1:
        return allowed[0]
    if allowed:
        owners = " and ".join(f"{point.distribution} ({point.value})" for point in allowed)
        raise EngineConflict(f"{kind} {name!r} is offered by {owners}; uninstall all but one")
    if named:
        raise EngineNotFound(
            f"{kind} {name!r} of {named[0].distribution} is not allowed by {PLUGINS_VARIABLE}; add {name!r} to it"
        )
    installed = ", ".join(sorted({point.name for point in points if point.allowed})) or "none"
    provider = (providers or {}).get(name)
    remedy = f"; install {provider}" if provider else ""
    raise EngineNotFound(f"{kind} {name!r} is not installed (installed: {installed}){remedy}")


def load_plugin(point: PluginPoint, *, kind: str) -> object:
    """Import the plug-in's object.

    Raises:
        IncompatibleEngine: whatever the import raised, with the distribution's name.
    """
    from importlib.metadata import EntryPoint

    try:
        loaded: object = EntryPoint(name=point.name, value=point.value, group=point.group).load()
    except Exception as error:
        raise IncompatibleEngine(f"{owner(point, kind)} does not import: {one_line(error)}") from error
    return loaded


def owner(point: PluginPoint, kind: str) -> str:
    """The plug-in as a message names it: kind, name, distribution and version."""
    return f"{kind} {point.name!r} of {point.distribution} {point.version}"


def one_line(error: BaseException) -> str:
    """The error's class and text, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
