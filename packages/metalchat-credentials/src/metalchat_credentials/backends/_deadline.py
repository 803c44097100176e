"""A call that is given up after a fixed time, whatever it waits for."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Expired(Exception):
    """The call did not end in time; it goes on in a thread that does not keep the process alive."""


class Deadline:
    """Runs calls in a daemon thread. After one was given up, others expire at once for as long as it hangs."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._hanging: threading.Thread | None = None

    def run(self, call: Callable[[], Result]) -> Result:
        """What `call` returns or raises. Raises Expired after `seconds`."""
        if self._hanging is not None and self._hanging.is_alive():
            raise Expired
        outcome: _Outcome[Result] = _Outcome()
        thread = threading.Thread(target=outcome.fill, args=(call,), name="metalchat-keychain", daemon=True)
        thread.start()
        thread.join(self.seconds)
        if thread.is_alive():
            self._hanging = thread
            raise Expired
        if outcome.error is not None:
            raise outcome.error
        return outcome.values[0]


class _Outcome(Generic[Result]):
    def __init__(self) -> None:
        self.values: list[Result] = []
        self.error: BaseException | None = None

    def fill(self, call: Callable[[], Result]) -> None:
        try:
            self.values.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self.error = error
