"""`metalchat config`: every setting in force, and every layer that had a say in it."""

import os
from pathlib import Path

import cyclopts

from metalchat_cli import errors, terminal
from metalchat_cli.home import home

app = cyclopts.App(name="config", help="See every setting, and why it has its value.", help_format="plaintext")


@app.command
def explain(key: str, /, *, json: bool = False) -> None:
    """Print every layer's value of a setting, weakest first, and which one won.

    Parameters
    ----------
    key
        A dotted key, such as inference.sampling.temperature.
    json
        Print JSON.
    """
    from metalchat_manifest import resolve

    layers = resolve(home=home(), directory=Path.cwd(), environ=os.environ).explain(key)
    if json:
        terminal.json_line(
            [
                {
                    "value": layer.value,
                    "scope": layer.origin.scope,
                    "path": None if layer.origin.path is None else str(layer.origin.path),
                    "line": layer.origin.line,
                    "wins": layer is layers[-1],
                }
                for layer in layers
            ]
        )
        return
    if not layers:
        raise errors.NotSet(f"'{key}' is not set anywhere. 'metalchat config list' shows what is set")
    for layer in layers:
        where = "" if layer.origin.path is None else str(layer.origin.path)
        if layer.origin.line is not None:
            where += f":{layer.origin.line}"
        terminal.row(
            "*" if layer is layers[-1] else " ", layer.origin.scope, f"{key}={terminal.value_text(layer.value)}", where
        )


@app.command(name="list")
def list_(*, json: bool = False) -> None:
    """List every setting in force with the scope it comes from.

    Parameters
    ----------
    json
        Print JSON.
    """
    from metalchat_manifest import resolve

    settings = resolve(home=home(), directory=Path.cwd(), environ=os.environ).settings()
    if json:
        terminal.json_line([{"key": s.key, "value": s.value, "scope": s.origin.scope} for s in settings])
        return
    for setting in settings:
        terminal.row(setting.origin.scope, f"{setting.key}={terminal.value_text(setting.value)}")
