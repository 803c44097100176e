"""Where a command works: the home with its store and credentials, the working directory, the settings in force."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from metalchat_cli import errors, redaction, terminal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metalchat_credentials import Credentials
    from metalchat_manifest import ModelSpec, Resolved, Value
    from metalchat_store import Store


HOME_VARIABLE = "METALCHAT_HOME"


def home() -> Path:
    """$METALCHAT_HOME, or ~/.metalchat. An absolute path; it need not exist.

    Raises:
        Usage: there is no home directory to put it in.
    """
    chosen = os.environ.get(HOME_VARIABLE)
    try:
        path = Path(chosen).expanduser() if chosen else Path.home() / ".metalchat"
    except RuntimeError as error:
        raise errors.Usage("there is no home directory. Set METALCHAT_HOME to the directory to use") from error
    return path if path.is_absolute() else directory() / path


def directory() -> Path:
    """The working directory.

    Raises:
        Usage: somebody removed it.
    """
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise errors.Usage("the working directory does not exist any more. Change to another one") from error


def local_manifest() -> Path | None:
    """The manifest of the local scope: in the working directory or its parents, up to the user's home or a `.git`."""
    from metalchat_manifest import find_local

    user = os.environ.get("HOME")
    return find_local(directory(), home=Path(user) if user else home().parent)


def settings(flags: "Mapping[str, Value] | None" = None, model: "ModelSpec | None" = None) -> "Resolved":
    """Every setting in force here."""
    from metalchat_manifest import resolve

    return resolve(home=home(), directory=directory(), environ=os.environ, flags=flags or {}, model=model)


def store(more: "Mapping[str, str] | None" = None) -> "Store":
    """The store below the home; `more` are variables that only it sees."""
    from metalchat_store import Store

    return Store(home(), environ=os.environ if more is None else {**os.environ, **more})


def whole(reference: str) -> "ModelSpec":
    """The specification of a model in the store that has no visible damage.

    Raises:
        Corrupted: it has.
    """
    from metalchat_store import Corrupted

    entry = store().find(reference)
    if entry.spec is None or entry.damaged is not None:
        raise Corrupted(f"model '{entry.id}' is corrupted")
    return entry.spec


@contextmanager
def naming_the_pull(model: "ModelSpec") -> Iterator[None]:
    """Let the store's word that it does not have the selected `model` say what fetches it.

    Raises:
        ModelNotFound: the same, with the command.
    """
    from metalchat_store import ModelNotFound

    try:
        yield
    except ModelNotFound as error:
        # The address is that of a manifest, perhaps somebody else's, and will be pasted into a shell.
        raise ModelNotFound(f"{error}. To fetch it: {pull_command(model)}") from error


def pull_command(model: "ModelSpec") -> str:
    """What a person types to fetch `model`."""
    return f"metalchat model pull {shlex.quote(model.repository)}"


def credentials() -> "Credentials":
    from metalchat_credentials import Credentials

    made = Credentials(home(), environ=os.environ, directory=directory(), interactive=terminal.can_ask())
    redaction.remember(made)
    return made
