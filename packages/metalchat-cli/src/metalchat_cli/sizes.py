"""Sizes and durations as people write them."""

import re

from metalchat_cli import errors

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhdw]?)", re.IGNORECASE)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_size(option: str, text: str) -> int:
    """Bytes: `500MB` and `500M` are decimal, `500MiB` is binary, a bare number is bytes.

    Raises:
        Usage: it is none of these.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or len(text) > 32 or (match[3] and not match[2]):
        raise errors.Usage(f"{option} is a size such as 20GB, 500MB or 1.5TiB")
    power = "kmgt".find(match[2].lower()) + 1 if match[2] else 0
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def parse_duration(option: str, text: str) -> float:
    """Seconds, of `90s`, `30m`, `2h`, `7d` or `1w`; a bare number is seconds.

    Raises:
        Usage: it is none of these.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or len(text) > 32:
        raise errors.Usage(f"{option} is a duration such as 30m, 2h or 7d")
    return float(match[1]) * _SECONDS[match[2].lower()]


def size_text(count: int | None) -> str:
    """`1.2 GB`, decimal; `unknown` for None."""
    if count is None:
        return "unknown"
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def count_text(number: int, what: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
