"""Plays many damaged models in processes that may die, and prints one line of JSON: what came of them.

    run.py FOLDER FIRST_SEED CASES [JOBS]

`wrong` names every case that ended in anything but an answer or an error of one line, with its seed: a traceback, a
death, a hang, or memory that a file of some hundred kilobytes cannot need.
"""

import json
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
PATIENCE = 60.0  # seconds for one case on a busy machine


class Crew:
    """Workers that share the seeds; one that dies is replaced, and goes on after the case that killed it."""

    def __init__(self, folder: Path, first: int, cases: int, jobs: int) -> None:
        self._folder, self._first, self._end, self._jobs = folder, first, first + cases, jobs
        self._guard = threading.Lock()
        self.outcomes: list[dict[str, Any]] = []

    def play(self) -> None:
        threads = [threading.Thread(target=self._worker, args=(job,)) for job in range(self._jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _worker(self, job: int) -> None:
        seed = self._first + job
        while seed < self._end:
            with tempfile.TemporaryDirectory(dir=self._folder) as place, tempfile.TemporaryFile() as errors:
                last, reason = self._one(Path(place), seed, errors)
                if last is None:
                    return
                errors.seek(0)
                tail = errors.read()[-2000:].decode(errors="replace")
            if last < 0:
                raise SystemExit(f"the worker does not start ({reason}): {tail}")
            self._add({"seed": last, "kind": "", "damage": "", "end": "death", "wrong": [f"{reason}: {tail}"]})
            seed = last + self._jobs

    def _one(self, place: Path, seed: int, errors: Any) -> tuple[int | None, str]:
        """The seed in which a worker died, and why; None where it came to its end."""
        arguments = [sys.executable, WORKER, place, seed, self._jobs, self._end]
        process = subprocess.Popen(
            [str(argument) for argument in arguments], stdout=subprocess.PIPE, stderr=errors, text=True, cwd=place
        )
        hung = threading.Event()
        last = -1
        if process.stdout is None:
            raise TypeError("the worker writes to a pipe")
        with process, process.stdout:
            watch = self._watch(process, hung, PATIENCE * 3)
            for line in process.stdout:
                watch.cancel()
                if line.startswith('{"seed"'):
                    record = json.loads(line)
                    if "end" in record:
                        self._add(record)
                    else:
                        last = record["seed"]
                else:
                    self._add({"seed": last, "kind": "", "damage": "", "end": "output", "wrong": [f"printed {line!a}"]})
                watch = self._watch(process, hung, PATIENCE)
            watch.cancel()
        if process.returncode == 0:
            return None, ""
        return last, "it hung" if hung.is_set() else f"exit status {process.returncode}"

    def _watch(self, process: "subprocess.Popen[str]", hung: threading.Event, seconds: float) -> threading.Timer:
        def end() -> None:
            hung.set()
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        return timer

    def _add(self, outcome: dict[str, Any]) -> None:
        with self._guard:
            self.outcomes.append(outcome)
        if outcome["wrong"]:
            print(json.dumps(outcome, indent=1), file=sys.stderr, flush=True)


def main() -> None:
    folder, first, cases = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    crew = Crew(folder, first, cases, int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    crew.play()
    table: dict[str, Counter[str]] = {}
    for outcome in crew.outcomes:
        table.setdefault(outcome["kind"], Counter())[outcome["end"]] += 1
    wrong = [outcome for outcome in crew.outcomes if outcome["wrong"]]
    result = {
        "cases": len({outcome["seed"] for outcome in crew.outcomes}),
        "ends": {kind: dict(ends) for kind, ends in sorted(table.items())},
        "wrong_count": len(wrong),
        "wrong": [{"seed": outcome["seed"], "what": outcome["wrong"][0][-600:]} for outcome in wrong[:50]],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
