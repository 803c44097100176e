"""A large file comes in several parts at once, and goes on where each of them stopped."""

import errno
import json
import os
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metalchat_store import DiskError, NetworkError, Store, _partials, _parts
from metalchat_store._files import create
from metalchat_store._spans import Spans
from metalchat_store.testing import MemoryRemote
from metalchat_store.testing.memory import Fault, tiny_model

URL = "memory://host/org/m"
NAME = "model.safetensors"
PIECE = 300_000
FILES = tiny_model(size=1_900_000)
SIZE = len(FILES[NAME])
PIECES = [(start, min(start + PIECE, SIZE)) for start in range(0, SIZE, PIECE)]
Make = Callable[[MemoryRemote], Store]


class Crash(BaseException):
    """Ends a pull as Ctrl-C does."""


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_parts, "PIECE", PIECE)


def remote(*faults: Fault, **options) -> MemoryRemote:
    return MemoryRemote(files=FILES, faults={NAME: list(faults)}, **options)


def asked(remote: MemoryRemote) -> list[int]:
    return sorted(offset for name, offset in remote.reads if name == NAME)


def interrupted(make_store: Make, after: int) -> MemoryRemote:
    """A pull that ends when some part gets to `after`."""

    def stop(name: str, position: int) -> None:
        if name == NAME and position >= after:
            raise Crash

    there = remote(on_chunk=stop)
    with pytest.raises(Crash):
        make_store(there).pull(URL)
    return there


@pytest.mark.parametrize("identities", ["sha256", "git"])
def test_every_part_is_asked_for_once_and_the_whole_is_right(make_store: Make, identities: str) -> None:
    there = remote(identities=identities)
    store = make_store(there)
    pulled = store.pull(URL)
    assert asked(there) == [start for start, _ in PIECES]
    assert pulled.fetched_bytes == pulled.entry.size
    assert store.verify(pulled.entry.id).ok


