"""How often and after which pauses a failing server is asked again."""

import random
from collections.abc import Callable

from metalchat_store.errors import NetworkError

PAUSES = (1.0, 2.0, 4.0, 8.0, 8.0)
LONGEST_WAIT = 60.0
PROGRESS = 1 << 20  # bytes after which the count of failures starts again


class Backoff:
    """Counts the failures of one transfer and sleeps between the tries."""

    def __init__(self, *, sleep: Callable[[float], None], message: Callable[[str], None]) -> None:
        self._sleep = sleep
        self._message = message
        self._failures = 0
        self._received = 0

    def progressed(self, count: int) -> None:
        """`count` bytes more arrived."""
        self._received += count
        if self._received >= PROGRESS:
            self._failures = self._received = 0

    def failed(self, what: str, error: NetworkError) -> None:
        """Sleep before the next try, or raise `error` if there is none.

        There is none for what is not transient, after five tries without progress, and where the server asks for more
        than a minute.
        """
        asked = error.retry_after or 0.0
        if not error.transient or asked > LONGEST_WAIT:
            raise error
        if self._failures == len(PAUSES):
            raise NetworkError(f"{error} (tried {self._failures + 1} times)") from error
        pause = PAUSES[self._failures] * (0.8 + 0.4 * random.random())  # noqa: S311 - spreads load, keeps no secret
        self._failures += 1
        self._received = 0
        self._message(f"{what}: {error}; trying again ({self._failures} of {len(PAUSES)})")
        self._sleep(max(asked, pause))
