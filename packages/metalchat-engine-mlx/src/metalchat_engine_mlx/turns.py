"""A lock that is given in the order in which it was asked for."""

import threading
from collections import deque


class Turns:
    """A context manager. A thread that gives its turn back and asks again waits behind all who asked before it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            ticket = threading.Lock()
            ticket.acquire()
            self._waiting.append(ticket)
        try:
            ticket.acquire()
        except BaseException:
            # An interrupt: leave the queue, or pass on the turn that has come meanwhile.
            with self._guard:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                else:
                    self._next()
            raise

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._next()

    def _next(self) -> None:
        if self._waiting:
            self._waiting.popleft().release()
        else:
            self._taken = False
