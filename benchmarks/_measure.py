"""Runs of several programs in turn, and what is left of their durations once drift has cancelled."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The values of all runs of one measure; `median` stands for them, the quartiles say how far they spread."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile; of a single run, that run."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        first, _, third = statistics.quantiles(self.values, n=4, method="inclusive")
        return first, third


def sample(*values: float) -> Sample:
    return Sample(values=values)


def alternate(measures: Mapping[str, Callable[[], T]], *, runs: int, warm_up: int = 1) -> dict[str, list[T]]:
    """Every measure `runs` times, one after the other and the next round in the opposite order.

    What slows the machine down for a while slows all of them down. The first `warm_up` rounds, which write bytecode and
    fill the file cache, are not kept.
    """
    found: dict[str, list[T]] = {name: [] for name in measures}
    for turn in range(warm_up + runs):
        for name in list(measures)[:: -1 if turn % 2 else 1]:
            value = measures[name]()
            if turn >= warm_up:
                found[name].append(value)
        _say(f"\rround {turn + 1} of {warm_up + runs}")
    _say("\r\x1b[K")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Seconds from before a process is spawned until it has ended, and those that it had a processor."""

    wall: float
    processor: float


def spent(command: Sequence[str], *, environment: Mapping[str, str], directory: Path) -> Spent:
    """What a whole process takes. Raises RuntimeError where it does not end well."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {process.returncode}")
    return Spent(wall=wall, processor=usage.ru_utime + usage.ru_stime)


def first_byte(command: Sequence[str], *, after: bytes, environment: Mapping[str, str], directory: Path) -> float:
    """From before a process is spawned until its output goes on after `after`; waits for its end, untimed.

    Raises RuntimeError where it does not end well, or says nothing.
    """
    found: float | None = None
    said = b""
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while data := os.read(process.stdout.fileno(), 65536):
            said += data
            begun = said.find(after)
            if found is None and begun >= 0 and len(said) > begun + len(after):
                found = time.perf_counter() - started
        complaint = process.stderr.read().decode(errors="replace")
    if process.returncode or found is None:
        raise RuntimeError(f"{' '.join(command)}: exit status {process.returncode}: {complaint}")
    return found


def clean_environment(**changes: str) -> dict[str, str]:
    """The environment of a person who has set nothing for Python or metalchat, with `changes`.

    Bytecode is kept, as pip keeps it when it installs: PYTHONDONTWRITEBYTECODE would have packages that were installed
    from a working tree compiled anew at every start.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "METALCHAT_"))}
    return kept | changes


def script(name: str) -> str:
    """The path of an installed console script of this Python. Raises SystemExit where it is not installed."""
    path = Path(sys.executable).with_name(name)
    if not path.is_file():
        raise SystemExit(f"'{name}' is not installed beside {sys.executable}; run this with: hatch run bench:...")
    return str(path)


def cache_directory() -> Path:
    """Where benchmarks keep what is slow to make."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "metalchat-benchmarks"


def _say(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(text)
        sys.stderr.flush()
