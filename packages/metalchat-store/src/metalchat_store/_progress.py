"""Reports of several threads to one listener."""

import threading

from metalchat_store.types import Plan, Progress


class OneAtATime:
    """A `Progress` that passes everything on, one call at a time."""

    def __init__(self, listener: Progress) -> None:
        self._listener = listener
        self._guard = threading.Lock()

    def plan(self, listing: Plan) -> None:
        """Pass on."""
        with self._guard:
            self._listener.plan(listing)

    def file(self, path: str, done: int, total: int | None) -> None:
        """Pass on."""
        with self._guard:
            self._listener.file(path, done, total)

    def message(self, text: str) -> None:
        """Pass on."""
        with self._guard:
            self._listener.message(text)
