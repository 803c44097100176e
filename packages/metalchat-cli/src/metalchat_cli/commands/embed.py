"""`metalchat embed`: texts as vectors."""

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from metalchat_cli import errors, session, terminal

Texts = Annotated[str, Parameter(allow_leading_hyphen=True)]


def embed(
    *texts: Texts,
    model: str | None = None,
    engine: str | None = None,
    json: bool = False,
) -> None:
    """Print a vector of length one for each text, or for each line of standard input: the nearer, the more alike.

    Parameters
    ----------
    texts
        The texts; none, or -, takes each line of standard input as one.
    model
        Another model than the one checked out: an id, its beginning, or a part of its repository's name.
    engine
        The engine to run it with.
    json
        Print one JSON list of texts and vectors.
    """
    from metalchat_engine import ContextTooLong, SupportsEmbedding

    asked = _texts(texts)
    with session.opened(session.Choices(model=model, engine=engine)) as opened:
        if not isinstance(opened.model, SupportsEmbedding):
            raise errors.Usage(f"model '{opened.model.info.name}' and its engine give no vectors; choose others")
        try:
            vectors = opened.model.embed(asked)
        except ContextTooLong as error:
            raise errors.Usage(opened.too_long(error)) from error
    if json:
        records = [{"text": text, "embedding": list(vector)} for text, vector in zip(asked, vectors, strict=True)]
        terminal.compact_json_line(records)
        return
    for vector in vectors:
        terminal.line(" ".join(f"{number:.8g}" for number in vector))


def _texts(texts: Sequence[str]) -> list[str]:
    if not texts and terminal.can_ask():
        raise errors.Usage("give the texts, or - for the lines of standard input")
    if texts in ((), ("-",)):
        found = list(terminal.lines())
        if not found:
            raise errors.Usage("standard input is empty")
        empty = next((number for number, text in enumerate(found, start=1) if not text.strip()), None)
        if empty is not None:
            raise errors.Usage(f"line {empty} of standard input is empty, and nothing has no vector")
        return found
    for text in texts:
        if text.startswith("--"):
            raise errors.Usage(f"unknown option '{text.partition('=')[0]}'. See 'metalchat embed --help'")
        session.check_text("a text", text)
        if not text.strip():
            raise errors.Usage("a text is empty, and nothing has no vector")
    return list(texts)
