"""What this machine has: its cores, its memory, and whether MLX will find a GPU; told without importing MLX."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_STREAMS = 16

_LEFT = 20  # one part in so many is left to the rest of the machine


def default_threads() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, MAX_STREAMS)


def expects_cpu() -> bool:
    """Whether MLX will have no GPU."""
    if sys.platform == "darwin":
        return False
    from importlib import metadata

    for distribution in ("mlx-cuda-12", "mlx-cuda-13"):
        try:
            metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        return False
    return True


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that a process may still take: what the system and every control group around it have left.

    All memory where the system does not say what is left (macOS), None where it says nothing. A twentieth is held back.
    """
    found = [limit for limit in (_left_by_linux(root), *_left_by_groups(root)) if limit is not None]
    least = min(found) if found else _physical()
    return None if least is None else least - least // _LEFT


def gpu_memory() -> int | None:
    """Bytes that MLX says a GPU may be given. This imports MLX."""
    import mlx.core as mx

    if not mx.is_available(mx.gpu):
        return None
    facts = mx.device_info(mx.gpu)
    for name in ("max_recommended_working_set_size", "total_memory", "memory_size"):
        value = facts.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _left_by_linux(root: Path) -> int | None:
    for line in _lines(root / "proc/meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _left_by_groups(root: Path) -> Iterator[int | None]:
    """What each control group of this process has left, both versions; file pages count as free."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, name = line.split(":", 2)
        if not controllers:
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            base = root / "sys/fs/cgroup/memory"
        else:
            continue
        folder = base / name.lstrip("/")
        while folder.is_relative_to(base):
            yield _left_by_group(folder, *names)
            folder = folder.parent


def _left_by_group(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    most, used = _number(folder / limit), _number(folder / usage)
    if most is None or used is None:
        return None
    free = [
        int(value)
        for name, _, value in (line.partition(" ") for line in _lines(folder / "memory.stat"))
        if name == reclaimable
    ]
    return max(most - used + sum(free), 0)


def _number(file: Path) -> int | None:
    found = _lines(file)
    return int(found[0]) if found and found[0].isdigit() else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
