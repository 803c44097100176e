"""A pull from a hub, from the address to the files in the store, on good and on bad days."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from metalchat_store import Store
from metalchat_store.errors import AccessDenied, IntegrityError, InvalidRepository, NetworkError, StoreError
from metalchat_store.sources import check_address
from metalchat_store.testing import FakeHub
from metalchat_store.testing.hub_server import Weather

TOKEN = "hf_canaryCANARYcanaryCANARYcanary12"
HEADER = json.dumps({"w": {"dtype": "U8", "shape": [9000], "data_offsets": [0, 9000]}}).encode()
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + bytes(range(250)) * 36
FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": WEIGHTS, "tokenizer.json": b"{}"}
SMALL, LARGE = "/resolve-cache/.*config", "/blob/"
REQUESTS = ["/revision/", "/tree/", "/resolve/.*config", SMALL, "/resolve/.*safetensors", LARGE]


@dataclass
class Pulling:
    """A store beside a file that must not change, a hub, and the pauses that a pull made."""

    root: Path
    hub: FakeHub
    slept: list[float] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return Store(self.root / "home", environ={}, sleep=self.slept.append)

    def __call__(self) -> dict[str, bytes]:
        pulled = self.store.pull(f"{self.hub.url}/alice/m", authorize=lambda _: f"Bearer {TOKEN}", progress=self)
        folder = self.store.path(pulled.entry.id)
        return {name: (folder / name).read_bytes() for name in FILES}

    def plan(self, listing: object) -> None:
        return

    def file(self, path: str, done: int, total: int | None) -> None:
        return

    def message(self, text: str) -> None:
        self.messages.append(text)

    def fails(self, kind: type[StoreError] = StoreError) -> StoreError:
        """The error of a pull that leaves no model, no content and no trace outside the store."""
        before = everything(self.root)
        with pytest.raises(kind) as caught:
            self()
        after = everything(self.root)
        assert {path: data for path, data in after.items() if not path.startswith("home/")} == before
        assert not any(path.startswith("home/models/") for path in after)
        assert self.store.list() == ()
        text = str(caught.value)
        assert text.isprintable()
        assert TOKEN not in text + "".join(after) + "".join(self.messages)
        assert not any(TOKEN.encode() in data for data in after.values())
        assert self.hub.seen(TOKEN) == []
        return caught.value

    def blobs(self) -> list[bytes]:
        """The contents that the store keeps, the known small files aside."""
        return [
            data
            for path, data in everything(self.root).items()
            if path.startswith("home/blobs/") and data not in (FILES["config.json"], FILES["tokenizer.json"])
        ]


@pytest.fixture
def pull(tmp_path: Path) -> Iterator[Pulling]:
    (tmp_path / "outside").write_bytes(b"not to be touched")
    with FakeHub() as hub:
        hub.add_token(TOKEN, user="alice")
        hub.add_repo("alice/m", files=FILES | {"README.md": b"# m", "pytorch_model.bin": b"x"}, private=True)
        yield Pulling(tmp_path, hub)


def everything(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_pull_brings_every_file_as_it_is_at_the_hub(pull: Pulling) -> None:
    assert pull() == FILES
    assert pull.slept == []
    assert [request.method for request in pull.hub.requests].count("GET") == len(pull.hub.requests)


def test_a_model_that_was_pulled_is_opened_without_a_connection(pull: Pulling) -> None:
    pull()
    connections, (entry,) = pull.hub.connections, pull.store.list()
    assert pull.store.path(entry.id).is_dir()
    assert pull.store.lookup(f"{pull.hub.url}/alice/m") == entry
    assert pull.store.verify(entry.id).ok
    assert pull.hub.connections == connections


def test_a_second_pull_asks_for_no_file(pull: Pulling) -> None:
    pull()
    pull.hub.requests.clear()
    assert pull() == FILES
    assert [request.path.split("/")[5] for request in pull.hub.requests] == ["revision", "tree"]


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503},
        {"close": True},
        {"cut": 1},
        {"cut": 10, "rst": True},
        {"status": 429, "set": {"Retry-After": "1"}},
        {"status": 429, "set": {"RateLimit": '"api";r=0;t=1'}},
    ],
)
def test_a_fault_that_passes_does_not_end_a_pull(pull: Pulling, path: str, fault: Mapping[str, object]) -> None:
    pull.hub.fault(path=path, **fault)
    assert pull() == FILES
    assert sum(pull.slept) < 3
    assert pull.hub.seen(TOKEN) == []


@pytest.mark.parametrize("path", REQUESTS)
def test_a_fault_that_stays_ends_a_pull_after_five_more_tries(pull: Pulling, path: str) -> None:
    pull.hub.fault(path=path, status=503, times=-1)
    error = pull.fails(NetworkError)
    assert "answered 503" in str(error)
    assert sum(1 for request in pull.hub.requests if request.status == 503) >= 6
    assert sum(pull.slept) <= 30 * len(FILES)


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize(
    ("fault", "codes"),
    [
        ({"status": 429, "set": {"Retry-After": "86400"}}, {5}),
        ({"redirect": "file:///etc/passwd"}, {5}),
        ({"redirect": ""}, {5}),
        ({"garbage": b"\x00junk\r\n\r\n"}, {5}),
        ({"status": 200, "body": b"<html>Log in</html>"}, {5, 6}),
        ({"status": 401}, {3, 5}),
        ({"status": 403}, {3, 5}),
        ({"status": 404}, {4, 5}),
    ],
)
def test_a_fault_of_another_kind_ends_a_pull_at_once(
    pull: Pulling, path: str, fault: Mapping[str, object], codes: set[int]
) -> None:
    pull.hub.fault(path=path, times=-1, **fault)
    error = pull.fails()
    assert error.exit_code in codes
    assert sum(pull.slept) <= 30 or path == LARGE


@pytest.mark.parametrize("path", ["/revision/", "/tree/", SMALL, LARGE])
@pytest.mark.parametrize("fault", [{"set": {"Content-Encoding": "gzip"}}, {"badchunk": True}])
def test_a_body_that_cannot_be_read_ends_a_pull_at_once(pull: Pulling, path: str, fault: Mapping[str, object]) -> None:
    pull.hub.fault(path=path, times=-1, **fault)
    assert pull.fails().exit_code in (5, 6)
    assert pull.slept == []


@pytest.mark.parametrize("at", [0, 1, 4500, len(WEIGHTS) - 1])
@pytest.mark.parametrize("rst", [False, True])
def test_a_pull_goes_on_at_the_byte_where_it_was_cut(pull: Pulling, at: int, rst: bool) -> None:
    pull.hub.fault(path=LARGE, cut=at, rst=rst)
    assert pull() == FILES
    first, second = pull.hub.of("cdn")
    asked = second.header("Range")
    assert asked in ((f"bytes={at}-", None) if rst or at == 0 else (f"bytes={at}-",))
    assert first.sent == at


def test_another_process_goes_on_where_a_pull_gave_up(pull: Pulling) -> None:
    pull.hub.fault(path=LARGE, cut=4000)
    pull.hub.fault(path=LARGE, status=503, times=-1)
    pull.fails(NetworkError)
    pull.hub.faults.clear()
    pull.hub.requests.clear()
    assert pull() == FILES
    (request,) = pull.hub.of("cdn")
    assert (request.header("Range"), request.status, request.sent) == ("bytes=4000-", 206, len(WEIGHTS) - 4000)


def test_a_server_that_ignores_the_range_is_read_from_the_start(pull: Pulling) -> None:
    pull.hub.fault(path=LARGE, cut=4000)
    pull.hub.fault(path=LARGE, norange=True)
    assert pull() == FILES


def test_an_address_that_expires_in_the_middle_is_resolved_anew(pull: Pulling) -> None:
    pull.hub.fault(path=LARGE, cut=4000)
    pull.hub.fault(path=LARGE, expire=True)
    assert pull() == FILES
    assert [request.status for request in pull.hub.of("cdn")] == [200, 403, 206]


@pytest.mark.parametrize("path", [SMALL, LARGE])
@pytest.mark.parametrize("fault", [{"flip": 0}, {"flip": -1}, {"flip": 11}, {"swap": b"{}{}"}])
def test_s4_a_changed_byte_is_found_and_fetched_again_once(
    pull: Pulling, path: str, fault: Mapping[str, object]
) -> None:
    pull.hub.fault(path=path, **fault)
    assert pull() == FILES
    pull.store.remove(pull.store.list()[0].id)
    pull.hub.fault(path=path, times=-1, **fault)
    error = pull.fails(IntegrityError)
    assert "is damaged: expected sha" in str(error) or "is damaged: expected git sha1" in str(error)
    assert pull.blobs() == []


def test_s4_two_files_of_one_size_that_are_swapped_are_found(pull: Pulling) -> None:
    pull.hub.fault(path=LARGE, swap=WEIGHTS[::-1], times=-1)
    pull.fails(IntegrityError)
    assert pull.blobs() == []


@pytest.mark.parametrize("path", [SMALL, LARGE])
@pytest.mark.parametrize(
    "fault",
    [
        {"extra": b"x" * 100},
        {"extra": b"x" * 100_000, "drop": ("Content-Length",)},
        {"body": b"short"},
        {"gzip": True},
        {"bomb": 10_000_000},
    ],
)
def test_more_less_or_compressed_bytes_are_refused(pull: Pulling, path: str, fault: Mapping[str, object]) -> None:
    pull.hub.fault(path=path, times=-1, **fault)
    pull.fails(IntegrityError)
    assert pull.blobs() == []
    assert sum(map(len, everything(pull.root / "home").values())) < 1 << 20


def test_s10_a_branch_that_moves_during_a_pull_changes_nothing(pull: Pulling) -> None:
    moved = {name: data[::-1] for name, data in FILES.items()}
    pull.hub.fault(path="/resolve/", skip=1, commit=("alice/m", moved))
    assert pull() == FILES


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../../outside", "C:\\x", "a\x00b", "con", ".git/x"])
def test_s2_a_name_leads_nowhere_outside_the_store(pull: Pulling, name: str) -> None:
    sha = "0" * 40
    files = [{"type": "file", "oid": sha, "size": 2, "path": path} for path in ("config.json", name)]
    pull.hub.fault(path="/tree/", body=json.dumps(files).encode(), times=-1)
    assert "a file name that is not allowed" in str(pull.fails(IntegrityError))
    assert len(pull.hub.requests) == 2


@pytest.mark.parametrize("value", ["../../outside", "a" * 63 + "/", "A" * 64, "sha256:" + "a" * 64, "", "." * 64])
@pytest.mark.parametrize("place", ["oid", "lfs", "X-Linked-Etag", "X-Repo-Commit"])
def test_s1_an_identity_leads_nowhere_outside_the_store(pull: Pulling, place: str, value: str) -> None:
    if place.startswith("X-"):
        pull.hub.fault(path="/resolve/", set={place: value or '""'}, times=-1)
    else:
        entry: dict[str, object] = {"type": "file", "oid": "0" * 40, "size": 2, "path": "config.json"}
        entry |= {"oid": value} if place == "oid" else {"lfs": {"oid": value, "size": 2, "pointerSize": 1}}
        pull.hub.fault(path="/tree/", body=json.dumps([entry]).encode(), times=-1)
    pull.fails(IntegrityError)


def test_a_token_revoked_in_the_middle_keeps_what_came(pull: Pulling) -> None:
    pull.hub.fault(path=LARGE, cut=4000)
    pull.hub.fault(path="/resolve/.*safetensors", skip=1, status=401, times=-1)
    pull.fails(AccessDenied)
    pull.hub.faults.clear()
    assert pull() == FILES
    assert pull.hub.of("cdn")[-1].header("Range") == "bytes=4000-"


def test_a_pause_that_the_server_asks_for_is_kept_and_told(pull: Pulling) -> None:
    pull.hub.fault(path=LARGE, status=429, set={"Retry-After": "7"})
    assert pull() == FILES
    assert pull.slept == [7.0]
    assert any("has too many requests (429)" in text and "trying again (1 of 5)" in text for text in pull.messages)


@pytest.mark.parametrize("seed", range(3))
def test_a_pull_survives_a_network_that_drops_every_tenth_request(pull: Pulling, seed: int) -> None:
    pull.hub.weather(Weather(drop=0.1), seed=seed)
    assert pull() == FILES


@pytest.mark.parametrize("path", ["", "/", "/a/b/c", "/datasets/a/b", "/a/b?x=1"])
def test_an_address_that_names_no_model_is_refused_before_anything_is_created(tmp_path: Path, path: str) -> None:
    store = Store(tmp_path / "home", environ={})
    for ask in (store.lookup, store.pull, store.plan):
        with pytest.raises(InvalidRepository) as caught:
            ask(f"https://huggingface.co{path}")
        assert caught.value.exit_code == 2
    assert not store.home.exists()
    assert store.lookup("https://huggingface.co/a/b") is None
    with pytest.raises(InvalidRepository, match="expected the address of a dataset"):
        check_address("https://huggingface.co/a/b", kind="dataset", environ={})


def test_a_refused_pull_leaves_nothing_on_its_way(pull: Pulling) -> None:
    repo = pull.hub.state.repos["models", "alice/m"]
    repo.private, repo.gated = False, "manual"
    pull.hub.add_token(TOKEN, user="mallory")
    pull.fails(AccessDenied)
    assert list((pull.root / "home" / "partial").iterdir()) == []
