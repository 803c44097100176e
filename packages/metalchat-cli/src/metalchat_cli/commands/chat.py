"""`metalchat chat`: a conversation; Ctrl-C stops an answer, Ctrl-D or /exit ends it."""

import sys
from collections.abc import Iterator
from typing import Annotated

from cyclopts import Parameter

from metalchat_cli import answer, session, terminal

Chosen = Annotated[session.Choices, Parameter(name="*")]
HELP = "/reset forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C stops an answer."


def chat(*, choices: Chosen = session.NO_CHOICES) -> int:
    """Talk with the model that is checked out. From a pipe, exits with 2 if a turn was too long to be answered."""
    from metalchat_engine import ContextTooLong, Message

    code = 0
    with session.opened(choices) as opened:
        asked_by_a_person = terminal.can_ask()
        if asked_by_a_person:
            terminal.note(f"{opened.model.info.name}. {HELP}", "dim")
        history: tuple[Message, ...] = ()
        for text in _turns():
            command = text.strip()
            if command == "/exit":
                break
            if command == "/reset":
                history = ()
            elif command in ("/help", "/?"):
                terminal.note(HELP, "dim")
            elif command.startswith("/"):
                terminal.note(f"there is no command '{command.split()[0]}'. {HELP}", "yellow")
            elif command:
                asked = (*history, Message.user(text))
                try:
                    said = answer.stream(opened.model, opened.request(asked, conversation="chat"))
                except ContextTooLong as error:
                    terminal.note(f"{opened.too_long(error)}. /reset forgets the conversation", "yellow")
                    code = 0 if asked_by_a_person else ContextTooLong.exit_code
                    continue
                if said.finish is None and not asked_by_a_person:
                    raise KeyboardInterrupt
                terminal.end_answer()
                history = (*asked, Message.assistant(said.text))
    return code


def _turns() -> Iterator[str]:
    """What the person says, turn by turn; from a pipe, a line a turn."""
    if not terminal.can_ask():
        yield from terminal.lines()
        return
    from prompt_toolkit import PromptSession
    from prompt_toolkit.output import create_output

    # What is asked does not belong among answers that are written to a file.
    prompt: PromptSession[str] = PromptSession(output=None if terminal.is_terminal() else create_output(sys.stderr))
    while True:
        try:
            yield prompt.prompt(">>> ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
