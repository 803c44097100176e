"""An operating system whose k-th call fails, or is the last one."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import NoReturn

CALLS = (
    "open",
    "write",
    "pwrite",
    "fsync",
    "rename",
    "replace",
    "link",
    "mkdir",
    "unlink",
    "fchmod",
    "scandir",
    "stat",
)
"""The calls of `os` that are counted unless others are named."""


class FaultyOs:
    """Counts calls of `os` from now on, and acts at the k-th.

    `action` is called in place of the k-th call, with the name of the call. With k = 0 calls are only counted.
    `before`, which may be replaced, is called before every call. `restore` puts everything back, `resume` undoes that.
    """

    def __init__(self, k: int, action: Callable[[str], object], calls: Sequence[str] = CALLS) -> None:
        self.count = 0
        self.acted = ""
        self._k = k
        self._action = action
        self.before: Callable[[str], object] = lambda _name: None
        self._real = {name: getattr(os, name) for name in calls}
        self._wrapped = {name: self._wrap(name, real) for name, real in self._real.items()}
        self.resume()

    def resume(self) -> None:
        """Count again."""
        for name, wrapped in self._wrapped.items():
            setattr(os, name, wrapped)

    def restore(self) -> None:
        """Undo."""
        for name, real in self._real.items():
            setattr(os, name, real)

    def _wrap(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(real)
        def call(*args: object, **options: object) -> object:
            self.count += 1
            self.before(name)
            if self.count == self._k:
                self.acted = name
                self._action(name)
            return real(*args, **options)

        return call


def die(_name: str) -> NoReturn:
    """End the process as a kill would: nothing is flushed, closed or cleaned up. Exit status 9."""
    os._exit(9)


def fail(code: int) -> Callable[[str], NoReturn]:
    """An action that raises `OSError` with that number."""

    def action(_name: str) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return action
