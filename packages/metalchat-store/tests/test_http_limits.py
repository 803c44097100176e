"""Limits of what another computer may cost: size, time, pauses (threats N-7, N-8, N-9)."""

import gzip
import itertools
import re
import tracemalloc
from collections.abc import Callable, Iterator
from email.utils import formatdate

import pytest
from metalchat_store._address import origin_of
from metalchat_store._http import MIB, Head, Http, Limits, busy
from metalchat_store._waiting import TooSlow, asked_pause, duration, paced, within
from metalchat_store.errors import IntegrityError, NetworkError
from metalchat_store.remote import RemoteContext
from metalchat_store.remotes.huggingface import HuggingFaceRemote
from metalchat_store.testing import FakeHub

WEIGHTS = bytes(range(256)) * 20
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add_repo("alice/m", files=FILES)
        yield hub


def ticking(step: float) -> Callable[[], float]:
    """A clock that is `step` seconds later at each look."""
    ticks = itertools.count()
    return lambda: next(ticks) * step


def pulled(hub: FakeHub, http: Http | None = None) -> dict[str, bytes]:
    remote, client = HuggingFaceRemote(), http or Http()
    context = RemoteContext(client=client)
    try:
        listing = remote.list(f"{hub.url}/alice/m", revision=None, context=context)
        contents = {}
        for file in listing.files:
            with remote.read(listing, file, offset=0, context=context) as body:
                contents[file.path] = b"".join(body)
        return contents
    finally:
        client.close()


def test_n7_a_compressed_file_is_refused_before_its_first_byte(hub: FakeHub) -> None:
    hub.fault(role="cdn", bomb=64 * MIB)
    with pytest.raises(IntegrityError, match="safetensors' was sent compressed, which is not allowed"):
        pulled(hub)


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "identity, gzip", "x"])
@pytest.mark.parametrize("role", ["hub", "cdn"])
def test_n7_every_encoding_of_a_file_is_refused(hub: FakeHub, role: str, encoding: str) -> None:
    hub.fault(role=role, path="/(blob|resolve-cache)/", set={"Content-Encoding": encoding})
    with pytest.raises(IntegrityError, match="was sent compressed"):
        pulled(hub)


def test_n7_a_compression_bomb_in_a_file_list_costs_its_limit_and_no_more(hub: FakeHub) -> None:
    hub.fault(path="/tree/", body=gzip.compress(bytes(300 * MIB), 1), set={"Content-Encoding": "gzip"})
    tracemalloc.start()
    try:
        with pytest.raises(NetworkError, match="the answer is larger than 16 MiB"):
            pulled(hub)
        grown = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert grown < 64 * MIB


def test_n7_an_answer_above_one_mebibyte_is_refused(hub: FakeHub) -> None:
    hub.fault(path="/revision/", body=b'"' + b"a" * MIB + b'"')
    with pytest.raises(NetworkError, match="the answer is larger than 1 MiB"):
        pulled(hub)


def test_a_compressed_list_is_understood(hub: FakeHub) -> None:
    hub.fault(path="/(revision|tree)/", gzip=True, times=2)
    assert pulled(hub) == FILES


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", None),
        ("br", None),
        ("gzip", b"\x1f\x8b\x08\x00"),
        ("gzip", gzip.compress(b"[]", mtime=0)[:-1]),
        ("gzip", b""),
    ],
)
def test_an_answer_whose_compression_is_damaged_is_an_error_of_the_network(
    hub: FakeHub, encoding: str, body: bytes | None
) -> None:
    hub.fault(path="/revision/", body=body, set={"Content-Encoding": encoding})
    with pytest.raises(NetworkError, match="cannot be read"):
        pulled(hub)


def test_n8_a_file_that_drips_is_given_up(hub: FakeHub) -> None:
    hub.fault(role="cdn", drip=(1, 0.0001))
    with pytest.raises(NetworkError, match=r"127\.0\.0\.1:\d+ sent less than 1 KiB/s for 60 s") as caught:
        pulled(hub, Http(clock=ticking(10.0)))
    assert caught.value.transient


def test_n8_a_dripping_answer_ends_at_the_deadline(hub: FakeHub) -> None:
    hub.fault(path="/tree/", drip=(1, 0.0001))
    with pytest.raises(NetworkError, match="did not finish its answer within 60 s") as caught:
        pulled(hub, Http(clock=ticking(10.0)))
    assert caught.value.transient


def test_n8_silence_before_the_answer_ends_at_the_deadline(hub: FakeHub) -> None:
    hub.fault(path="/revision/", sleep=30.0)
    with pytest.raises(NetworkError, match="did not answer within 0 s") as caught:
        pulled(hub, Http(limits=Limits(deadline=0.05)))
    assert caught.value.transient


