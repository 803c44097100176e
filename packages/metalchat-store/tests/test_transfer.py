"""Bytes arrive whole and right, or nothing is kept."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from metalchat_store import DiskError, IncompatibleRemote, IntegrityError, NetworkError, Store
from metalchat_store.testing import MemoryRemote
from metalchat_store.testing.memory import Fault, git_blob_id, tiny_model

URL = "memory://host/org/m"
NAME = "model.safetensors"
FILES = tiny_model()
WEIGHTS = FILES[NAME]
Make = Callable[[MemoryRemote], Store]


class Crash(BaseException):
    """Ends a pull as Ctrl-C does."""


def blobs(home: Path) -> list[Path]:
    return [path for path in (home / "blobs").rglob("*") if path.is_file()]


def partial(home: Path) -> list[Path]:
    """The unfinished files and their journals."""
    return sorted(path for path in (home / "partial").iterdir() if path.suffix != ".hint")


def faulty(*faults: Fault, **options) -> MemoryRemote:
    return MemoryRemote(files=FILES, faults={NAME: list(faults)}, **options)


def interrupted(make_store: Make, remote: MemoryRemote, after: int) -> None:
    """Begin a pull that ends when `after` bytes of the weights have arrived."""

    def stop(name: str, position: int) -> None:
        if name == NAME and position >= after:
            raise Crash

    remote.on_chunk = stop
    with pytest.raises(Crash):
        make_store(remote).pull(URL)


@pytest.mark.parametrize("place", [0, len(WEIGHTS) // 2, len(WEIGHTS) - 1])
@pytest.mark.parametrize("identities", ["sha256", "git"])
def test_S_4_a_flipped_byte_is_fetched_again_once_then_refused(
    make_store: Make, home: Path, place: int, identities: str
) -> None:
    bad = bytearray(WEIGHTS)
    bad[place] ^= 1
    remote = faulty(*[Fault(replace=bytes(bad))] * 2, identities=identities)
    with pytest.raises(IntegrityError) as caught:
        make_store(remote).pull(URL)
    if identities == "sha256":
        kind, good, other = "sha256", hashlib.sha256(WEIGHTS).hexdigest(), hashlib.sha256(bad).hexdigest()
    else:
        kind, good, other = "git sha1", git_blob_id(WEIGHTS), git_blob_id(bytes(bad))
    assert str(caught.value) == (
        f"'{NAME}' is damaged: expected {kind} {good[:6]}…, received {other[:6]}…. Nothing was kept"
    )
    assert [read for read in remote.reads if read[0] == NAME] == [(NAME, 0), (NAME, 0)]
    assert blobs(home) == []
    assert partial(home) == []
    assert make_store(remote).list() == ()


def test_S_4_one_damaged_transfer_is_made_good(make_store: Make, listener) -> None:
    remote = faulty(Fault(replace=b"\0" * len(WEIGHTS)))
    store = make_store(remote)
    assert store.verify(store.pull(URL, progress=listener).entry.id).ok
    assert listener.messages == [f"'{NAME}' arrived damaged; starting over once"]


def test_S_4_swapped_files_are_refused(make_store: Make, home: Path) -> None:
    files = tiny_model(shards=2)
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    remote = MemoryRemote(
        files=files, faults={one: [Fault(replace=files[two])] * 2, two: [Fault(replace=files[one])] * 2}
    )
    with pytest.raises(IntegrityError, match="is damaged"):
        make_store(remote).pull(URL)
    assert blobs(home) == []


def test_S_4_content_swapped_between_two_parts_starts_over_once(make_store: Make) -> None:
    remote = faulty(Fault(cut=100_000, replace=b"\0" * len(WEIGHTS)), validators=False)
    store = make_store(remote)
    assert store.verify(store.pull(URL).entry.id).ok
    assert [offset for name, offset in remote.reads if name == NAME] == [0, 100_000, 0]


def test_a_changed_validator_starts_over_at_once(make_store: Make) -> None:
    remote = faulty(Fault(cut=100_000, replace=b"\0" * len(WEIGHTS)))
    store = make_store(remote)
    assert store.verify(store.pull(URL).entry.id).ok
    assert [offset for name, offset in remote.reads if name == NAME] == [0, 100_000]


@pytest.mark.parametrize("extra", [1, 10_000_000])
def test_never_more_than_the_promised_bytes_are_written(make_store: Make, home: Path, extra: int) -> None:
    highest = 0

    def watch(_name: str, _position: int) -> None:
        nonlocal highest
        for path in partial(home):
            with suppress(FileNotFoundError):  # the small files are finished meanwhile
                highest = max(highest, path.stat().st_size)

    remote = faulty(Fault(replace=WEIGHTS + bytes(extra)))
    remote.on_chunk = watch
    with pytest.raises(IntegrityError, match=rf"^'{NAME}' is longer than the 200,000 bytes that are allowed for it\."):
        make_store(remote).pull(URL)
    assert highest <= len(WEIGHTS)
    assert partial(home) == []


def test_S_11_a_file_of_unknown_size_has_a_limit(make_store: Make) -> None:
    remote = MemoryRemote(files=FILES | {"chat_template.jinja": bytes((1 << 20) + 1)}, sizes=False, identities="none")
    with pytest.raises(IntegrityError, match=r"'chat_template.jinja' is longer than the 1,048,576 bytes"):
        make_store(remote).pull(URL)


def test_S_11_a_file_that_says_it_is_too_large_is_not_asked_for(make_store: Make) -> None:
    remote = MemoryRemote(files=FILES | {"chat_template.jinja": bytes((1 << 20) + 1)})
    with pytest.raises(IntegrityError, match=r"'chat_template.jinja' is larger than the 1 MiB"):
        make_store(remote).pull(URL)
    assert remote.reads == []


@pytest.mark.parametrize("cut", [0, 1, 65536, 100_000, len(WEIGHTS) - 1])
def test_X5_a_broken_connection_goes_on_at_the_byte(make_store: Make, cut: int, pauses: list[float]) -> None:
    remote = faulty(Fault(cut=cut))
    store = make_store(remote)
    pulled = store.pull(URL)
    assert [offset for name, offset in remote.reads if name == NAME] == [0, cut]
    assert pulled.fetched_bytes == pulled.entry.size
    assert store.verify(pulled.entry.id).ok
    assert len(pauses) == 1
    assert 0.8 <= pauses[0] <= 1.2


def test_X6_a_server_that_ignores_the_range_starts_over(make_store: Make) -> None:
    remote = faulty(Fault(cut=100_000), Fault(whole=True))
    store = make_store(remote)
    assert store.verify(store.pull(URL).entry.id).ok


def test_X7_bytes_from_another_place_are_refused(make_store: Make) -> None:
    remote = faulty(Fault(cut=100_000), Fault(start=5), Fault(cut=70_000), Fault(start=5))
    with pytest.raises(IntegrityError, match="the server sent the bytes from 5 on, asked for those from 70000 on"):
        make_store(remote).pull(URL)


def test_a_body_that_ends_early_is_continued(make_store: Make) -> None:
    remote = faulty(Fault(replace=WEIGHTS[:150_000]), validators=False)
    store = make_store(remote)
    assert store.verify(store.pull(URL).entry.id).ok
    assert [offset for name, offset in remote.reads if name == NAME] == [0, 150_000]


def test_tries_end_after_growing_pauses(make_store: Make, pauses: list[float], home: Path, listener) -> None:
    remote = faulty(*[Fault(error=NetworkError("host answered 503", transient=True))] * 9)
    with pytest.raises(NetworkError) as caught:
        make_store(remote).pull(URL, progress=listener)
    assert str(caught.value) == "host answered 503 (tried 6 times)"
    assert [round(pause / middle) for pause, middle in zip(pauses, (1, 2, 4, 8, 8), strict=True)] == [1] * 5
    assert sum(pauses) < 30
    assert listener.messages[0] == f"'{NAME}': host answered 503; trying again (1 of 5)"
    assert blobs(home) != []


def test_progress_makes_a_transfer_patient(make_store: Make, pauses: list[float]) -> None:
    files = tiny_model(size=12 << 20)
    remote = MemoryRemote(files=files, faults={NAME: [Fault(cut=(1 << 20) + 1)] * 9}, chunk=1 << 20)
    make_store(remote).pull(URL)
    assert len(pauses) == 9
    assert max(pauses) <= 1.2


@pytest.mark.parametrize("seconds", [61, 86400, 1e20])
def test_N_9_a_long_wait_is_not_waited(make_store: Make, pauses: list[float], seconds: float) -> None:
    remote = faulty(Fault(error=NetworkError("asks to wait 24 h", transient=True, retry_after=seconds)))
    with pytest.raises(NetworkError, match=r"^asks to wait 24 h$"):
        make_store(remote).pull(URL)
    assert pauses == []


def test_N_9_a_short_wait_is_waited(make_store: Make, pauses: list[float]) -> None:
    make_store(faulty(Fault(error=NetworkError("busy", transient=True, retry_after=30)))).pull(URL)
    assert pauses == [30]


def test_what_is_not_transient_is_not_tried_again(make_store: Make, pauses: list[float]) -> None:
    with pytest.raises(NetworkError, match=r"^no$"):
        make_store(faulty(Fault(error=NetworkError("no")))).pull(URL)
    assert pauses == []


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), NetworkError, "cannot reach memory://host/org/m"),
        (PermissionError(13, "Permission denied"), NetworkError, "cannot reach memory://host/org/m: Permission denied"),
        (ValueError("two\nlines"), IncompatibleRemote, "failed: ValueError: two"),
    ],
)
def test_what_a_remote_raises_by_accident_is_translated(make_store: Make, error, kind, text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        make_store(faulty(*[Fault(error=error)] * 6)).pull(URL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("identities", ["sha256", "git"])
def test_an_interrupted_pull_goes_on_in_another_store(make_store: Make, home: Path, identities: str) -> None:
    interrupted(make_store, MemoryRemote(files=FILES, identities=identities), 131072)
    assert [path.suffix for path in partial(home)] == [".json", ".part"]
    assert make_store(MemoryRemote(files=FILES)).list() == ()
    remote = MemoryRemote(files=FILES, identities=identities)
    store = make_store(remote)
    pulled = store.pull(URL)
    assert [offset for name, offset in remote.reads if name == NAME] == [131072]
    if identities == "sha256":
        assert pulled.fetched_bytes == len(WEIGHTS) - 131072
    assert store.verify(pulled.entry.id).ok
    assert partial(home) == []


def test_a_prefix_that_was_damaged_on_disk_is_found(make_store: Make, home: Path) -> None:
    interrupted(make_store, MemoryRemote(files=FILES), 131072)
    part = partial(home)[1]
    part.write_bytes(b"\0" * 131072)
    remote = MemoryRemote(files=FILES)
    store = make_store(remote)
    assert store.verify(store.pull(URL).entry.id).ok
    assert [offset for _, offset in remote.reads] == [131072, 0]


def test_a_partial_file_that_is_too_long_is_thrown_away(make_store: Make, home: Path) -> None:
    interrupted(make_store, MemoryRemote(files=FILES), 131072)
    partial(home)[1].write_bytes(b"\0" * 300_000)
    remote = MemoryRemote(files=FILES)
    make_store(remote).pull(URL)
    assert remote.reads == [(NAME, 0)]


def test_without_identity_and_validator_nothing_is_resumed(make_store: Make) -> None:
    options = {"identities": "none", "validators": False}
    interrupted(make_store, MemoryRemote(files=FILES, **options), 131072)
    remote = MemoryRemote(files=FILES, faults={NAME: [Fault(cut=50_000)]}, **options)
    make_store(remote).pull(URL)
    assert [offset for name, offset in remote.reads if name == NAME] == [0, 0]


def test_the_journal_holds_ranges(make_store: Make, home: Path) -> None:
    import json

    interrupted(make_store, MemoryRemote(files=FILES), 65536)
    journal, part = partial(home)
    record = json.loads(journal.read_text())
    assert record["ranges"] == [[0, None]]
    assert (record["version"], record["path"], record["size"]) == (1, NAME, len(WEIGHTS))
    assert record["validator"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert part.name.startswith(hashlib.sha256(WEIGHTS).hexdigest() + "~")


def test_a_journal_of_another_kind_is_not_trusted(make_store: Make, home: Path) -> None:
    interrupted(make_store, MemoryRemote(files=FILES), 65536)
    partial(home)[0].write_text('{"version": 1, "ranges": [[100, 200], [0, 10]]}')
    remote = MemoryRemote(files=FILES)
    make_store(remote).pull(URL)
    assert remote.reads == [(NAME, 0)]


def test_a_commit_that_moves_keeps_what_is_the_same(make_store: Make, home: Path) -> None:
    interrupted(make_store, MemoryRemote(files=FILES, commit="c1"), 131072)
    remote = MemoryRemote(files=FILES | {"config.json": b'{"model_type": "llama"}'}, commit="c2")
    assert make_store(remote).pull(URL).entry.commit == "c2"
    assert (NAME, 131072) in remote.reads


def test_a_full_disk_is_not_taken_for_a_network_error(make_store: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os
    from contextlib import contextmanager

    class Greedy(MemoryRemote):
        @contextmanager
        def read(self, *args, **options):
            try:
                with super().read(*args, **options) as body:
                    yield body
            except OSError as error:
                raise NetworkError("wrong", transient=True) from error

    def pwrite(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(DiskError, match="input/output error"):
        make_store(Greedy(files=FILES)).pull(URL)


def test_a_remote_that_fails_on_leaving_is_translated(make_store: Make) -> None:
    from contextlib import contextmanager

    class Leaving(MemoryRemote):
        @contextmanager
        def read(self, *args, **options):
            with super().read(*args, **options) as body:
                yield body
            raise RuntimeError("late")

    with pytest.raises(IncompatibleRemote, match="failed: RuntimeError: late"):
        make_store(Leaving(files=FILES)).pull(URL)
