"""A pull as a person sees it: one bar a file on a terminal, nothing in a pipe."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from metalchat_cli import redaction, terminal

if TYPE_CHECKING:
    from metalchat_store import Plan, Progress
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class _Quiet:
    """Says only what a person must know."""

    def plan(self, listing: "Plan") -> None:
        pass

    def file(self, path: str, done: int, total: int | None) -> None:
        pass

    def message(self, text: str) -> None:
        terminal.note(text)


class _Shown:
    """One bar a file."""

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def plan(self, listing: "Plan") -> None:
        pass

    def file(self, path: str, done: int, total: int | None) -> None:
        if path not in self._tasks:
            self._tasks[path] = self._bars.add_task(terminal.safe_name(path), total=total)
        self._bars.update(self._tasks[path], completed=done, total=total)

    def message(self, text: str) -> None:
        self._bars.console.print(
            terminal.safe_name(redaction.redacted(text)), markup=False, highlight=False, emoji=False
        )


@contextmanager
def shown() -> "Iterator[Progress]":
    """What to hand to the store while it works."""
    if not terminal.shows_progress():
        yield _Quiet()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Shown(bars)