@pytest.mark.parametrize("role", ["hub", "cdn"])
def test_n8_silence_in_the_middle_ends_the_transfer(hub: FakeHub, role: str) -> None:
    hub.fault(role=role, path="/(blob|tree)/", stall_at=20)
    with pytest.raises(NetworkError, match="sent nothing for 0 s") as caught:
        pulled(hub, Http(limits=Limits(silence=0.05)))
    assert caught.value.transient


def test_n8_a_file_without_end_stops_one_chunk_after_its_size(hub: FakeHub) -> None:
    hub.fault(role="cdn", extra=b"x" * MIB, drop=("Content-Length",))
    with pytest.raises(IntegrityError, match=re.escape("sent more of 'model.safetensors' than its 5120 bytes")):
        pulled(hub)


def test_the_time_that_the_reader_takes_is_no_slowness_of_the_sender() -> None:
    now = 0.0
    chunks = paced(iter([b"x"] * 200), clock=lambda: now, rate=1024.0, window=60.0)
    for _ in chunks:
        now += 100.0


def test_the_lowest_rate_is_measured_anew_in_each_window() -> None:
    clock = ticking(30.0)
    good = paced(iter([b"x" * 40_000] * 20), clock=clock, rate=1024.0, window=60.0)
    assert sum(map(len, good)) == 800_000
    bad = paced(itertools.chain([b"x" * MIB] * 2, [b"x"] * 4), clock=clock, rate=1024.0, window=60.0)
    with pytest.raises(TooSlow):
        list(bad)


def test_a_late_result_is_thrown_away() -> None:
    from threading import Event

    go, thrown = Event(), Event()

    def work() -> str:
        go.wait(10)
        return "late"

    with pytest.raises(TimeoutError):
        within(0.01, work, lambda _: thrown.set())
    go.set()
    assert thrown.wait(10)


def head(status: int, **headers: str) -> Head:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Head(url="https://hub.test/x", status=status, headers=named, origin=origin_of("https://hub.test"))


NOW = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("1", 1.0),
        (" 7 ", 7.0),
        ("-1", None),
        ("1.5", None),
        ("abc", None),
        ("", None),
        ("٣", None),
        ("1" * 200, None),
        ("99999999999999999999", 1e20),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2026 07:28:02 GMT", 2.0),
        ("Wed, 21 Oct 2026 07:28:02", 2.0),
        ("Wednesday, 21-Oct-26 07:28:02 GMT", 2.0),
        ("Wed, 41 Oct 2026 07:28:02 GMT", None),
    ],
)
def test_n9_both_forms_of_retry_after_are_understood(text: str, seconds: float | None) -> None:
    assert asked_pause({"retry-after": text, "date": NOW}) == seconds


@pytest.mark.parametrize("shift", [-2 * 86400, 0, 2 * 86400])
def test_n9_a_date_counts_from_the_servers_own_clock(shift: float) -> None:
    import time

    server = time.time() + shift
    headers = {"retry-after": formatdate(server + 5, usegmt=True), "date": formatdate(server, usegmt=True)}
    assert asked_pause(headers) == 5.0


def test_the_pause_of_a_rate_limit_is_understood() -> None:
    assert asked_pause({"ratelimit": '"api";r=0;t=55'}) == 55.0
    assert asked_pause({"ratelimit": '"api";r=3;t=55'}) is None
    assert asked_pause({"ratelimit": '"api";r=0;t=55', "retry-after": "2"}) == 2.0


@pytest.mark.parametrize(
    ("asked", "shown"), [("61", "61 s"), ("1200", "20 min"), ("86400", "24 h"), ("9" * 20, "more than 30 days")]
)
def test_n9_a_pause_above_a_minute_is_final_and_shown(asked: str, shown: str) -> None:
    error = busy(head(429, retry_after=asked))
    assert error is not None
    assert not error.transient
    assert str(error) == f"hub.test asks to wait {shown} (too many requests): try again later"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_not_now_is_transient_and_carries_the_pause(status: int) -> None:
    error = busy(head(status, retry_after="60"))
    assert error is not None
    assert (error.transient, error.retry_after) == (True, 60.0)
    assert "hub.test" in str(error)
    assert str(status) in str(error)


@pytest.mark.parametrize("status", [200, 206, 302, 400, 401, 403, 404, 416])
def test_other_answers_are_not_for_later(status: int) -> None:
    assert busy(head(status)) is None


@pytest.mark.parametrize("path", ["/revision/", "/tree/", "/resolve/", "/resolve-cache/", "/blob/"])
def test_n9_a_day_to_wait_is_said_at_once_wherever_it_is_asked(hub: FakeHub, path: str) -> None:
    hub.fault(path=path, status=429, set={"Retry-After": "86400"}, times=-1)
    with pytest.raises(NetworkError, match=r"asks to wait 24 h \(too many requests\)") as caught:
        pulled(hub)
    assert not caught.value.transient
    assert duration(caught.value.retry_after or 0) == "24 h"
