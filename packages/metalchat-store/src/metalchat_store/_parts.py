"""Several parts of one large file at once, over as many connections, as long as all goes well.

Whatever fails ends its own connection and nothing else. What is missing at the end is left to whoever called, who
fetches it in order, with pauses and patience.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

from metalchat_store._files import write_at
from metalchat_store._partials import Partial
from metalchat_store._spans import Span, Spans
from metalchat_store.errors import NetworkError, StoreError
from metalchat_store.remote import Body

PIECE = 64 << 20  # bytes; each costs the hub one request
CONNECTIONS = 4
WRITE_BACK = 64 << 20  # bytes that may wait for the medium before they are hurried to it
_LOOK = 0.05  # seconds after which what has arrived is hashed and shown


class Parts:
    """One run of connections that fill the gaps of `spans` in `partial`, a file of `size` bytes.

    `opened` gives the remote's answer for a part. `note` writes the journal, with the validator of the first answer.
    """

    def __init__(
        self,
        partial: Partial,
        spans: Spans,
        size: int,
        *,
        opened: Callable[[int, int], AbstractContextManager[Body]],
        note: Callable[[str | None], None],
    ) -> None:
        self.fetched = 0
        self._partial = partial
        self._spans = spans
        self._opened = opened
        self._note = note
        self._work: deque[Span] = deque(spans.gaps(size, PIECE))
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._over = False
        self._known = spans.total > 0

    def run(self, look: Callable[[], None]) -> None:
        """Fetch until nothing is missing or every connection has failed; `look` is called all the while, in here.

        What the disk raises is raised.
        """
        self._note(self._partial.validator)
        workers = [
            threading.Thread(target=self._fetch_parts, name="metalchat-part", daemon=True)
            for _ in range(min(CONNECTIONS, len(self._work)))
        ]
        writer = threading.Thread(target=self._write_back, name="metalchat-sync", daemon=True)
        for thread in (*workers, writer):
            thread.start()
        try:
            while any(worker.is_alive() for worker in workers):
                with self._changed:
                    self._changed.wait(_LOOK)
                look()
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()
            for thread in (*workers, writer):
                thread.join()
            try:
                self._partial.mark(self._spans)
            except OSError as error:
                self._fail(error)
        if self._failure is not None:
            raise self._failure
        look()

    def reach(self, start: int) -> int:
        """The end of what is there from `start` on without a gap."""
        with self._changed:
            return self._spans.reach(start)

    def _write_back(self) -> None:
        """Have bytes written to the medium while others arrive, so that the end need not wait for all of them."""
        written = 0
        try:
            while not self._over and hasattr(os, "fdatasync"):
                with self._changed:
                    self._changed.wait(_LOOK)
                if self.fetched - written >= WRITE_BACK:
                    written = self.fetched
                    os.fdatasync(self._partial.descriptor)
        except OSError as error:  # told once: the synchronisation at the end may find nothing wrong
            self._fail(error)

    def _fetch_parts(self) -> None:
        try:
            while not self._over and self._work:
                self._fetch(*self._work.popleft())
        except (StoreError, IndexError):
            pass  # the caller asks again, in order, and says what is wrong
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that waits, which raises it
            self._fail(error)
        with self._changed:
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        """The first failure is the one to raise: without a journal, say, those after it tell of a missing file."""
        with self._changed:
            if self._failure is None:
                self._failure = error
            self._over = True

    def _fetch(self, start: int, end: int) -> None:
        with self._opened(start, end) as body:
            self._agree(body, start)
            at = start
            for chunk in body:
                if self._over or at >= end:
                    return
                data = chunk[: end - at]
                write_at(self._partial.descriptor, data, at)
                with self._changed:
                    self._spans.add(at, at + len(data))
                    self._partial.grown(self._spans, len(data))
                    self.fetched += len(data)
                at += len(data)
        if at < end:
            raise NetworkError("the connection was closed early", transient=True)

    def _agree(self, body: Body, start: int) -> None:
        """All parts must be of one content, as far as validators tell; the digest tells for certain."""
        with self._changed:
            if not self._known and body.offset == start:
                self._note(body.validator)
                self._known = True
            if body.offset != start or body.validator != self._partial.validator:
                self._over = True
                raise NetworkError("the content changed", transient=True)
