"""How long another computer is waited for: deadlines, the lowest acceptable rate, pauses that servers ask for."""

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

T = TypeVar("T")

LONGEST_PAUSE = 60.0
_RATE_LIMIT = re.compile(r";\s*r=0\s*;\s*t=([0-9]{1,6})\b")


class TooSlow(Exception):
    """Less than the lowest acceptable rate arrived; never leaves the package."""


def within(
    seconds: float, call: Callable[[], T], discard: Callable[[T], None], *, alive: Callable[[], object] = lambda: None
) -> T:
    """The result of `call`, or `TimeoutError` after `seconds` during which the value of `alive` did not change.

    `call` runs in a thread of its own, since a read timeout starts anew with each byte of a dripping server. A result
    that comes too late is given to `discard`.
    """
    guard = threading.Lock()
    late = False
    result: list[T] = []
    error: list[BaseException] = []

    def work() -> None:
        try:
            value = call()
        except BaseException as failure:  # noqa: BLE001 - handed over to the waiting thread, which raises it
            error.append(failure)
            return
        with guard:
            if not late:
                result.append(value)
                return
        discard(value)

    worker = threading.Thread(target=work, name="metalchat-request", daemon=True)
    worker.start()
    sign: object = alive
    try:
        while worker.is_alive() and sign != (sign := alive()):
            worker.join(seconds)
    finally:
        with guard:
            late = not result
    if error:
        raise error[0]
    if not result:
        raise TimeoutError
    return result[0]


def paced(chunks: Iterator[bytes], *, clock: Callable[[], float], rate: float, window: float) -> Iterator[bytes]:
    """`chunks` unchanged; `TooSlow` when fewer than `rate` bytes a second came during `window` seconds of waiting.

    Only the time spent waiting for a chunk counts, not what the caller does between two of them.
    """
    waited, received = 0.0, 0
    while True:
        began = clock()
        chunk = next(chunks, None)
        if chunk is None:
            return
        waited += clock() - began
        received += len(chunk)
        if waited >= window:
            if received < rate * waited:
                raise TooSlow
            waited, received = 0.0, 0
        yield chunk


def asked_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, from `Retry-After` in either form, else from `RateLimit`; None if neither.

    A date is taken relative to the answer's own `Date`, so that a wrong clock of this computer does not matter.
    What is not a whole number of seconds or a date counts as absent.
    """
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,100}", text):
        return float(text)
    then = _date(text)
    if then is not None:
        now = _date(headers.get("date", "")) or datetime.now(UTC)
        return max(0.0, (then - now).total_seconds())
    limited = _RATE_LIMIT.search(headers.get("ratelimit", ""))
    return float(limited[1]) if limited else None


def duration(seconds: float) -> str:
    """`90 s`, `20 min`, `24 h` or `more than 30 days`."""
    if seconds > 30 * 86400:
        return "more than 30 days"
    if seconds >= 7200:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
