"""The commands that other distributions add: named from their metadata, imported only to be run."""

import re
from typing import TYPE_CHECKING

from metalchat_cli import errors
from metalchat_cli.metadata import mentioned

if TYPE_CHECKING:
    from collections.abc import Collection

    import cyclopts
    from metalchat_engine.plugins import PluginPoint

GROUP = "metalchat.commands"
_NAME = re.compile(r"[a-z][a-z0-9-]*")


def points(taken: "Collection[str]") -> "tuple[PluginPoint, ...]":
    """Every added command that may run; `taken` are the names that metalchat-cli has itself.

    Raises:
        CommandConflict: a name that is taken, that two distributions offer, or that is no plain word.
    """
    if not mentioned(GROUP):
        return ()
    from metalchat_engine.plugins import plugin_points

    owners = dict.fromkeys(taken, "metalchat-cli")
    allowed = tuple(point for point in plugin_points(GROUP) if point.allowed)
    for point in allowed:
        if _NAME.fullmatch(point.name) is None:
            raise errors.CommandConflict(
                f"'{point.distribution}' offers a command whose name is not a plain word: '{point.name}'. "
                f"Uninstall it, or leave it out of METALCHAT_PLUGINS"
            )
        if point.name in owners:
            raise errors.CommandConflict(
                f"the command '{point.name}' is offered by {owners[point.name]} and {point.distribution}. "
                f"Uninstall {point.distribution}, or leave it out of METALCHAT_PLUGINS"
            )
        owners[point.name] = point.distribution
    return allowed


def attach(app: "cyclopts.App", chosen: str | None, taken: "Collection[str]") -> None:
    """Add the commands to `app`; only the chosen one is imported, the others are there for help and completion.

    Raises:
        CommandConflict: see `points`.
        CommandUnusable: what the chosen one's distribution registered is not a command.
        EngineError: the chosen one does not import.
    """
    import cyclopts
    from metalchat_engine.plugins import load_plugin

    for point in points(taken):
        if point.name != chosen:
            app.command(cyclopts.App(name=point.name, help=f"From {point.distribution}."))
            continue
        loaded = load_plugin(point, kind="command")
        if not callable(loaded):
            raise errors.CommandUnusable(
                f"command '{point.name}' of {point.distribution} {point.version} is neither a function nor a "
                f"cyclopts App: {point.value}. Update or uninstall {point.distribution}"
            )
        app.command(loaded, name=point.name)
