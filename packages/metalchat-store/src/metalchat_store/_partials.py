"""Files on their way into the store, each with a journal that says what it will be.

Every writer has a file of its own, named `<key>~<process id>-<random>.part`. One that a dead process left is taken
over by renaming it, which only one process can do. Nothing is ever truncated: who starts again starts a new file.
"""

import json
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from metalchat_store._files import create, is_link, is_running, open_regular, owner, read_file, remove, write_at
from metalchat_store._hints import SUFFIX as HINT
from metalchat_store._hints import leads_nowhere
from metalchat_store._layout import Layout
from metalchat_store._locks import SUFFIX, discard
from metalchat_store._spans import Span, Spans

_JOURNAL_LIMIT = 1 << 20
_KEEP = 7 * 86400
_WHOLE = [[0, None]]
_BLOCK = 512  # bytes that st_blocks counts in
_MARK = 128 << 10  # bytes after which a journal of ranges is written again


@dataclass(slots=True)
class Partial:
    """An open file, `spans` of which came from an earlier process."""

    path: Path
    descriptor: int
    spans: tuple[Span, ...] = ()
    validator: str | None = None
    ranged: bool = False
    """Whether the file may have holes, so that the journal must say which bytes are there."""
    _record: dict[str, object] = field(default_factory=dict)
    _length: int = 0
    _unmarked: int = 0

    @property
    def journal(self) -> Path:
        """Beside the file: where it comes from, and which ranges it has."""
        return self.path.with_suffix(".json")

    def note(self, facts: Mapping[str, object], validator: str | None, spans: tuple[Span, ...] | None = None) -> None:
        """Write the journal. `spans` are the bytes that are there; None: whatever the file has, without holes."""
        self.validator = validator
        self.ranged = spans is not None
        self._record = {"version": 1, "host": os.uname().nodename, "validator": validator, **facts}
        with suppress(FileNotFoundError):
            self.journal.unlink()
        self._length = 0
        self._write(create(self.journal), spans)

    def grown(self, spans: Spans, count: int) -> None:
        """`count` bytes more are there, a part of `spans`; the journal says so from time to time."""
        self._unmarked += count
        if self._unmarked >= _MARK:
            self.mark(spans)

    def mark(self, spans: Spans) -> None:
        """Let the journal say which bytes are there. One write in place: a kill comes before or after it."""
        self._unmarked = 0
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._write(open_regular(self.journal, flags=flags), spans.spans)

    def _write(self, descriptor: int, spans: tuple[Span, ...] | None) -> None:
        try:
            data = json.dumps(self._record | {"ranges": _WHOLE if spans is None else spans}).encode()
            self._length = max(self._length, len(data))
            write_at(descriptor, data.ljust(self._length), 0)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the file and keep it for the next process."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def leave(self) -> None:
        """Close the file; the next process gets it, unless nothing has arrived."""
        empty = os.fstat(self.descriptor).st_size == 0
        self.close()
        if empty:
            with suppress(OSError):
                self.discard()

    def discard(self) -> None:
        """Close the file and delete it with its journal."""
        self.close()
        for path in (self.path, self.journal):
            with suppress(FileNotFoundError):
                path.unlink()


def begin(layout: Layout, key: str) -> Partial:
    """A new, empty file for `key`."""
    path = layout.temporary(key, "part")
    return Partial(path, create(path))


def resume(layout: Layout, key: str, *, alone: bool) -> Partial | None:
    """Take over the longest file for `key` that nobody writes to any more, and delete the others; None if none.

    `alone`: a working lock on `key` is held, so nobody writes. Otherwise only what a dead process of this computer
    left is taken.
    """
    free: list[tuple[int, Path]] = []
    with os.scandir(layout.partial) as found:
        for item in found:
            if not item.name.startswith(f"{key}~") or not item.name.endswith(".part"):
                continue
            path = layout.partial / item.name
            with suppress(FileNotFoundError):
                facts = path.lstat()
                if stat.S_ISLNK(facts.st_mode):
                    raise is_link(path)
                if alone or _abandoned(path):
                    free.append((_arrived(facts), path))
    best: Partial | None = None
    for _, path in sorted(free, reverse=True):
        if best is None:
            best = _take(layout, key, path)
        else:
            _delete(path)
    return best


