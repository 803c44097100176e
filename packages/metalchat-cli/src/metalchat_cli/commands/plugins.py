"""`metalchat plugins`: everything that was found by entry point, without importing any of it."""

from metalchat_cli import terminal

GROUPS = {
    "engine": "metalchat.engines",
    "credentials": "metalchat.credentials",
    "remote": "metalchat.remotes",
    "command": "metalchat.commands",
}


def plugins(*, json: bool = False) -> None:
    """List the engines, credential backends, remotes and commands that are installed.

    Parameters
    ----------
    json
        Print JSON.
    """
    from metalchat_engine.plugins import plugin_points

    found = [(kind, point) for kind, group in GROUPS.items() for point in plugin_points(group)]
    if json:
        terminal.json_line(
            [
                {
                    "kind": kind,
                    "name": point.name,
                    "distribution": point.distribution,
                    "version": point.version,
                    "enabled": point.allowed,
                }
                for kind, point in found
            ]
        )
        return
    for kind, point in found:
        note = "" if point.allowed else "not in METALCHAT_PLUGINS"
        terminal.row(kind, point.name, f"{point.distribution} {point.version}", *([note] if note else []))
