"""`metalchat config`: every setting in force, and every layer that had a say in it."""

from typing import TYPE_CHECKING

import cyclopts

from metalchat_cli import errors, home, terminal

if TYPE_CHECKING:
    from metalchat_manifest import Setting

app = cyclopts.App(name="config", help="See every setting, and why it has its value.", help_format="plaintext")


@app.command
def explain(key: str, /, *, json: bool = False) -> None:
    """Print every layer's value of a setting, weakest first, the one in force marked with *.

    Parameters
    ----------
    key
        A dotted key, such as inference.sampling.temperature.
    json
        Print JSON.
    """
    resolved = home.settings()
    layers: list[tuple[Setting, str]] = [(each.setting, each.reason) for each in resolved.ignored]
    layers = [layer for layer in layers if layer[0].key == key] + [(layer, "") for layer in resolved.explain(key)]
    if json:
        terminal.json_line(
            [
                {
                    "value": layer.value,
                    "scope": layer.origin.scope,
                    "path": None if layer.origin.path is None else str(layer.origin.path),
                    "line": layer.origin.line,
                    "variable": layer.origin.variable,
                    "ignored": ignored or None,
                    "wins": not ignored and layer is layers[-1][0],
                }
                for layer, ignored in layers
            ]
        )
        return
    if not layers:
        from metalchat_manifest import nearest_key

        meant = nearest_key(key)
        hint = ". 'metalchat config list' shows what is set" if meant is None else f"; did you mean '{meant}'?"
        raise errors.NotSet(f"'{key}' is not set anywhere{hint}")
    for layer, ignored in layers:
        mark = "-" if ignored else "*" if layer is layers[-1][0] else " "
        where = _where(layer) + (f"  not in force: {ignored}" if ignored else "")
        cell = f"{key}={terminal.value_text(layer.value)}"
        terminal.row(mark, layer.origin.scope, cell, *([where] if where else []))


def _where(setting: "Setting") -> str:
    origin = setting.origin
    if origin.path is None:
        return origin.variable or ""
    return str(origin.path) if origin.line is None else f"{origin.path}:{origin.line}"


@app.command(name="list")
def list_(*, json: bool = False) -> None:
    """List every setting in force with the scope it comes from.

    Parameters
    ----------
    json
        Print JSON.
    """
    settings = home.settings().settings()
    if json:
        terminal.json_line([{"key": s.key, "value": s.value, "scope": s.origin.scope} for s in settings])
        return
    for setting in settings:
        terminal.row(setting.origin.scope, f"{setting.key}={terminal.value_text(setting.value)}")
