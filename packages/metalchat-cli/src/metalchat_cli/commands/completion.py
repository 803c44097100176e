"""`metalchat completion`: a completion script for the shell."""

from typing import Literal

from metalchat_cli import app, terminal

# The script only defines a function. Loaded by the first completion it has to run it, and sourced to make it known.
_ZSH_END = """
if [[ ${funcstack[1]} == _* ]]; then
  _cyclopts_metalchat "$@"
else
  compdef _cyclopts_metalchat metalchat
fi
"""


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print a completion script.

    For bash, write it to ~/.local/share/bash-completion/completions/metalchat, for fish to
    ~/.config/fish/completions/metalchat.fish, and for zsh to _metalchat in a directory of $fpath.

    Parameters
    ----------
    shell
        The shell it is for.
    """
    script = app.build([]).generate_completion(shell=shell)
    terminal.line(script + _ZSH_END if shell == "zsh" else script)
