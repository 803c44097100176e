"""Texts that are computed besides the answers, and share the room for keys and values with them."""

from collections.abc import Callable, Sequence
from typing import Any

from metalchat_engine_mlx.errand import Errand
from metalchat_engine_mlx.job import Job
from metalchat_engine_mlx.room import Room


class Visit(Errand[Any, None]):
    """A text of so many `tokens`, which errands compute; it is done once there is room for it."""

    def __init__(self, tokens: int) -> None:
        super().__init__(lambda _: None)
        self.tokens = tokens


class Visits:
    """Those that wait for `room`, in turn with prompts that do. All methods are called by the scheduler's thread."""

    def __init__(self, room: Room) -> None:
        self._room = room
        # With the prompts that had been waiting when each came.
        self._waiting: list[tuple[Visit, list[Job]]] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, visit: Visit, before: Sequence[Job]) -> None:
        self._waiting.append((visit, list(before)))

    def admit(self, waiting: Sequence[Job]) -> None:
        """Let in whom there is room for, one after the other, but not before prompts that wait longer for it."""
        while self._waiting:
            visit, before = self._waiting[0]
            if any(job.stalled and job in waiting for job in before):
                return
            if not self._room.enter(visit, visit.tokens, visit.tokens):
                return
            del self._waiting[0]
            visit.run(None)

    def hold_back(self, job: Job) -> bool:
        """Whether somebody waits longer than a prompt."""
        return any(job not in before for _, before in self._waiting)

    def dismiss(self, visit: Visit) -> None:
        self._waiting = [one for one in self._waiting if one[0] is not visit]
        self._room.leave(visit)

    def fail(self, error: Callable[[], BaseException]) -> None:
        """Nobody will be let in."""
        for visit, _ in self._waiting:
            visit.fail(error())
        self._waiting.clear()
