"""Every fault of a network at every request of a pull. Usage: network.py FOLDER SEED EVERY. Prints one JSON line.

Each fault is met once, and for ever. Each pull must end in a whole model or in an error of one line, within the pauses
that the back-off allows; what fails leaves no model, and the next pull must complete. `slowest` is told, not judged.
`EVERY` n takes each n-th of the combinations, in an order that `SEED` shuffles.
"""

import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

from _common import NAME, TOKEN, authorize, differences, half_models, holds_token, model, no_sync, problem_of, report
from metalchat_store import Store
from metalchat_store._http import Http, Limits
from metalchat_store.testing import FakeHub

_LIMITS = Limits(connect=1.0, silence=0.3, deadline=0.6, window=0.3, rate=1024.0)

FAULTS: dict[str, dict[str, object]] = {
    **{f"status {status}": {"status": status} for status in (400, 401, 403, 404, 408, 410, 416, 418, 429, 451)},
    **{f"status {status}": {"status": status} for status in (500, 502, 503, 504, 507, 301, 204)},
    **{
        f"429, wait {value}": {"status": 429, "set": {"Retry-After": value}}
        for value in ("0", "1", "-1", "1.5", "abc", "86400", "9" * 20, "Wed, 21 Oct 2015 07:28:00 GMT")
    },
    **{
        f"wait {hours} h by date": {
            "status": 503,
            "set": {"Date": "Wed, 21 Oct 2015 07:28:00 GMT", "Retry-After": f"Wed, 21 Oct 2015 {7 + hours}:28:02 GMT"},
        }
        for hours in (0, 12)
    },
    "close": {"close": True},
    "cut at 0": {"cut": 0},
    "cut at 1": {"cut": 1},
    "cut at 9": {"cut": 9},
    "reset": {"cut": 20, "rst": True},
    "reset at once": {"cut": 0, "rst": True},
    "more": {"extra": b"x"},
    "much more": {"extra": b"x" * 300_000, "drop": ("Content-Length",)},
    "more than said": {"extra": b"x" * 10, "lie": True},
    "endless": {"extra": b" " * 20_000_000, "drop": ("Content-Length",)},
    "first byte": {"flip": 0},
    "last byte": {"flip": -1},
    "other content": {"swap": b"{}{}{}{}"},
    "short": {"body": b"{}"},
    "empty": {"body": b""},
    "web page": {"body": b"<html>Log in</html>", "set": {"Content-Type": "text/html"}},
    "list": {"body": b"[]"},
    "null": {"body": b"null"},
    "drip": {"drip": (1, 0.05)},
    "stall at 0": {"stall_at": 0},
    "stall at 7": {"stall_at": 7},
    "slow": {"sleep": 1.0},
    "garbage": {"garbage": b"\x00\xffjunk\r\n\r\n"},
    "not HTTP": {"garbage": b"220 smtp ready\r\n"},
    "bad chunk": {"badchunk": True},
    "no range": {"norange": True},
    "range of others": {"range_lie": True},
    "gzip": {"gzip": True},
    "bomb": {"bomb": 50_000_000},
    "says gzip": {"set": {"Content-Encoding": "gzip"}},
    "says br": {"set": {"Content-Encoding": "br"}},
    "expired": {"expire": True},
    "to a file": {"redirect": "file:///etc/passwd"},
    "to nowhere": {"redirect": ""},
    "to itself": {"redirect": "{itself}"},
    "to evil": {"redirect": "{evil}/x"},
    "to evil with a name": {"redirect": "http://u:p@{evil_host}/x"},
    "to evil without scheme": {"redirect": "//{evil_host}/x"},
    "to a script": {"redirect": "javascript:alert(1)"},
    "to http": {"redirect": "http://example.test/x"},
    "to a long address": {"redirect": "/" + "a" * 70_000},
    "other commit": {"set": {"X-Repo-Commit": "2" * 40}},
    "no commit": {"drop": ("X-Repo-Commit",)},
    "path as identity": {"set": {"X-Linked-Etag": '"../../../outside"', "ETag": '"../../../outside"'}},
    "no identity": {"drop": ("X-Linked-Etag", "ETag")},
    "other size": {"set": {"X-Linked-Size": "7"}},
    "huge size": {"set": {"X-Linked-Size": "9" * 19}},
    "size that is none": {"set": {"X-Linked-Size": "-1"}},
    "other length": {"set": {"Content-Length": "7"}},
    "two lengths": {"set": {"Content-Length": ("7", "8")}},
    "a challenge": {"status": 401, "set": {"WWW-Authenticate": 'Bearer realm="{evil}/token"'}},
    "a link to evil": {"set": {"Link": '<{evil}/p>; rel="next"'}},
    "a link to itself": {"set": {"Link": '<{itself}>; rel="next"'}},
    "a cookie": {"set": {"Set-Cookie": "a=b"}},
    "large header": {"set": {"X-Large": "x" * 90_000}},
    "many headers": {"set": {"X-Many": ("x",) * 200}},
}
FILES = model(30_000)


