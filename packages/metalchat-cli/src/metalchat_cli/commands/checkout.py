"""`metalchat checkout`: which model this directory, or this user, works with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from metalchat_cli import errors, home, terminal

if TYPE_CHECKING:
    from metalchat_manifest import ModelSpec


def checkout(
    model: str,
    /,
    *,
    local: bool = False,
    global_: Annotated[bool, Parameter(name="--global", negative="")] = False,
) -> None:
    """Select a model in metalchat.toml; its other tables stay as they are.

    Parameters
    ----------
    model
        An id, a unique beginning of one (4 characters or more), or a unique part of a repository's name.
    local
        In this directory; the default.
    global_
        For every directory that selects none itself.
    """
    if local and global_:
        raise errors.Usage("give only one of --local and --global")
    spec = home.whole(model)
    select(spec, (home.home() if global_ else home.directory()) / "metalchat.toml")
    if terminal.shows_hints():
        terminal.note(f"Now on {spec.repository}{' wherever nothing else is selected' if global_ else ''}.")


def select(spec: "ModelSpec", path: Path) -> None:
    """Write `spec` as the [model] of the manifest at `path`, and let the store know that it selects the model."""
    from metalchat_manifest import edit
    from metalchat_store import DiskError

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with edit(path, create=True) as editor:
        editor.set_model(spec)
    try:
        home.store().register(path, spec.id)
    except DiskError as error:
        terminal.note(f"warning: the store does not know of '{path}', and may evict its model: {error}", "yellow")
