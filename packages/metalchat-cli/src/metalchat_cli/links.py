"""The signed link that Meta mails for its models: a secret, so it is read from anywhere but the command line."""

import os
from collections.abc import Mapping

from metalchat_cli import errors, terminal

VARIABLE = "METALCHAT_META_URL"
MAX_BYTES = 65536


def is_needed(repository: str) -> bool:
    """Whether models are pulled from that address by a link."""
    return repository.partition(":")[0].lower() == "meta"


def check(repository: str | None, from_stdin: bool, variable: str | None) -> None:
    """Refuse the options of the link where they are too many, or say nothing.

    Raises:
        Usage: they are.
    """
    if from_stdin and variable is not None:
        raise errors.Usage("give only one of --url-stdin and --url-env")
    if (from_stdin or variable is not None) and (repository is None or not is_needed(repository)):
        raise errors.Usage("--url-stdin and --url-env are for the addresses meta:NAME")


def read(repository: str, from_stdin: bool, variable: str | None, *, ask: bool) -> Mapping[str, str] | None:
    """The link as the variable that the store reads; None where nobody gave one, for the store to say what to do.

    `ask`: a person may be asked for it.

    Raises:
        Usage: the variable is not set, or the person gave nothing.
    """
    if variable is not None:
        if variable not in os.environ:
            raise errors.Usage(f"the environment variable '{variable}' is not set. Set it, or drop --url-env")
        return {VARIABLE: os.environ[variable]}
    if from_stdin:
        # What is no ASCII is no link; the store says so without repeating it.
        return {VARIABLE: terminal.read_stdin(MAX_BYTES).decode("ascii", errors="replace")}
    if VARIABLE in os.environ:
        return {VARIABLE: os.environ[VARIABLE]}
    if ask and terminal.can_ask():
        return {VARIABLE: terminal.read_secret(f"The link that Meta mailed for {repository} (not shown):")}
    return None
