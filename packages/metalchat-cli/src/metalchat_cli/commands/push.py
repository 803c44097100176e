"""`metalchat model push`: files from here to a model's repository."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from metalchat_cli import transfers
from metalchat_cli.transfers import NO_PUSH_CHOICES, PushChoices


def push(
    path: Path, repository: str, /, *, choices: Annotated[PushChoices, Parameter(name="*")] = NO_PUSH_CHOICES
) -> None:
    """Send files to a model's repository and make one commit of them.

    Parameters
    ----------
    path
        A file or a directory.
    repository
        https://huggingface.co/ORGANISATION/NAME
    """
    transfers.push("model", path, repository, choices)
