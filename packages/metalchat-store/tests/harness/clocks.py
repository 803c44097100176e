"""Clocks that are wrong or jump. Usage: clocks.py FOLDER. Prints one JSON line.

`time.time` is two days early, two days late, or jumps in the middle of a pull; the hub has its own clock, so that its
signed addresses look expired, or not yet made, from here. A pull must not care, wait no longer, and delete nothing
that another one needs.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from _common import NAME, TOKEN, authorize, differences, half_models, model, no_sync, report
from metalchat_store import Store
from metalchat_store.testing import FakeHub

DAY = 86400.0
FILES = model(50_000)
REAL = time.time
CLOCKS: dict[str, Callable[[int], float]] = {
    "two days early": lambda _: -2 * DAY,
    "two days late": lambda _: 2 * DAY,
    "ten years late": lambda _: 3650 * DAY,
    "at the epoch": lambda _: -REAL(),
    "jumps back": lambda calls: 0.0 if calls < 4 else -2 * DAY,
    "jumps ahead": lambda calls: 0.0 if calls < 4 else 2 * DAY,
    "swings": lambda calls: DAY * (-1) ** calls,
}
FAULTS: dict[str, dict[str, object]] = {
    "nothing": {},
    "a cut": {"path": "/blob/", "cut": 20_000},
    "a wait by date": {
        "path": "/blob/",
        "status": 503,
        "set": {"Date": "Wed, 21 Oct 2015 07:28:00 GMT", "Retry-After": "Wed, 21 Oct 2015 07:28:02 GMT"},
    },
    "an expired address": {"path": "/blob/", "expire": True},
}


def main() -> None:
    folder = Path(sys.argv[1])
    no_sync()
    wrong: list[str] = []
    cases = 0
    with FakeHub(clock=REAL) as hub:
        hub.add_token(TOKEN, user="alice")
        hub.add_repo(NAME, files=FILES, private=True)
        for clock, shift in CLOCKS.items():
            for fault, rule in FAULTS.items():
                cases += 1
                hub.faults.clear()
                if rule:
                    hub.fault(**rule)
                try:
                    found = trial(folder / f"home-{cases}", hub, shift)
                except Exception as error:  # noqa: BLE001 - reported as what must not happen
                    found = [f"{type(error).__name__}: {error}"]
                wrong += [f"{clock}, {fault}: {text}" for text in found]
    report(cases=cases, wrong=wrong)


def trial(home: Path, hub: FakeHub, shift: Callable[[int], float]) -> list[str]:
    slept: list[float] = []
    calls = 0

    def clock() -> float:
        nonlocal calls
        calls += 1
        return REAL() + shift(calls)

    time.time = clock
    try:
        store = Store(home, environ={}, sleep=slept.append)
        pulled = store.pull(f"{hub.url}/{NAME}", authorize=authorize)
        store.gc()
        found = differences(pulled.entry.path, FILES) + half_models(store)
        found += [] if store.path(pulled.entry.id) == pulled.entry.path else ["another path"]
        again = store.pull(f"{hub.url}/{NAME}", authorize=authorize)
        found += [] if again.already else ["it was pulled twice"]
    finally:
        time.time = REAL
    return found + ([f"pauses of {sum(slept):.0f} s"] if sum(slept) > 10 else [])


if __name__ == "__main__":
    main()
