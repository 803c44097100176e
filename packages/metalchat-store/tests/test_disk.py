"""Disks that are full, read-only or tampered with."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from metalchat_store import DiskError, Repositories, Store
from metalchat_store._files import disk_errors
from metalchat_store.testing import MemoryRemote
from metalchat_store.testing.memory import tiny_model

Make = Callable[[MemoryRemote], Store]
URL = "memory://host/org/m"


class Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def test_S_7_too_little_space_is_said_before_the_first_byte(make_store: Make, home: Path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(12_300_000))
    remote = MemoryRemote(files=tiny_model(size=39_603_834))
    with pytest.raises(DiskError) as caught:
        make_store(remote).pull(URL)
    assert str(caught.value) == f"not enough disk space in {home}: 40.0 MB needed, 12.3 MB free"
    assert caught.value.exit_code == 7
    assert remote.reads == []


def test_S_7_bytes_that_are_there_already_need_no_space(make_store: Make, monkeypatch) -> None:
    make_store(MemoryRemote(files=tiny_model())).pull(URL)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(0))
    assert make_store(MemoryRemote(files=tiny_model())).pull(URL + "2").fetched_bytes == 0


def test_S_7_space_that_vanishes_meanwhile_is_the_same_error_and_keeps_the_rest(
    make_store: Make, home: Path, monkeypatch
) -> None:
    real = os.pwrite
    written = 0

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal written
        written += len(data)
        if written > 150_000:
            monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(1000))
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(DiskError) as caught:
        make_store(MemoryRemote(files=tiny_model())).pull(URL)
    assert str(caught.value) == f"not enough disk space in {home}: 0.2 MB needed, 0.0 MB free"
    monkeypatch.undo()
    assert max(path.stat().st_size for path in (home / "partial").iterdir()) > 100_000
    remote = MemoryRemote(files=tiny_model())
    make_store(remote).pull(URL)
    assert remote.reads[-1][1] > 100_000


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EROFS, "cannot write to /x/y: read-only file system"),
        (errno.EACCES, "cannot write to /x/y: permission denied"),
        (errno.EMFILE, "too many open files: raise the limit with 'ulimit -n'"),
        (errno.ELOOP, "'/x/y' is a link, which is not allowed in the model store"),
        (
            errno.EFBIG,
            "cannot write to /x/y: a file may not be as large there ('ulimit -f' and the kind of file system "
            "say how large)",
        ),
        (errno.EIO, "cannot write to /x/y: input/output error"),
        (errno.ENAMETOOLONG, "cannot write to /x/y: file name too long"),
        (errno.ENOENT, "cannot read /x/y: no such file or directory"),
        (errno.EINVAL, "cannot read /x/y: invalid argument"),
    ],
)
def test_S_7_every_failure_of_the_disk_is_one_line(tmp_path: Path, code: int, words: str) -> None:
    with pytest.raises(DiskError) as caught, disk_errors(tmp_path):
        raise OSError(code, os.strerror(code), "/x/y")
    assert str(caught.value) == words


def test_S_7_who_only_reads_is_told_of_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    store, kept = Store(tmp_path, environ={}), Repositories(tmp_path, "dataset", environ={})
    monkeypatch.setattr(os, "listdir", refuse)
    for ask in (
        store.list,
        lambda: store.find("a"),
        lambda: store.lookup("memory://host/a"),
        lambda: store.path("a"),
        lambda: store.verify("a"),
        lambda: store.history("a"),
        lambda: store.why("a" * 64),
        store.pinned,
        store.usage,
        kept.list,
        lambda: kept.path("a"),
    ):
        with pytest.raises(DiskError, match=r"^cannot read .*: permission denied$"):
            ask()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_S_7_a_quota_is_a_full_disk(tmp_path: Path, code: int) -> None:
    with pytest.raises(DiskError, match=f"^not enough disk space in {tmp_path}: "), disk_errors(tmp_path):
        raise OSError(code, os.strerror(code))


@pytest.mark.parametrize("name", ["blobs", "blobs/sha256", "models", "snapshots", "partial"])
def test_S_3_a_link_in_place_of_a_folder_is_refused(make_store: Make, home: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (home / name).parent.mkdir(parents=True, exist_ok=True)
    (home / name).symlink_to(elsewhere)
    with pytest.raises(DiskError) as caught:
        make_store(MemoryRemote(files=tiny_model())).pull(URL)
    assert str(caught.value) == f"'{home / name}' is a link, which is not allowed in the model store"
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("suffix", ["lock", "part", "blob"])
def test_S_3_a_link_in_place_of_a_file_is_refused(make_store: Make, home: Path, tmp_path: Path, suffix: str) -> None:
    import hashlib

    files = tiny_model()
    key = hashlib.sha256(files["model.safetensors"]).hexdigest()
    target = tmp_path / "target"
    target.write_text("mine")
    path = {
        "lock": home / "partial" / f"{key}.lock",
        "part": home / "partial" / f"{key}~1-00000000.part",
        "blob": home / "blobs" / "sha256" / key[:2] / key[2:],
    }[suffix]
    path.parent.mkdir(parents=True)
    path.symlink_to(target)
    with pytest.raises(DiskError) as caught:
        make_store(MemoryRemote(files=files)).pull(URL)
    assert str(caught.value) == f"'{path}' is a link, which is not allowed in the model store"
    assert target.read_text() == "mine"


def test_S_3_a_partial_file_with_a_second_name_is_not_written_to(make_store: Make, home: Path, tmp_path: Path) -> None:
    import hashlib

    files = tiny_model()
    key = hashlib.sha256(files["model.safetensors"]).hexdigest()
    target = tmp_path / "target"
    target.write_text("mine")
    (home / "partial").mkdir(parents=True)
    os.link(target, home / "partial" / f"{key}~1-00000000.part")
    make_store(MemoryRemote(files=files)).pull(URL)
    assert target.read_text() == "mine"


def test_S_3_a_link_in_place_of_a_manifest_is_not_followed(make_store: Make, tmp_path: Path) -> None:
    store = make_store(MemoryRemote(files=tiny_model()))
    entry = store.pull(URL).entry
    manifest = entry.path / "metalchat.toml"
    manifest.rename(tmp_path / "target")
    manifest.symlink_to(tmp_path / "target")
    assert store.list()[0].damaged == "its metalchat.toml cannot be read"


def test_a_file_in_place_of_a_folder_is_named(make_store: Make, home: Path) -> None:
    home.mkdir()
    (home / "models").touch()
    with pytest.raises(DiskError, match=f"'{home / 'models'}' is not a folder: move it away"):
        make_store(MemoryRemote(files=tiny_model())).pull(URL)
