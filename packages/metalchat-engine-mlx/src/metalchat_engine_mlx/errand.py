"""Something that the scheduler's thread computes between two steps, for a thread that waits for it."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_D = TypeVar("_D")
_T = TypeVar("_T")


class Errand(Generic[_D, _T]):
    def __init__(self, work: Callable[[_D], _T]) -> None:
        self._work = work
        self._done = threading.Event()
        self._found: list[_T] = []
        self._error: BaseException | None = None

    def run(self, model: _D) -> None:
        try:
            self._found.append(self._work(model))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._error = error
        self._done.set()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._done.set()

    def result(self) -> _T:
        """What was computed; waits for it. Raises what went wrong."""
        self._done.wait()
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return self._found[0]
        finally:
            del error  # which would keep this frame alive, and so all that it refers to
