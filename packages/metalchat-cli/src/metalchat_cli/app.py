"""The tree of commands, built without importing any of them, and the boundary where errors end."""

import os
import signal
import sys
from typing import TYPE_CHECKING

from metalchat_cli import __version__, errors, terminal

if TYPE_CHECKING:
    import cyclopts

# Name: where the command is, and its line in the help, which an entry point cannot carry.
COMMANDS = {
    "quickstart": ("metalchat_cli.commands.quickstart:quickstart", "Pull a small model and answer with it."),
    "prompt": ("metalchat_cli.commands.prompt:prompt", "Answer one prompt: -c TEXT, a file, or - for standard input."),
    "chat": ("metalchat_cli.commands.chat:chat", "Talk with the model that is checked out."),
    "checkout": ("metalchat_cli.commands.checkout:checkout", "Select a model for this directory, or globally."),
    "model": ("metalchat_cli.commands.model:app", "Pull, list, describe, verify and remove models."),
    "options": ("metalchat_cli.commands.options:app", "Override a model's options, scope by scope."),
    "config": ("metalchat_cli.commands.config:app", "See every setting, and why it has its value."),
    "credential": ("metalchat_cli.commands.credential:app", "Keep access tokens in the system's keychain."),
    "plugins": ("metalchat_cli.commands.plugins:plugins", "List the engines, remotes, backends and commands found."),
    "doctor": ("metalchat_cli.commands.doctor:doctor", "Check this installation and say what to mend."),
    "completion": ("metalchat_cli.commands.completion:completion", "Print a completion script for your shell."),
}

EPILOGUE = (
    "Before the command: -f, --file DIRECTORY chooses the home (default $METALCHAT_HOME, then ~/.metalchat). "
    "'metalchat -' answers what standard input holds."
)


def build(arguments: list[str]) -> "cyclopts.App":
    """The whole command tree. Third parties' commands are looked for only where one could be meant."""
    import cyclopts

    app = cyclopts.App(
        name="metalchat",
        help="Local language models, handled the way git handles code.",
        help_epilogue=EPILOGUE,
        help_format="plaintext",
        version=__version__,
        version_flags=["--version", "-V"],
        suppress_keyboard_interrupt=False,
        default_parameter=cyclopts.Parameter(negative=()),
    )
    for name, (where, summary) in COMMANDS.items():
        app.command(where, name=name, help=summary)
    if not arguments or arguments[0] not in COMMANDS:
        from metalchat_engine.plugins import plugin_points

        for point in plugin_points("metalchat.commands"):
            if point.name in COMMANDS:
                raise errors.CommandConflict(
                    f"'{point.distribution}' offers the command '{point.name}', which metalchat-cli has already. "
                    f"Uninstall one of the two"
                )
            if point.allowed:
                app.command(point.value, name=point.name, help=f"From {point.distribution}.")
    return app


def run(arguments: list[str]) -> int:
    """Run one command line; every outcome is an exit code, and every failure one line on standard error."""
    try:
        arguments = _choose_home(arguments)
        if arguments[:1] == ["-"]:
            arguments = ["prompt", *arguments]
        app = build(arguments)
        outcome = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        terminal.flush()
        return outcome if isinstance(outcome, int) else 0
    except KeyboardInterrupt:
        terminal.end_line()
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of a pipe went away; nothing more can be said to it, not even by the interpreter at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        if os.environ.get("METALCHAT_DEBUG"):
            raise
        terminal.end_line()
        terminal.error(errors.describe(error))
        return errors.exit_code(error)


def _choose_home(arguments: list[str]) -> list[str]:
    """Take `-f DIRECTORY` from the front of the command line and let it decide the home."""
    if not arguments:
        return arguments
    first, rest = arguments[0], arguments[1:]
    if first in ("-f", "--file"):
        if not rest:
            raise errors.Usage(f"{first} needs a directory. Write: metalchat {first} DIRECTORY COMMAND")
        os.environ["METALCHAT_HOME"] = rest[0]
        return rest[1:]
    if first.startswith("--file="):
        os.environ["METALCHAT_HOME"] = first.removeprefix("--file=")
        return rest
    return arguments
