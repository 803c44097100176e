"""Processes that are forked from one without threads, so that the one that starts them may have some."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping

Task = Callable[..., object]


class Crew:
    """Runs named functions of JSON arguments, each in a process of its own. Made before the first thread."""

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._write)
            os.close(self._read)
            _serve(tasks, to_read, to_write)
            os._exit(0)
        os.close(to_read)
        os.close(to_write)
        self._answers = os.fdopen(self._read, "r", encoding="utf-8")

    def start(self, task: str, *args: object) -> int:
        """The id of a new process that does `task`."""
        return int(self._ask(["start", task, *args]))

    def wait(self, pid: int) -> int:
        """The exit status of a process: 0, 1 after an exception that nobody expected, or minus the signal."""
        return int(self._ask(["wait", pid]))

    def run(self, task: str, *args: object) -> int:
        """Start and wait."""
        return self.wait(self.start(task, *args))

    def close(self) -> None:
        """End the process that forks."""
        os.close(self._write)
        self._answers.close()
        os.waitpid(self._pid, 0)

    def _ask(self, words: list[object]) -> str:
        os.write(self._write, json.dumps(words).encode() + b"\n")
        return self._answers.readline()


def _serve(tasks: Mapping[str, Task], to_read: int, to_write: int) -> None:
    with os.fdopen(to_read, "r", encoding="utf-8") as commands:
        for line in commands:
            kind, *words = json.loads(line)
            if kind == "wait":
                answer = os.waitstatus_to_exitcode(os.waitpid(words[0], 0)[1])
            else:
                answer = os.fork()
                if answer == 0:
                    try:
                        tasks[words[0]](*words[1:])
                    except BaseException:  # noqa: BLE001 - the parent looks at the exit status
                        traceback.print_exc(file=sys.stderr)
                        os._exit(1)
                    os._exit(0)
            os.write(to_write, f"{answer}\n".encode())


def wait_until(done: Callable[[], bool], seconds: float) -> bool:
    """Whether `done` came true in time."""
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True
