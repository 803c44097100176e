"""`metalchat completion`: a completion script for the shell."""

from typing import Literal

from metalchat_cli import app, terminal


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print a completion script.

    For bash, write it to ~/.local/share/bash-completion/completions/metalchat.

    Parameters
    ----------
    shell
        The shell it is for.
    """
    terminal.line(app.build([]).generate_completion(shell=shell))
