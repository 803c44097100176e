"""The tree of commands, built without importing any of them, and the boundary where errors end."""

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from metalchat_cli import __version__, errors, redaction, terminal
from metalchat_cli.home import HOME_VARIABLE

if TYPE_CHECKING:
    import cyclopts

# Name: where the command is, and its line in the help, which an entry point cannot carry.
COMMANDS = {
    "quickstart": ("metalchat_cli.commands.quickstart:quickstart", "Pull a small model and answer with it."),
    "prompt": ("metalchat_cli.commands.prompt:prompt", "Answer one prompt: -c TEXT, a file, or - for standard input."),
    "chat": ("metalchat_cli.commands.chat:chat", "Talk with the model that is checked out."),
    "embed": ("metalchat_cli.commands.embed:embed", "Print a vector for each text, or for each line of input."),
    "checkout": ("metalchat_cli.commands.checkout:checkout", "Select a model for this directory, or globally."),
    "lock": ("metalchat_cli.commands.lock:lock", "Pin the selected model's exact content in metalchat.lock."),
    "model": ("metalchat_cli.commands.model:app", "Pull, list, describe, verify, update, remove and push models."),
    "dataset": ("metalchat_cli.commands.dataset:app", "Pull, list, verify, remove and push datasets."),
    "space": ("metalchat_cli.commands.space:app", "Pull, list, verify, remove and push spaces."),
    "engine": ("metalchat_cli.commands.engine:app", "Measure how fast an engine answers, and what makes it faster."),
    "store": ("metalchat_cli.commands.store:app", "See and free the space that models take."),
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
    """The whole command tree. Others' commands are looked for only where one could be meant."""
    import cyclopts

    app = cyclopts.App(
        name="metalchat",
        help="Local language models, handled the way git handles code.",
        help_epilogue=EPILOGUE,
        help_format="plaintext",
        version=f"metalchat {__version__}",
        version_flags=["--version", "-V"],
        suppress_keyboard_interrupt=False,
        default_parameter=cyclopts.Parameter(negative=(), show_default=False),
    )
    chosen = arguments[0] if arguments else None
    for name, (where, summary) in COMMANDS.items():
        # The one that runs has a help of its own, which says more.
        app.command(where, name=name, help=None if name == chosen else summary)
    if chosen not in COMMANDS:
        from metalchat_cli import extensions

        extensions.attach(app, chosen, COMMANDS)
    return app


def run(arguments: list[str]) -> int:
    """Run one command line; every outcome is an exit code, and every failure one line on standard error."""
    before = os.environ.get(HOME_VARIABLE)
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        with suppress(OSError):
            terminal.end_line()
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except Exception as error:  # noqa: BLE001 - the boundary: whatever it is becomes a line and a code
        _report(error)
        return errors.exit_code(error)
    finally:
        _restore(before)
        redaction.forget()
        terminal.settle()


def _dispatch(arguments: list[str]) -> int:
    arguments = _choose_home(arguments)
    if arguments[:1] == ["-"]:
        arguments = ["prompt", *arguments]
    if arguments in (["--version"], ["-V"]):
        terminal.line(f"metalchat {__version__}")
        terminal.flush()
        return 0
    app = build(arguments)
    try:
        outcome = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except SystemExit as end:  # what others' commands end with
        outcome = end.code
        if isinstance(outcome, str):
            raise errors.Ended(outcome) from end
    terminal.flush()
    return outcome if isinstance(outcome, int) else 0


def _report(error: Exception) -> None:
    with suppress(OSError):
        terminal.end_line()
    if os.environ.get("METALCHAT_DEBUG"):
        terminal.trace(error)
    terminal.error(errors.describe(error))


def _choose_home(arguments: list[str]) -> list[str]:
    """Take `-f DIRECTORY` from the front of the command line and let it decide the home."""
    first, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if first in ("-f", "--file"):
        directory, rest = (rest[0], rest[1:]) if rest else ("", [])
    elif first.startswith("--file="):
        directory = first.removeprefix("--file=")
    else:
        return arguments
    if not directory:
        raise errors.Usage("-f needs a directory. Write: metalchat -f DIRECTORY COMMAND")
    os.environ[HOME_VARIABLE] = directory
    return rest


def _restore(before: str | None) -> None:
    # A caller in the same process keeps its environment.
    if before is None:
        os.environ.pop(HOME_VARIABLE, None)
    else:
        os.environ[HOME_VARIABLE] = before
