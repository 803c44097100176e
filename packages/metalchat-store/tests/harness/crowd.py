"""Many processes on one store. Usage: crowd.py locks|nolocks|stops|history FOLDER COUNT SEED. Prints one JSON line.

`locks`: all pull one model at once. `nolocks`: the same where flock does nothing. `stops`: some are stopped, continued
and killed meanwhile. `history`: each pulls, opens, verifies, lists, collects and removes, and a checker looks at the
times: no opening that began after a pull had ended, and before any removal began, may have failed.
"""

import fcntl
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from _common import (
    NAME,
    TOKEN,
    authorize,
    half_models,
    holds_token,
    leftovers,
    model,
    no_sync,
    preload,
    problem_of,
    report,
)
from _crew import Crew
from metalchat_store import ModelNotFound, Store, StoreError
from metalchat_store.testing import FakeHub

_OPERATIONS = ("pull", "path", "path", "path", "verify", "list", "gc", "remove")


def wait_for(go: str) -> None:
    while not Path(go).exists():
        time.sleep(0.002)


def pull(home: str, url: str, go: str) -> None:
    wait_for(go)
    store = Store(Path(home), environ={})
    entry = store.pull(url, authorize=authorize).entry
    if not store.verify(entry.id).ok or store.path(entry.id) != entry.path:
        raise AssertionError("the pulled model is not whole")


def pull_without_locks(home: str, url: str, go: str) -> None:
    fcntl.flock = lambda _descriptor, _operation: None
    pull(home, url, go)


def mixed(home: str, url: str, go: str, log: str, seed: int, count: int) -> None:
    wait_for(go)
    dice = random.Random(seed)
    store = Store(Path(home), environ={})
    with Path(log).open("w") as file:
        for _ in range(count):
            operation = dice.choice(_OPERATIONS)
            began, said = time.monotonic(), ""
            try:
                perform(store, operation, url)
            except BaseException as error:  # noqa: BLE001 - what is raised is what is looked at
                code = getattr(error, "exit_code", None)
                said = problem_of(error) or f"exit code {code}: {error}"
                kind = "bad" if problem_of(error) else str(code)
            else:
                kind = "ok"
            file.write(json.dumps([operation, began, time.monotonic(), kind, said]) + "\n")


def perform(store: Store, operation: str, url: str) -> None:
    if operation == "pull":
        store.pull(url, authorize=authorize)
    elif operation == "path":
        folder = store.path("alice/m")
        try:
            json.loads((folder / "config.json").read_bytes())
        except FileNotFoundError:  # the checker decides whether a removal explains that
            raise ModelNotFound("it is gone") from None
    elif operation == "verify":
        store.verify("alice/m")
    elif operation == "list":
        store.list()
    elif operation == "gc":
        store.gc()
    else:
        store.remove("alice/m")


@dataclass(frozen=True, slots=True)
class Event:
    """One call of one process."""

    operation: str
    began: float
    ended: float
    kind: str
    said: str


def impossible(events: list[Event]) -> list[str]:
    """What the history says must not have happened."""
    found = [f"{event.operation}: {event.said}" for event in events if event.kind == "bad"]
    pulls = [event for event in events if event.operation == "pull" and event.kind == "ok"]
    removals = [event for event in events if event.operation == "remove"]
    for event in events:
        if event.operation == "pull" and event.kind != "ok":
            found.append(f"a pull failed: {event.said}")
        if event.operation not in ("path", "verify") or event.kind == "ok":
            continue
        if event.kind == "6":
            found.append(f"{event.operation} found damage: {event.said}")
        before = [one for one in pulls if one.ended < event.began]
        if before:
            last = max(one.began for one in before)
            if not any(one.ended > last and one.began < event.ended for one in removals):
                found.append(f"{event.operation} failed while the model was there: {event.said}")
    return found


def main() -> None:
    kind, folder, count, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    no_sync()
    preload()
    home, go = folder / "home", folder / "go"
    files = model(400_000, seed=seed)
    crew = Crew({"pull": pull, "pull_without_locks": pull_without_locks, "mixed": mixed})
    wrong: list[str] = []
    facts: dict[str, object] = {}
    with FakeHub() as hub:
        hub.add_token(TOKEN, user="alice")
        hub.add_repo(NAME, files=files, private=True)
        hub.fault(role="cdn", drip=(1 << 15, 0.01), times=-1)
        url = f"{hub.url}/{NAME}"
        if kind == "history":
            logs = [folder / f"log-{number}" for number in range(count)]
            pids = [
                crew.start("mixed", str(home), url, str(go), str(log), seed * 1000 + number, 12)
                for number, log in enumerate(logs)
            ]
        else:
            task = "pull_without_locks" if kind == "nolocks" else "pull"
            pids = [crew.start(task, str(home), url, str(go)) for _ in range(count)]
        go.touch()
        killed = disturb(pids, random.Random(seed)) if kind == "stops" else frozenset()
        statuses = {pid: crew.wait(pid) for pid in pids}
        crew.close()
        bad = {status for pid, status in statuses.items() if status != 0 and pid not in killed}
        wrong += [f"processes ended with {sorted(bad)}"] if bad else []
        bodies = Counter(
            request.path.rpartition("/")[2]
            for request in hub.requests
            if request.status in (200, 206) and ("/blob/" in request.path or "resolve-cache" in request.path)
        )
        facts["most_bodies"] = max(bodies.values(), default=0)
        if kind == "locks" and set(bodies.values()) != {1}:
            wrong.append(f"bodies were asked for more than once: {dict(bodies)}")
        if kind == "history":
            events = [Event(*json.loads(line)) for log in logs for line in log.read_text().splitlines()]
            facts["events"] = len(events)
            facts["kinds"] = Counter(f"{event.operation} {event.kind}" for event in events)
            wrong += impossible(events)
        store = Store(home, environ={})
        try:
            wrong += half_models(store)
            store.pull(url, authorize=authorize)
            wrong += half_models(store)
            if kind != "nolocks":
                wrong += leftovers(home)
        except StoreError as error:
            wrong.append(f"afterwards: {error}")
        wrong += holds_token([home])
        wrong += ["the token reached another server"] if hub.seen(TOKEN) else []
        facts["requests"] = len(hub.requests)
    report(processes=count, killed=len(killed), wrong=wrong, **facts)


def disturb(pids: list[int], dice: random.Random) -> frozenset[int]:
    """Stop and continue processes at random; kill a quarter of them."""
    killed: set[int] = set()
    for _ in range(3 * len(pids)):
        pid = dice.choice(pids)
        if pid in killed:
            continue
        choice = dice.random()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.02 * dice.random())
        os.kill(pid, signal.SIGCONT)
        if choice < 0.1 and len(killed) < len(pids) // 4:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    return frozenset(killed)


if __name__ == "__main__":
    main()
