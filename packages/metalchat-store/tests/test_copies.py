"""Files of repositories in folders of the user's own."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from metalchat_store import (
    Copied,
    DiskError,
    IntegrityError,
    InvalidRepository,
    NetworkError,
    Refused,
    RepositoryNotFound,
    Store,
    copy_repository,
)
from metalchat_store.testing import FakeHub, MemoryRemote
from metalchat_store.testing.memory import Fault, tiny_model

DATA = {
    "README.md": b"# d\n",
    "data/train/0.csv": b"a,b\n" * 2000,
    "data/test/0.csv": b"a,b\n" * 1000,
    "data/test/same.csv": b"a,b\n" * 1000,
    "script.py": b"print()\n",
}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add_repo("alice/d", kind="datasets", files=DATA)
        hub.add_repo("alice/s", kind="spaces", files={"app.py": b"1"})
        hub.add_repo("alice/m", files=tiny_model(size=50_000))
        yield hub


def copy(hub: FakeHub, home: Path, to: Path, address: str = "datasets/alice/d", **options: object) -> Copied:
    kind = {"datasets": "dataset", "spaces": "space"}.get(address.partition("/")[0], "model")
    options = {"environ": {}, "kind": kind, "sleep": lambda _seconds: None} | options
    return copy_repository(home, f"{hub.url}/{address}", to, **options)  # type: ignore[arg-type]


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def blobs(home: Path) -> list[Path]:
    return [path for path in home.rglob("blobs/sha256/*/*") if path.is_file()]


def fetched(hub: FakeHub) -> int:
    return sum(request.sent for request in hub.requests if "/blob/" in request.path or "resolve-cache" in request.path)


def test_a_copy_has_every_file_and_the_store_keeps_nothing(hub: FakeHub, home: Path, tmp_path: Path) -> None:
    done = copy(hub, home, tmp_path / "to")
    assert tree(tmp_path / "to") == DATA
    assert (set(done.files), done.skipped) == (set(DATA), ())
    assert done.commit == hub.state.repos["datasets", "alice/d"].refs["refs/heads/main"]
    assert done.fetched_bytes == sum(map(len, DATA.values())) - 4000
    assert blobs(home) == []
    assert not (home / "models").exists()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_copied_files_are_the_users_own(hub: FakeHub, home: Path, tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        copy(hub, home, tmp_path / "to")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    for path in (tmp_path / "to").rglob("*.csv"):
        facts = path.stat()
        assert (facts.st_mode & 0o777, facts.st_nlink) == (0o666 & ~mask, 1)
        assert path.parent.stat().st_mode & 0o777 == 0o777 & ~mask


def test_S_7_a_folder_on_a_small_disk_is_known_before_the_first_byte(
    hub: FakeHub, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, real = tmp_path / "to", shutil.disk_usage
    to.mkdir()

    def usage(path: Path) -> object:
        return SimpleNamespace(free=10_000) if path == to else real(path)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    copy(hub, home, to / "on" / "the" / "same")
    monkeypatch.setattr("metalchat_store.copies._disk", lambda path: int(path == to))
    hub.requests.clear()
    with pytest.raises(DiskError, match=f"^not enough disk space in {to}: 0.0 MB needed, 0.0 MB free$"):
        copy(hub, home, to / "new")
    assert fetched(hub) == 0
    assert list(to.iterdir()) == [to / "on"]


def test_a_second_copy_fetches_nothing(hub: FakeHub, home: Path, tmp_path: Path) -> None:
    copy(hub, home, tmp_path / "to")
    hub.requests.clear()
    again = copy(hub, home, tmp_path / "to")
    assert (again.files, set(again.skipped), again.fetched_bytes) == ((), set(DATA), 0)
    assert fetched(hub) == 0


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"files": ["data/test/0.csv"]}, {"data/test/0.csv"}),
        ({"include": ["data/train"]}, {"data/train/0.csv"}),
        ({"include": ["*.csv"], "exclude": ["data/test"]}, {"data/train/0.csv"}),
        ({"exclude": ["data", "*.py"]}, {"README.md"}),
    ],
)
def test_files_are_chosen_by_name_and_pattern(
    hub: FakeHub, home: Path, tmp_path: Path, options: dict[str, object], names: set[str]
) -> None:
    assert set(copy(hub, home, tmp_path / "to", **options).files) == names
    assert tree(tmp_path / "to").keys() == names


def test_a_file_that_is_not_there_is_an_error(hub: FakeHub, home: Path, tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFound, match="'datasets/alice/d' has no such file: 'none'"):
        copy(hub, home, tmp_path / "to", files=["none"])
    assert not (tmp_path / "to").exists()


def test_without_patterns_a_copy_of_a_model_is_what_a_pull_would_fetch(
    hub: FakeHub, home: Path, tmp_path: Path
) -> None:
    copy(hub, home, tmp_path / "to", "alice/m")
    assert "model.safetensors" in tree(tmp_path / "to")
    assert "pytorch_model.bin" not in tree(tmp_path / "to")
    copy(hub, home, tmp_path / "other", "alice/m", files=["picture.png"])
    assert tree(tmp_path / "other").keys() == {"picture.png"}
    assert Store(home, environ={}).list() == ()


def test_what_the_store_has_is_not_fetched_and_stays(hub: FakeHub, home: Path, tmp_path: Path) -> None:
    store = Store(home, environ={})
    id = store.pull(f"{hub.url}/alice/m").entry.id
    hub.requests.clear()
    assert copy(hub, home, tmp_path / "to", "alice/m").fetched_bytes == 0
    assert fetched(hub) == 0
    assert store.verify(id).ok
    (tmp_path / "to" / "config.json").write_bytes(b"mine")
    assert store.verify(id).ok


def test_a_differing_file_is_kept_unless_force_is_used(hub: FakeHub, home: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "script.py").write_bytes(b"mine")
    with pytest.raises(Refused, match=r"script\.py' exists and differs .*: use --force, or another --to") as caught:
        copy(hub, home, tmp_path / "to")
    assert caught.value.exit_code == 8
    assert tree(tmp_path / "to") == {"script.py": b"mine"}
    assert fetched(hub) == 0
    copy(hub, home, tmp_path / "to", force=True)
    assert tree(tmp_path / "to") == DATA


def test_one_of_the_same_size_differs_too(hub: FakeHub, home: Path, tmp_path: Path) -> None:
    copy(hub, home, tmp_path / "to")
    for name in ("script.py", "data/train/0.csv"):
        path = tmp_path / "to" / name
        content = path.read_bytes()
        path.write_bytes(content[:-2] + b"x" + content[-1:])
        with pytest.raises(Refused, match="exists and differs"):
            copy(hub, home, tmp_path / "to")
        copy(hub, home, tmp_path / "to", force=True)
        assert path.read_bytes() == content


@pytest.mark.parametrize("force", [False, True])
def test_S_3_nothing_is_written_through_links(hub: FakeHub, home: Path, tmp_path: Path, force: bool) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "private").mkdir()
    (tmp_path / "to" / "data").symlink_to(tmp_path / "private")
    with pytest.raises(Refused, match=r"data' is not a folder"):
        copy(hub, home, tmp_path / "to", force=force)
    assert list((tmp_path / "private").iterdir()) == []
    (tmp_path / "to" / "data").unlink()
    (tmp_path / "private" / "file").write_bytes(b"private")
    (tmp_path / "to" / "script.py").symlink_to(tmp_path / "private" / "file")
    if force:
        copy(hub, home, tmp_path / "to", force=True)
        assert not (tmp_path / "to" / "script.py").is_symlink()
    else:
        with pytest.raises(Refused, match="exists and differs"):
            copy(hub, home, tmp_path / "to")
    assert (tmp_path / "private" / "file").read_bytes() == b"private"


def test_a_folder_in_the_place_of_a_file_is_never_replaced(hub: FakeHub, home: Path, tmp_path: Path) -> None:
    (tmp_path / "to" / "script.py").mkdir(parents=True)
    with pytest.raises(Refused, match=r"script\.py' is a folder"):
        copy(hub, home, tmp_path / "to", force=True)


def test_a_file_in_the_place_of_the_folder_is_one_line(hub: FakeHub, home: Path, tmp_path: Path) -> None:
    (tmp_path / "to").write_bytes(b"")
    with pytest.raises(DiskError) as caught:
        copy(hub, home, tmp_path / "to")
    assert "\n" not in str(caught.value)


def test_damaged_content_never_reaches_the_folder(hub: FakeHub, home: Path, tmp_path: Path) -> None:
    hub.fault(role="cdn", flip=5, times=-1)
    with pytest.raises(IntegrityError, match="is damaged"):
        copy(hub, home, tmp_path / "to", include=["data"])
    assert tree(tmp_path / "to") == {}
    assert blobs(home) == []


def test_an_interrupted_copy_goes_on_at_the_byte(hub: FakeHub, home: Path, tmp_path: Path) -> None:
    hub.fault(role="cdn", cut=5000)
    hub.fault(role="cdn", status=404, times=-1)
    with pytest.raises(NetworkError):
        copy(hub, home, tmp_path / "to", files=["data/train/0.csv"])
    hub.faults.clear()
    hub.requests.clear()
    copy(hub, home, tmp_path / "to", files=["data/train/0.csv"])
    assert fetched(hub) < 4000
    assert tree(tmp_path / "to") == {"data/train/0.csv": DATA["data/train/0.csv"]}


@pytest.mark.parametrize("call", ["rename", "replace", "fchmod"])
def test_a_copy_that_is_killed_leaves_whole_files_and_the_next_one_completes(
    hub: FakeHub, home: Path, tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = getattr(os, call), []

    def stop(*arguments: object, **options: object) -> object:
        if any(str(tmp_path / "to") in str(argument) for argument in arguments) or call == "fchmod":
            seen.append(call)
            if len(seen) == 3:
                raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, stop)
    with pytest.raises(KeyboardInterrupt):
        copy(hub, home, tmp_path / "to")
    monkeypatch.undo()
    assert all(DATA[name] == content for name, content in tree(tmp_path / "to").items())
    copy(hub, home, tmp_path / "to")
    assert tree(tmp_path / "to") == DATA


def test_leftovers_of_a_killed_copy_are_swept(hub: FakeHub, home: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / ".metalchat~999999999-0000aaaa.tmp").write_bytes(b"x")
    copy(hub, home, tmp_path / "to")
    assert tree(tmp_path / "to") == DATA


def test_the_kind_and_the_address_agree(hub: FakeHub, home: Path, tmp_path: Path) -> None:
    for address, kind in (("datasets/alice/d", "model"), ("alice/m", "dataset"), ("spaces/alice/s", "dataset")):
        with pytest.raises(InvalidRepository, match=f"expected the address of a {kind}"):
            copy(hub, home, tmp_path / "to", address, kind=kind)
    assert hub.requests == []


def test_files_of_this_computer_are_copied_and_not_shared(home: Path, tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a.txt").write_bytes(b"a")
    address = (tmp_path / "from").as_uri()
    done = copy_repository(home, address, tmp_path / "to", kind="dataset", environ={})
    assert done.files == ("a.txt",)
    assert (tmp_path / "to" / "a.txt").stat().st_ino != (tmp_path / "from" / "a.txt").stat().st_ino
    assert blobs(home) == []


def test_content_that_vanishes_meanwhile_is_fetched_again(home: Path, tmp_path: Path) -> None:
    from metalchat_store import copies

    remote = MemoryRemote(files={"a": b"1" * 100, "b": b"2" * 100})
    real, calls = copies._show, []

    def show(blob: Path, *arguments: object, **options: object) -> None:
        calls.append(blob)
        if len(calls) == 2:
            blob.unlink()
        real(blob, *arguments, **options)  # type: ignore[arg-type]

    copies._show = show  # type: ignore[assignment]
    try:
        copy_repository(
            home, "memory://h/d", tmp_path / "to", kind="dataset", environ={}, remotes={"memory": lambda: remote}
        )
    finally:
        copies._show = real
    assert tree(tmp_path / "to") == remote.files
    assert sorted(name for name, _ in remote.reads) in (["a", "a", "b"], ["a", "b", "b"])


def test_a_network_that_fails_at_first_is_tried_again(home: Path, tmp_path: Path) -> None:
    remote = MemoryRemote(files={"a": b"1" * 100}, faults={"a": [Fault(cut=10)]})
    copy_repository(
        home, "memory://h/d", tmp_path / "to", kind="dataset", environ={}, remotes={"memory": lambda: remote},
        sleep=lambda _seconds: None,
    )  # fmt: skip
    assert remote.reads == [("a", 0), ("a", 10)]