class Trial:
    """A hub and a home for each of the combinations."""

    def __init__(self, folder: Path, hub: FakeHub) -> None:
        self._folder = folder
        self._hub = hub
        self._url = f"{hub.url}/{NAME}"
        self._targets: list[tuple[str, str]] = []
        self._number = 0
        self.slowest = 0.0  # seconds of a pull that met a fault

    def requests(self) -> list[str]:
        """The targets of a pull that nothing disturbs, without what changes each time."""
        self._hub.requests.clear()
        self._pull(self._folder / "clean", [])
        shutil.rmtree(self._folder / "clean")
        return [request.path for request in self._hub.requests]

    def run(self, name: str, at: str, times: int) -> tuple[str, list[str]]:
        """How a pull with that fault ends, and what is wrong with it."""
        self._number += 1
        home = self._folder / f"home-{self._number}"
        self._hub.faults.clear()
        self._hub.fault(path=f"^{at}(?:[?]|$)", times=times, **self._filled(FAULTS[name], at))
        slept: list[float] = []
        messages: list[str] = []
        started = time.monotonic()
        found: list[str] = []
        try:
            pulled = self._pull(home, slept, messages)
            found += differences(pulled, FILES)
            outcome = "pulled"
        except Exception as error:  # noqa: BLE001 - what is raised is what is looked at
            problem = problem_of(error)
            found += [problem] if problem else []
            outcome = f"exit {getattr(error, 'exit_code', '?')}"
            found += ["a failed pull left a model"] if Store(home, environ={}).list() else []
        self.slowest = max(self.slowest, time.monotonic() - started)
        found += [f"pauses of {sum(slept):.0f} s"] if sum(slept) > 62 * 6 * 2 or max(slept, default=0) > 60 else []
        found += ["the token is in a message"] if any(TOKEN in text for text in messages) else []
        self._hub.faults.clear()
        try:
            self._pull(home, slept)
            found += half_models(Store(home, environ={}))
            if left := [path.name for path in (home / "partial").iterdir()]:
                found.append(f"left in partial: {left}")
        except Exception as error:  # noqa: BLE001 - reported as what must not happen
            found.append(f"the next pull: {type(error).__name__}: {error}")
        found += holds_token([home])
        shutil.rmtree(home, ignore_errors=True)
        return outcome, [f"{name} at {at} x{times}: {text}" for text in found]

    def _pull(self, home: Path, slept: list[float], messages: list[str] | None = None) -> Path:
        client = Http(limits=_LIMITS)
        try:
            listener = Listener([] if messages is None else messages)
            store = Store(home, environ={}, sleep=slept.append, client=client)
            return store.pull(self._url, authorize=authorize, progress=listener).entry.path
        finally:
            client.close()

    def _filled(self, fault: dict[str, object], at: str) -> dict[str, object]:
        host = self._hub.evil_url.removeprefix("http://")

        def fill(value: object) -> object:
            if isinstance(value, str):
                return value.replace("{evil}", self._hub.evil_url).replace("{evil_host}", host).replace("{itself}", at)
            return {key: fill(item) for key, item in value.items()} if isinstance(value, dict) else value

        return {key: fill(value) for key, value in fault.items()}


class Listener:
    """Keeps the messages of a pull."""

    def __init__(self, messages: list[str]) -> None:
        self._messages = messages

    def plan(self, listing: object) -> None:
        return

    def file(self, path: str, done: int, total: int | None) -> None:
        return

    def message(self, text: str) -> None:
        self._messages.append(text)


def main() -> None:
    folder, seed, every = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    no_sync()
    wrong: list[str] = []
    outcomes: Counter[str] = Counter()
    (folder / "outside").write_text("not to be touched")
    with FakeHub() as hub:
        hub.add_token(TOKEN, user="alice")
        hub.add_repo(NAME, files=FILES, private=True)
        trial = Trial(folder, hub)
        places = trial.requests()
        combinations = [(name, at, times) for name in FAULTS for at in places for times in (1, -1)]
        random.Random(seed).shuffle(combinations)
        chosen = combinations[::every]
        requests = 0
        for name, at, times in chosen:
            hub.requests.clear()
            outcome, found = trial.run(name, at, times)
            outcomes[outcome] += 1
            requests += len(hub.requests)
            found += [f"{name} at {at}: the token reached another server"] if hub.seen(TOKEN) else []
            wrong += found
    wrong += [] if (folder / "outside").read_text() == "not to be touched" else ["a file outside was changed"]
    report(
        faults=len(FAULTS), places=len(places), cases=len(chosen), of=len(combinations), outcomes=outcomes,
        requests=requests, slowest=trial.slowest, wrong=wrong,
    )  # fmt: skip


if __name__ == "__main__":
    main()
