"""An answer on its way from the model to the terminal, which Ctrl-C stops without stopping the program."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metalchat_cli import terminal

if TYPE_CHECKING:
    from metalchat_engine import Finish, GenerationRequest, Model

# A prompt shorter than this is read before anyone wonders.
SHOW_PROMPT_PROGRESS_FROM = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was said. `finish` is None when a person stopped it."""

    text: str
    finish: "Finish | None"


def stream(model: "Model", request: "GenerationRequest", *, as_json: bool = False) -> Answer:
    """Write the answer to standard output as it comes, ending with a newline on a terminal.

    `as_json` says that it is JSON, and stays so: control characters are escaped as JSON does it.
    """
    from metalchat_engine import Finish, PromptProgress, ReasoningDelta, TextDelta

    said: list[str] = []
    finish: Finish | None = None
    events = model.generate(request)
    with _interruptible() as interrupted:
        try:
            for event in events:
                if isinstance(event, TextDelta):
                    said.append(event.text)
                    terminal.write(terminal.json_text(event.text) if as_json else event.text)
                elif isinstance(event, ReasoningDelta):
                    terminal.aside(event.text)
                elif isinstance(event, PromptProgress):
                    _show_progress(event.processed, event.total)
                elif isinstance(event, Finish):
                    finish = event
                if interrupted.is_set():
                    break
        finally:
            close = getattr(events, "close", None)
            if close is not None:
                close()
    terminal.end_line()
    return Answer(text="".join(said), finish=finish)


def statistics(finish: "Finish") -> str:
    """One line: tokens and tokens per second of each phase, time to first token, peak memory."""
    usage, timings = finish.usage, finish.timings
    computed = usage.prompt_tokens - usage.cached_tokens
    parts = [f"{usage.prompt_tokens} prompt tokens{_rate(computed, timings.prefill_seconds)}"]
    parts.append(f"{usage.completion_tokens} answer tokens{_rate(usage.completion_tokens - 1, timings.decode_seconds)}")
    if usage.proposed_tokens:
        parts.append(f"{usage.accepted_tokens} of {usage.proposed_tokens} guessed tokens right")
    parts.append(f"first token after {timings.prefill_seconds:.2f} s")
    if timings.peak_memory is not None:
        parts.append(f"peak memory {timings.peak_memory / 1e6:.0f} MB")
    return ", ".join(parts)


def _rate(tokens: int, seconds: float) -> str:
    return f" at {tokens / seconds:.1f}/s" if seconds > 0 and tokens > 0 else ""


def _show_progress(processed: int, total: int) -> None:
    if total >= SHOW_PROMPT_PROGRESS_FROM and terminal.shows_progress():
        terminal.status("" if processed >= total else f"Reading the prompt: {processed} of {total} tokens")


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event that is looked at between tokens; a second one is Python's own."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    previous = signal.getsignal(signal.SIGINT)

    def stop(_number: int, _frame: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, stop)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous if previous is not None else signal.default_int_handler)
        sys.stdout.flush()
