"""`metalchat options`: overrides of a model's own configuration, scope by scope."""

from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter

from metalchat_cli import errors, home, terminal

app = cyclopts.App(name="options", help="Override a model's options, scope by scope.", help_format="plaintext")

Local = Annotated[bool, Parameter(name="--local", negative="")]
Global = Annotated[bool, Parameter(name="--global", negative="")]
Model = Annotated[bool, Parameter(name="--model", negative="")]
Type = Annotated[Literal["bool", "int", "float", "str"] | None, Parameter(name=["-t", "--type"])]


@app.command
def get(name: str, /) -> None:
    """Print the value of an option, as it is in force here.

    Parameters
    ----------
    name
        An option of the model's config.json, such as rms_norm_eps.
    """
    setting = home.settings().options().get(name)
    if setting is None:
        raise errors.NotSet(f"option '{name}' is not set in any scope. 'metalchat options list' shows what is set")
    terminal.line(terminal.value_text(setting.value))


@app.command(name="set")
def set_(
    name: str, value: str, /, *, type: Type = None, local: Local = False, global_: Global = False, model: Model = False
) -> None:
    """Set an option.

    Parameters
    ----------
    name
        An option of the model's config.json, such as rms_norm_eps.
    value
        Its value; the type is that of the known option.
    type
        Of what type the value is.
    local
        In this directory's metalchat.toml; the default.
    global_
        In the home's metalchat.toml.
    model
        In the manifest of the model that is checked out, for every directory.
    """
    from metalchat_manifest import edit, parse_option

    path = _manifest(local, global_, model)
    parsed = parse_option(name, value, type)
    with edit(path) as editor:
        editor.set(f"options.{name}", parsed)


@app.command
def unset(name: str, /, *, local: Local = False, global_: Global = False, model: Model = False) -> None:
    """Remove an option from a scope.

    Parameters
    ----------
    name
        The option to remove.
    local
        From this directory's metalchat.toml; the default.
    global_
        From the home's metalchat.toml.
    model
        From the manifest of the model that is checked out.
    """
    from metalchat_manifest import edit

    path = _manifest(local, global_, model)
    with edit(path) as editor:
        if not editor.unset(f"options.{name}"):
            raise errors.NotSet(f"option '{name}' is not set in {path}")


@app.command(name="list")
def list_(*, show_scope: bool = False, json: bool = False) -> None:
    """List the options in force here.

    Parameters
    ----------
    show_scope
        Say which scope each value comes from.
    json
        Print JSON.
    """
    options = home.settings().options()
    if json:
        terminal.json_line(
            [{"name": name, "value": setting.value, "scope": setting.origin.scope} for name, setting in options.items()]
        )
        return
    for name, setting in options.items():
        cell = f"{name}={terminal.value_text(setting.value)}"
        terminal.row(*([setting.origin.scope, cell] if show_scope else [cell]))


def _manifest(local: bool, global_: bool, model: bool) -> Path:
    """The manifest that the scope options name.

    Raises:
        NotCheckedOut: there is none to edit.
    """
    if local + global_ + model > 1:
        raise errors.Usage("give only one of --local, --global and --model")
    if model:
        from metalchat_manifest import Scope

        manifest = home.settings().manifests.get(Scope.MODEL)
        path = None if manifest is None else manifest.path
    elif global_:
        path = home.home() / "metalchat.toml"
    else:
        path = home.local_manifest()
    if path is None or not path.is_file():
        raise errors.NotCheckedOut("requested scope not checked out")
    return path
