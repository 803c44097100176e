"""`metalchat prompt`: one question, one answer."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from metalchat_cli import answer, errors, session, terminal
from metalchat_cli import schema as schemas

Chosen = Annotated[session.Choices, Parameter(name="*")]
MAX_PROMPT_BYTES = 16 * 1024 * 1024


def _no_option(_type: object, value: str | None) -> None:
    # Cyclopts takes the - of standard input for an option unless all options may be file names.
    if value is not None and value.startswith("-") and value != "-":
        raise errors.Usage(f"unknown option '{value.partition('=')[0]}'. See 'metalchat prompt --help'")


def prompt(
    file: Annotated[str | None, Parameter(allow_leading_hyphen=True, validator=_no_option)] = None,
    /,
    *,
    command: Annotated[str | None, Parameter(name=["-c", "--command"])] = None,
    choices: Chosen = session.NO_CHOICES,
    schema: str | None = None,
    stats: bool = False,
) -> int:
    """Answer a prompt with the model that is checked out.

    Parameters
    ----------
    file
        A file that holds the prompt; - is standard input.
    command
        The prompt itself.
    schema
        A file with a JSON Schema: the answer is one JSON value that satisfies it.
    stats
        Print a line of statistics to standard error at the end.
    """
    if (file is None) == (command is None):
        raise errors.Usage("give one prompt: -c TEXT, a file, or - for standard input")
    text = command if command is not None else _read(str(file))
    session.check_text("-c", text)
    if not text.strip():
        raise errors.Usage("the prompt is empty. Give it as -c TEXT, a file, or on standard input")
    constraint = None if schema is None else schemas.read(schema)
    from metalchat_engine import ContextTooLong, Message

    with session.opened(choices) as opened:
        request = replace(opened.request((Message.user(text),)), constraint=constraint)
        try:
            said = answer.stream(opened.model, request, as_json=constraint is not None)
        except ContextTooLong as error:
            raise errors.Usage(opened.too_long(error)) from error
    if said.finish is None:
        raise KeyboardInterrupt
    if stats:
        terminal.note(answer.statistics(said.finish), "dim")
    if constraint is not None and said.finish.reason == "length":
        tokens = said.finish.usage.completion_tokens
        raise errors.Incomplete(f"the answer was cut off after {tokens} tokens and is not whole; raise --max-tokens")
    return 0


def _read(file: str) -> str:
    try:
        if file == "-":
            data = terminal.read_stdin(MAX_PROMPT_BYTES + 1)
        else:
            with Path(file).open("rb") as stream:
                data = stream.read(MAX_PROMPT_BYTES + 1)
    except OSError as error:
        raise errors.Usage(f"cannot read the prompt file '{file}': {(error.strerror or str(error)).lower()}") from error
    name = "standard input" if file == "-" else f"'{file}'"
    if len(data) > MAX_PROMPT_BYTES:
        raise errors.Usage(f"{name} is larger than 16 MiB, which no prompt is")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise errors.Usage(f"{name} is not UTF-8 text (byte {error.start})") from error
