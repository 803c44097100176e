"""Models in folders of this computer."""

import errno
import os
import stat
from pathlib import Path

import pytest
from metalchat_store import (
    Corrupted,
    DiskError,
    IntegrityError,
    InvalidRepository,
    NotAModel,
    Refused,
    RepositoryNotFound,
    Store,
    _adopt,
)
from metalchat_store.remote import RemoteContext
from metalchat_store.remotes.file import FileRemote
from metalchat_store.testing.memory import tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my model"
    folder.mkdir()
    for name, content in tiny_model().items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home, environ={})


@pytest.fixture
def no_clones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_adopt, "clone", lambda _source, _target: False)


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch, no_clones: None) -> None:
    monkeypatch.setattr(_adopt, "link", lambda _source, _target: False)


def test_a_folder_is_pulled_and_says_how(store: Store, folder: Path) -> None:
    pulled = store.pull(folder.as_uri())
    assert pulled.adopted in ("clone", "hard link")
    assert pulled.fetched_bytes == 0
    assert store.verify(pulled.entry.id).ok
    assert {path.name for path in pulled.entry.path.iterdir()} >= {"config.json", "model.safetensors", "LICENSE"}
    assert list((store.home / "partial").iterdir()) == []


def test_a_folder_that_did_not_change_is_there_already(store: Store, folder: Path) -> None:
    first = store.pull(folder.as_uri())
    assert store.pull(folder.as_uri()).already
    (folder / "README.md").write_text("new")
    again = store.pull(folder.as_uri())
    assert not again.already
    assert again.entry.commit != first.entry.commit
    assert (again.entry.path / "README.md").read_text() == "new"


def test_a_hard_link_leaves_the_source_as_it_was(store: Store, folder: Path, no_clones: None) -> None:
    (folder / "model.safetensors").chmod(0o640)
    pulled = store.pull(folder.as_uri())
    assert pulled.adopted == "hard link"
    assert pulled.notices == ("the model shares its files with their source: a change there damages it",)
    assert (pulled.entry.path / "model.safetensors").samefile(folder / "model.safetensors")
    assert stat.S_IMODE((folder / "model.safetensors").stat().st_mode) == 0o640


def test_an_edited_source_of_a_hard_link_is_noticed_and_pulled_again(
    store: Store, folder: Path, no_clones: None
) -> None:
    entry = store.pull(folder.as_uri()).entry
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(b"\0\0\0\0")
    with pytest.raises(Corrupted):
        store.path(entry.id)
    assert not store.verify(entry.id).ok
    assert store.verify(store.pull(folder.as_uri()).entry.id).ok


def test_content_whose_source_was_edited_is_not_trusted_by_another_pull(
    store: Store, folder: Path, tmp_path: Path, no_clones: None
) -> None:
    content = (folder / "model.safetensors").read_bytes()
    store.pull(folder.as_uri())
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(b"\0\0\0\0")
    other = tmp_path / "other"
    other.mkdir()
    for name, data in tiny_model().items():
        (other / name).write_bytes(data)
    entry = store.pull(other.as_uri()).entry
    assert (entry.path / "model.safetensors").read_bytes() == content


