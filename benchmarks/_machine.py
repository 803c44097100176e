"""What a figure depends on besides the code: machine, load, commit and versions."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def circumstances(packages: tuple[str, ...]) -> dict[str, str]:
    """One line each: date, machine, system, load, commit, and the versions of Python and `packages`."""
    found = {name: _version(name) for name in packages}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {_memory()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load": load(),
        "commit": _commit(),
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {version}" for name, version in found.items())]
        ),
    }


def load(*, own: float = 0.0) -> str:
    """The load averages, and a warning where others keep the machine busy; `own` is what the benchmark is worth."""
    averages = os.getloadavg()
    text = " ".join(f"{value:.2f}" for value in averages)
    busy = averages[0] - own > (os.cpu_count() or 1) / 2
    return f"{text} (BUSY: others are using this machine, run again later)" if busy else text


def load_afterwards() -> str:
    """The same at a benchmark's end: it has kept all processors busy itself."""
    return load(own=os.cpu_count() or 1)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        named = _output("sysctl", "-n", "machdep.cpu.brand_string")
        if named:
            return named
    return platform.processor() or platform.machine()


def _memory() -> str:
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"


def _commit() -> str:
    commit = _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    if not commit:
        return "unknown"
    installed = find_spec("metalchat_cli")
    if installed is None or installed.origin is None or not Path(installed.origin).is_relative_to(ROOT):
        return f"{commit} of the benchmark; the packages are not those of its tree"
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no", "--", "packages")
    return f"{commit} with uncommitted changes in packages/" if changed else commit


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