def tidy(layout: Layout, keys: frozenset[str]) -> None:
    """Delete what is of no more use: everything of `keys`, all that dead processes left and nobody can resume.

    Files that another pull can resume stay for a week.
    """
    for path in useless(layout, keys, now=time.time()):
        if path.suffix == f".{SUFFIX}":
            discard(path)
        else:
            remove(path)


def useless(layout: Layout, keys: frozenset[str], *, now: float) -> list[Path]:
    """What `tidy` deletes at the time `now`."""
    found: list[Path] = []
    with suppress(FileNotFoundError), os.scandir(layout.partial) as items:
        for item in items:
            pid = owner(item.name)
            key, _, suffix = item.name.partition("~") if pid is not None else item.name.rpartition(".")
            gone = pid is None or pid == os.getpid() or not is_running(pid)
            with suppress(FileNotFoundError):
                if pid is not None and suffix.endswith((".part", ".json")):
                    unusable = gone and (key in keys or item.stat(follow_symlinks=False).st_mtime < now - _KEEP)
                elif pid is None:
                    unusable = suffix in (SUFFIX, HINT) and key in keys
                    unusable |= suffix == HINT and (
                        item.stat(follow_symlinks=False).st_mtime < now - _KEEP or leads_nowhere(layout, key)
                    )
                elif suffix.endswith(".old"):
                    unusable = gone and os.path.lexists(layout.models / key)
                else:
                    unusable = gone and pid != os.getpid()
                if unusable:
                    found.append(layout.partial / item.name)
    return found


def activity(layout: Layout, key: str) -> tuple[int, int | None]:
    """Bytes in all files for `key`, and the process that owns the longest; a sign of life of another pull."""
    total, longest, pid = 0, -1, None
    with suppress(FileNotFoundError), os.scandir(layout.partial) as found:
        for item in found:
            if item.name.startswith(f"{key}~") and item.name.endswith(".part"):
                with suppress(FileNotFoundError):
                    size = _arrived(item.stat(follow_symlinks=False))
                    total += size
                    if size > longest:
                        longest, pid = size, owner(item.name)
    return total, pid


def _take(layout: Layout, key: str, path: Path) -> Partial | None:
    mine = layout.temporary(key, "part")
    try:
        os.rename(path, mine)  # noqa: PTH104 - the fault tests count calls of os
    except FileNotFoundError:
        return None
    with suppress(FileNotFoundError):
        os.rename(path.with_suffix(".json"), mine.with_suffix(".json"))  # noqa: PTH104 - the same
    descriptor = open_regular(mine, flags=os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    facts = os.fstat(descriptor)
    journal = _read(mine.with_suffix(".json"))
    spans = _spans(journal.get("ranges", _WHOLE), facts.st_size)
    if facts.st_nlink != 1 or journal.get("version", 1) != 1 or spans is None:
        Partial(mine, descriptor).discard()
        return None
    validator = journal.get("validator")
    return Partial(
        mine,
        descriptor,
        spans,
        validator if isinstance(validator, str) else None,
        ranged=journal.get("ranges", _WHOLE) != _WHOLE,
        _record={key: value for key, value in journal.items() if key != "ranges"},
        _length=_size(mine.with_suffix(".json")),
    )


def _arrived(facts: os.stat_result) -> int:
    """About how many bytes a file has, the holes between its ranges left out."""
    return min(facts.st_size, facts.st_blocks * _BLOCK)


def _spans(ranges: object, size: int) -> tuple[Span, ...] | None:
    """The ranges of a journal, as far as the file reaches; None for what is no list of ranges in order."""
    found: list[Span] = []
    for item in ranges if isinstance(ranges, list) else [None]:
        start, end = item if isinstance(item, list) and len(item) == 2 else (None, None)
        end = size if end is None else end
        if type(start) is not int or type(end) is not int or not (found[-1][1] if found else 0) <= start <= end:
            return None
        found.append((start, end))
    return Spans((start, min(end, size)) for start, end in found).spans


def _abandoned(path: Path) -> bool:
    pid = owner(path.name)
    here = _read(path.with_suffix(".json")).get("host") == os.uname().nodename
    return here and pid is not None and not is_running(pid)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path) -> dict[str, object]:
    try:
        record = json.loads(read_file(path, _JOURNAL_LIMIT))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _delete(path: Path) -> None:
    for name in (path, path.with_suffix(".json")):
        with suppress(FileNotFoundError):
            name.unlink()