def test_a_small_file_comes_in_one_piece(make_store: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_parts, "PIECE", SIZE // 2 + 1)
    there = remote()
    make_store(there).pull(URL)
    assert asked(there) == [0]


def test_what_is_shown_grows_to_the_size(make_store: Make, listener) -> None:
    make_store(remote()).pull(URL, progress=listener)
    shown = [done for name, done, total in listener.files if name == NAME and total == SIZE]
    assert shown == sorted(shown)
    assert shown[-1] == SIZE


def test_parts_that_break_are_completed_in_order(make_store: Make, pauses: list[float]) -> None:
    there = remote(*[Fault(cut=70_000)] * 4)
    store = make_store(there)
    pulled = store.pull(URL)
    assert store.verify(pulled.entry.id).ok
    assert pulled.fetched_bytes == pulled.entry.size
    assert pauses == []


def test_where_every_connection_fails_the_pauses_are_the_usual_ones(make_store: Make, pauses: list[float]) -> None:
    there = remote(*[Fault(error=NetworkError("host answered 503", transient=True))] * 30)
    with pytest.raises(NetworkError, match=r"^host answered 503 \(tried 6 times\)$"):
        make_store(there).pull(URL)
    assert [round(pause / middle) for pause, middle in zip(pauses, (1, 2, 4, 8, 8), strict=True)] == [1] * 5


def test_a_server_without_parts_is_read_once_from_the_start(make_store: Make) -> None:
    there = remote(*[Fault(whole=True)] * 20)
    store = make_store(there)
    assert store.verify(store.pull(URL).entry.id).ok
    assert asked(there).count(0) <= 5


def test_content_that_changes_between_parts_is_found_and_fetched_anew(make_store: Make) -> None:
    other = FILES[NAME][::-1]
    there = remote(Fault(), Fault(replace=other), Fault(replace=other))
    store = make_store(there)
    assert store.verify(store.pull(URL).entry.id).ok


def test_without_validators_the_digest_finds_mixed_parts(make_store: Make, listener) -> None:
    there = remote(Fault(), Fault(replace=FILES[NAME][::-1]), validators=False)
    store = make_store(there)
    assert store.verify(store.pull(URL, progress=listener).entry.id).ok
    assert f"'{NAME}' arrived damaged; starting over once" in listener.messages


@pytest.mark.parametrize("after", [65536, 300_000 + 131072, 1_500_000])
def test_an_interrupted_pull_goes_on_in_every_part(make_store: Make, home: Path, after: int) -> None:
    interrupted(make_store, after)
    # A part beyond `after` may have ended the pull before any byte came; then nothing is left of it.
    journals = [path for path in (home / "partial").iterdir() if path.suffix == ".json"]
    assert len(journals) <= 1
    ranges = [span for journal in journals for span in json.loads(journal.read_text())["ranges"]]
    arrived = sum(end - start for start, end in ranges)
    there = remote()
    store = make_store(there)
    pulled = store.pull(URL)
    assert store.verify(pulled.entry.id).ok
    assert pulled.fetched_bytes == SIZE - arrived
    assert list((home / "partial").iterdir()) == []


def test_the_gaps_of_an_interrupted_pull_are_filled_without_parts_too(
    make_store: Make, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    interrupted(make_store, 1_500_000)
    monkeypatch.setattr(_parts, "PIECE", SIZE)
    there = remote()
    store = make_store(there)
    pulled = store.pull(URL)
    assert store.verify(pulled.entry.id).ok
    assert pulled.fetched_bytes < SIZE
    assert list((home / "partial").iterdir()) == []


def test_a_remote_without_parts_starts_over(make_store: Make, home: Path) -> None:
    interrupted(make_store, 1_500_000)
    inner = MemoryRemote(files=FILES)

    class Plain:
        list, read = inner.list, inner.read

    store = make_store(Plain())
    assert store.verify(store.pull(URL).entry.id).ok


def test_damage_in_an_island_is_found(make_store: Make, home: Path) -> None:
    interrupted(make_store, 1_500_000)
    (part,) = (path for path in (home / "partial").iterdir() if path.suffix == ".part")
    (journal,) = (path for path in (home / "partial").iterdir() if path.suffix == ".json")
    start, _ = json.loads(journal.read_text())["ranges"][-1]
    with part.open("r+b") as file:
        file.seek(start)
        file.write(bytes(100))
    store = make_store(remote())
    assert store.verify(store.pull(URL).entry.id).ok


@pytest.mark.parametrize(
    "ranges", [[[5, 2]], [[0, 10], [5, 20]], [[0]], [["a", 1]], [[-1, 3]], {"0": 1}, 7, None, [[0, True]]]
)
def test_a_journal_with_other_ranges_is_not_trusted(make_store: Make, home: Path, ranges: object) -> None:
    interrupted(make_store, 1_500_000)
    (journal,) = (path for path in (home / "partial").iterdir() if path.suffix == ".json")
    journal.write_text(json.dumps({"version": 1, "ranges": ranges}))
    there = remote()
    make_store(there).pull(URL)
    assert asked(there) == [start for start, _ in PIECES]


def test_a_disk_that_fails_in_a_part_ends_the_pull(make_store: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if offset >= 2 * PIECE:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(DiskError, match="input/output error"):
        make_store(remote()).pull(URL)


@pytest.mark.skipif(not hasattr(os, "fdatasync"), reason="the system writes back by itself")
def test_a_disk_that_fails_while_parts_are_written_back_ends_the_pull(
    make_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells of it once, so the synchronisation at the end would find nothing wrong."""
    written = threading.Event()

    def fdatasync(_descriptor: int) -> None:
        written.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def hold(_name: str, position: int) -> None:
        if position > SIZE // 2:
            written.wait(30)

    monkeypatch.setattr(_parts, "WRITE_BACK", 1)
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    there = remote(on_chunk=hold)
    with pytest.raises(DiskError, match="input/output error"):
        make_store(there).pull(URL)
    monkeypatch.undo()
    store = make_store(remote())
    assert store.verify(store.pull(URL).entry.id).ok


@pytest.mark.parametrize("shards", [1, 2])
def test_a_journal_that_cannot_be_written_is_what_the_error_says(
    make_store: Make, home: Path, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    written: set[Path] = set()

    def full(path: Path) -> int:
        if path.suffix == ".json" and path in written:  # the answer's validator is to be noted
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.add(path)
        return create(path)

    monkeypatch.setattr(_partials, "create", full)
    monkeypatch.setattr(_parts, "PIECE", 40_000)
    there = MemoryRemote(files=tiny_model(size=200_000 * shards, shards=shards))
    with pytest.raises(DiskError, match="full"):
        make_store(there).pull(URL)
    monkeypatch.undo()
    store = make_store(there)
    assert store.verify(store.pull(URL).entry.id).ok


def test_a_body_that_fails_in_an_unknown_way_is_asked_for_in_order(make_store: Make) -> None:
    class Odd(MemoryRemote):
        @contextmanager
        def read_part(self, *args, **options):
            raise ValueError("no parts today")
            yield

    there = Odd(files=FILES)
    store = make_store(there)
    assert store.verify(store.pull(URL).entry.id).ok
    assert asked(there) == [0]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60))), st.integers(1, 70))
def test_spans_are_a_set_of_bytes(pairs: list[tuple[int, int]], piece: int) -> None:
    bytes_there = {at for start, end in pairs for at in range(start, end)}
    spans = Spans(pairs)
    assert {at for start, end in spans.spans for at in range(start, end)} == bytes_there
    assert spans.total == len(bytes_there)
    assert all(left[1] < right[0] for left, right in zip(spans.spans, spans.spans[1:], strict=False))
    missing = [at for start, end in spans.gaps(60, piece) for at in range(start, end)]
    assert missing == [at for at in range(60) if at not in bytes_there]
    assert all(0 < end - start <= piece for start, end in spans.gaps(60, piece))
    for at in range(60):
        assert spans.reach(at) == next(end for end in range(at, 62) if end not in bytes_there)
