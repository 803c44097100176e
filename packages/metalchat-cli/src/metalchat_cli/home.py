"""Where metalchat keeps its state: the home directory and the store and credentials in it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from metalchat_cli import errors, terminal

if TYPE_CHECKING:
    from metalchat_credentials import Credentials
    from metalchat_store import Store


def home() -> Path:
    """$METALCHAT_HOME, or ~/.metalchat. An absolute path; it need not exist.

    Raises:
        Usage: there is no home directory to put it in.
    """
    chosen = os.environ.get("METALCHAT_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    try:
        return Path.home() / ".metalchat"
    except RuntimeError as error:
        raise errors.Usage("there is no home directory. Set METALCHAT_HOME to the directory to use") from error


def store() -> "Store":
    from metalchat_store import Store

    return Store(home(), environ=os.environ)


def credentials() -> "Credentials":
    from metalchat_credentials import Credentials

    return Credentials(home(), environ=os.environ, directory=Path.cwd(), interactive=terminal.can_ask())