def test_a_linked_file_that_did_not_change_is_not_read_again(
    store: Store, folder: Path, no_clones: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.pull(folder.as_uri())
    (folder / "README.md").write_text("new")
    read = []
    real = _adopt.link
    monkeypatch.setattr(_adopt, "link", lambda source, target: read.append(source.name) or real(source, target))
    assert store.pull(folder.as_uri()).adopted == "hard link"
    assert read == ["README.md"]


def test_S_3_a_copy_does_not_follow_its_source(store: Store, folder: Path, no_links: None) -> None:
    pulled = store.pull(folder.as_uri())
    assert pulled.adopted == "copy"
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(b"\0\0\0\0")
    assert store.verify(pulled.entry.id).ok
    assert stat.S_IMODE((pulled.entry.path / "model.safetensors").stat().st_mode) == 0o444


def test_another_file_system_is_copied_from(
    store: Store, folder: Path, no_clones: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def link(source: Path, target: Path, **options: bool) -> None:
        if folder in Path(source).parents:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target, **options)

    monkeypatch.setattr(os, "link", link)
    assert store.pull(folder.as_uri()).adopted == "copy"


def test_a_file_system_without_links_keeps_copies(
    store: Store, folder: Path, no_clones: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    entry = store.pull(folder.as_uri()).entry
    assert store.path(entry.id) == entry.path
    assert store.verify(entry.id).ok


def test_links_of_a_cache_are_resolved(store: Store, folder: Path, tmp_path: Path) -> None:
    view = tmp_path / "models--org--m" / "snapshots" / ("a" * 40)
    view.mkdir(parents=True)
    folder = folder.rename(tmp_path / "models--org--m" / "blobs")
    for path in folder.iterdir():
        (view / path.name).symlink_to(Path("..", "..", "blobs", path.name))
    entry = store.pull(view.as_uri()).entry
    assert not (entry.path / "model.safetensors").is_symlink()
    assert store.verify(entry.id).ok


def test_S_3_a_link_out_of_the_folder_is_refused(store: Store, folder: Path, tmp_path: Path) -> None:
    outside = (folder / "config.json").rename(tmp_path / "outside.json")
    for way in (outside, Path("..", "outside.json")):
        (folder / "config.json").symlink_to(way)
        with pytest.raises(Refused, match=r"^'config\.json' is a link that leads out of the folder"):
            store.pull(folder.as_uri())
        (folder / "config.json").unlink()
    assert store.list() == ()
    assert not [path for path in (store.home / "blobs").rglob("*") if path.is_file()]
    (folder / "sub").mkdir()
    outside.rename(folder / "sub" / "real.txt")
    (folder / "config.json").symlink_to("sub/real.txt")
    (tmp_path / "name").symlink_to(folder)
    entry = store.pull((tmp_path / "name").as_uri()).entry
    assert not (entry.path / "config.json").is_symlink()
    assert store.verify(entry.id).ok


def test_what_no_model_has_is_left_out(folder: Path) -> None:
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.safetensors").touch()
    (folder / "metalchat.toml").touch()
    (folder / "notes: old.txt").touch()
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    listing = FileRemote().list(folder.as_uri(), revision=None, context=RemoteContext())
    assert {file.path for file in listing.files} == set(tiny_model())


def test_a_single_gguf_file_is_a_model(store: Store, tmp_path: Path) -> None:
    import struct

    path = tmp_path / "tiny.gguf"
    path.write_bytes(
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 20) + b"general.architecture" + struct.pack("<IQ", 8, 5) + b"llama"
    )
    entry = store.pull(path.as_uri()).entry
    assert entry.spec is not None
    assert entry.spec.variant == "gguf"
    assert (entry.path / "tiny.gguf").read_bytes() == path.read_bytes()


def test_one_of_several_gguf_files_of_a_folder_is_named(store: Store, tmp_path: Path) -> None:
    import struct

    head = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 20) + b"general.architecture" + struct.pack("<IQ", 8, 5) + b"llama"
    (tmp_path / "a.gguf").write_bytes(head)
    (tmp_path / "b.gguf").write_bytes(head + b"b")
    with pytest.raises(InvalidRepository, match="add '\\?file=NAME'"):
        store.pull(tmp_path.as_uri())
    entry = store.pull(tmp_path.as_uri() + "?file=b.gguf").entry
    assert (entry.path / "b.gguf").read_bytes() == head + b"b"


@pytest.mark.parametrize(
    "address", ["file://server/share", "file:///tmp?x=1", "file:///tmp#x", "file:relative", "file:///a%00b"]
)
def test_an_address_of_no_folder_is_refused(store: Store, address: str) -> None:
    with pytest.raises(InvalidRepository):
        store.pull(address)


def test_what_does_not_exist_is_not_found(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFound, match="does not exist"):
        store.pull((tmp_path / "nothing").as_uri())
    with pytest.raises(RepositoryNotFound, match="has no revisions"):
        store.pull(tmp_path.as_uri(), revision="main")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotAModel, match="found nothing"):
        store.pull((tmp_path / "empty").as_uri())
    with pytest.raises(RepositoryNotFound, match="not a file or a folder"):
        store.pull("file:///dev/null")


def test_a_source_that_changes_while_it_is_read_is_refused(
    store: Store, folder: Path, no_clones: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metalchat_store import _local

    real = _local.hash_file

    def slow(*args: object) -> int:
        with (folder / "model.safetensors").open("ab") as file:
            file.write(b"more")
        return real(*args)

    monkeypatch.setattr(_local, "hash_file", slow)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        store.pull(folder.as_uri())
    assert store.list() == ()


def test_the_bytes_can_be_read_as_from_any_remote(folder: Path) -> None:
    remote = FileRemote()
    listing = remote.list(folder.as_uri(), revision=None, context=RemoteContext())
    weights = next(file for file in listing.files if file.path == "model.safetensors")
    content = (folder / weights.path).read_bytes()
    with remote.read(listing, weights, offset=0, context=RemoteContext()) as body:
        assert b"".join(body) == content
    with remote.read(listing, weights, offset=7, context=RemoteContext(), validator=body.validator) as rest:
        assert (rest.offset, b"".join(rest)) == (7, content[7:])
    with remote.read(listing, weights, offset=7, context=RemoteContext(), validator="another") as whole:
        assert (whole.offset, b"".join(whole)) == (0, content)


def test_an_unreadable_file_is_one_line(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*_: object, **_options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder / "model.safetensors"))

    monkeypatch.setattr("metalchat_store._local.adopt", no)
    with pytest.raises(DiskError, match=r"model\.safetensors: permission denied$"):
        store.pull(folder.as_uri())


@pytest.mark.parametrize("way", ["shared", "copied"])
def test_an_update_from_a_folder_names_what_differs_and_nothing_else(
    store: Store, folder: Path, request: pytest.FixtureRequest, way: str
) -> None:
    if way == "copied":
        request.getfixturevalue("no_links")
    entry = store.pull(folder.as_uri()).entry
    config = (folder / "config.json").read_bytes()
    (folder / "config.json").unlink()
    (folder / "config.json").write_bytes(config.replace(b"64", b"65"))
    assert [(change.path, change.what) for change in store.plan_update(entry.id).changes] == [
        ("config.json", "changed")
    ]
    (folder / "config.json").write_bytes(config)
    assert store.plan_update(entry.id).changes == ()
