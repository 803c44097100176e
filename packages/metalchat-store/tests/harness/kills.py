"""Pulls that are killed at random moments. Usage: kills.py FOLDER FIRST_SEED KILLS [MEGABYTES]. Prints one JSON line.

Each pull has a seed; there are as many as it takes until so many were killed before they ended. The hub gives its bytes
slowly, so that most of the time passes while they come. After each kill no half model may be listed, the next pull must
complete, leave nothing behind, and fetch only what had not arrived.
"""

import os
import random
import shutil
import signal
import statistics
import sys
import time
from pathlib import Path

from _common import (
    NAME,
    TOKEN,
    authorize,
    differences,
    half_models,
    holds_token,
    leftovers,
    model,
    no_sync,
    preload,
    report,
)
from _crew import Crew
from metalchat_store import Store, _parts
from metalchat_store.testing import FakeHub
from metalchat_store.testing.hub_wire import Fault, Recorded

_SECONDS = 0.35  # of body bytes in one whole pull


class SlowHub(FakeHub):
    """Its CDN gives `rate` bytes a second while `slow` is set."""

    slow = False
    rate = 1 << 20

    def _take(self, request: Recorded) -> Fault | None:
        if self.slow and request.role == "cdn":
            return Fault(drip=(1 << 16, (1 << 16) / self.rate))
        return super()._take(request)


def pull(home: str, url: str, piece: int) -> None:
    _parts.PIECE = piece
    Store(Path(home), environ={}).pull(url, authorize=authorize)


def main() -> None:
    folder, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    size = int(float(sys.argv[4]) * 1e6) if len(sys.argv) > 4 else 8_000_000
    no_sync()
    files = model(size)
    total = sum(map(len, files.values()))
    preload()
    crew = Crew({"pull": pull})
    wrong: list[str] = []
    shares: list[float] = []
    runs = killed = whole = requests = most = 0
    with SlowHub() as hub:
        hub.add_token(TOKEN, user="alice")
        hub.add_repo(NAME, files=files, private=True)
        url = f"{hub.url}/{NAME}"
        pieces = [size, size // 4]  # one connection, or parts; half the rate for four that share it
        times = []
        for piece in pieces:
            hub.rate, hub.slow = int(size / _SECONDS / (1 if piece == size else 4)), True
            started = time.monotonic()
            crew.run("pull", str(folder / "timed"), url, piece)
            times.append(time.monotonic() - started)
            shutil.rmtree(folder / "timed")
        while killed < count:
            seed, runs = first + runs, runs + 1
            dice = random.Random(seed)
            kind = seed % 2
            home = folder / f"home-{seed}"
            hub.requests.clear()
            hub.rate, hub.slow = int(size / _SECONDS / (1 if kind == 0 else 4)), True
            pid = crew.start("pull", str(home), url, pieces[kind])
            time.sleep(1.05 * dice.random() * times[kind])
            os.kill(pid, signal.SIGKILL)
            killed += crew.wait(pid) == -signal.SIGKILL
            found = []
            try:
                store = Store(home, environ={})
                found += half_models(store)
                whole += len(store.list())
                arrived = sum(request.sent for request in hub.requests if request.role == "cdn")
                parts = list((home / "partial").glob("*.part")) if home.exists() else []
                most = max(most, len(parts))
                found += [f"{len(parts)} partial files"] if len(parts) > len(files) else []
                requests += len(hub.requests)
                hub.requests.clear()
                hub.slow = False
                _parts.PIECE = pieces[kind]
                pulled = store.pull(url, authorize=authorize)
                if arrived > size // 20 and not pulled.already:
                    large = sum(request.sent for request in hub.requests if request.role == "cdn")
                    shares.append(min(1.0, (total_large(files) - large) / arrived))
                found += [] if store.verify(pulled.entry.id).ok else ["the next pull is not whole"]
                found += differences(pulled.entry.path, files) + leftovers(home)
                if seed % 20 == 0:
                    found += holds_token([home])
                found += ["the token reached another server"] if hub.seen(TOKEN) else []
                requests += len(hub.requests)
            except Exception as error:  # noqa: BLE001 - reported as what must not happen
                found.append(f"{type(error).__name__}: {error}")
            wrong += [f"seed {seed}: {text}" for text in found]
            shutil.rmtree(home, ignore_errors=True)
    crew.close()
    report(
        runs=runs,
        killed=killed,
        whole=whole,
        bytes=total,
        requests=requests,
        partial_files=most,
        resumed=statistics.median(shares) if shares else None,
        resumed_low=min(shares, default=None),
        resumable=len(shares),
        wrong=wrong,
    )


def total_large(files: dict[str, bytes]) -> int:
    """Bytes of the files that the CDN gives out."""
    return sum(len(data) for name, data in files.items() if len(data) >= 1024 or name.endswith(".safetensors"))


if __name__ == "__main__":
    main()
