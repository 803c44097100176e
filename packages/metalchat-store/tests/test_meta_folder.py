"""Meta's folder of a release on this computer: converted as `meta:` does, from where it lies, or refused."""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from metalchat_store import (
    DiskError,
    IntegrityError,
    InvalidRepository,
    NotAModel,
    Refused,
    RemoteContext,
    RepositoryNotFound,
    Store,
    StoreError,
)
from metalchat_store.remotes._meta_folder import MetaFolder
from metalchat_store.remotes._meta_releases import named_release
from metalchat_store.remotes.meta import MetaRemote
from metalchat_store.testing import FakeMeta, RemoteContract

META = Path(__file__).parent / "golden" / "meta"
RELEASE = "Llama3.2-1B-Instruct"
FILES = {
    "params.json": (META / "params.json").read_bytes(),
    "tokenizer.model": (META / "tokenizer.model").read_bytes(),
    "consolidated.00.pth": (META / "whole.pth").read_bytes(),
}


def checklist(digest: str = "md5", **other: str) -> bytes:
    digests = {name: hashlib.new(digest, data, usedforsecurity=False).hexdigest() for name, data in FILES.items()}
    return "".join(f"{value}  {name}\n" for name, value in (digests | other).items()).encode()


def write(place: Path, files: Mapping[str, bytes] = FILES) -> Path:
    place.mkdir(parents=True)
    for name, content in files.items():
        (place / name).write_bytes(content)
    return place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "checkpoints" / RELEASE, FILES | {"checklist.chk": checklist()})


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home, environ={})


def left(home: Path) -> list[Path]:
    """Files of models, and content, that a store has."""
    return [path for part in ("models", "blobs", "partial") for path in (home / part).rglob("*") if path.is_file()]


class TestMetaFolder(RemoteContract):
    @pytest.fixture
    def files(self) -> Mapping[str, bytes]:
        return FILES

    @pytest.fixture
    def remote(self) -> MetaFolder:
        return MetaFolder()

    @pytest.fixture
    def context(self) -> RemoteContext:
        return RemoteContext()

    @pytest.fixture
    def repository(self, folder: Path) -> str:
        return folder.as_uri()

    @pytest.fixture
    def missing(self, folder: Path) -> str:
        return (folder / "nothing").as_uri()


def test_the_model_is_the_one_that_comes_from_meta(store: Store, folder: Path, tmp_path: Path) -> None:
    pulled = store.pull(folder.as_uri())
    with FakeMeta() as meta:
        meta.add("Llama-3.2-1B-Instruct", FILES)
        other = Store(tmp_path / "other", environ=meta.environ, remotes={"meta": MetaRemote}).pull(f"meta:{RELEASE}")
    names = {path.name for path in other.entry.path.iterdir()}
    assert {path.name for path in pulled.entry.path.iterdir()} == names
    for name in names - {"metalchat.toml"}:
        assert (pulled.entry.path / name).read_bytes() == (other.entry.path / name).read_bytes()
    assert "chat_template.jinja" in names
    assert pulled.entry.spec is not None
    assert (pulled.entry.spec.architecture, pulled.entry.spec.partitioning) == ("llama3", "consolidated")
    assert (pulled.fetched_bytes, pulled.adopted) == (0, None)


def test_the_folder_stays_as_it_was_and_is_not_copied(store: Store, folder: Path) -> None:
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_nlink) for path in folder.iterdir()}
    store.pull(folder.as_uri())
    assert before == {
        path: (path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_nlink) for path in folder.iterdir()
    }
    assert not any(path.suffix == ".pth" for path in left(store.home))
    assert not [path for path in left(store.home) if path.read_bytes() == FILES["consolidated.00.pth"]]
    assert not list((store.home / "partial").iterdir())


def test_a_folder_that_did_not_change_is_there_already(store: Store, folder: Path) -> None:
    id = store.pull(folder.as_uri()).entry.id
    assert store.pull(folder.as_uri()).already
    assert [each.outdated for each in store.outdated()] == [False]
    os.utime(folder / "consolidated.00.pth", ns=(1, 1))
    assert [each.outdated for each in store.outdated()] == [True]
    plan = store.plan_update(id)
    assert (plan.download_bytes, {change.path for change in plan.changes}) == (0, set(FILES))
    assert store.update(id).entry.id == id
    assert [each.outdated for each in store.outdated()] == [False]


def test_what_a_pull_would_do_is_known_before(store: Store, folder: Path) -> None:
    plan = store.plan(folder.as_uri())
    assert (plan.download_bytes, plan.license, {file.path for file in plan.files}) == (0, "llama3.2", set(FILES))
    described = store.describe(folder.as_uri())
    assert (described.architecture, described.dtype, described.download) == ("llama3", "bfloat16", 0)
    assert described.weights == _tensor_bytes(store.pull(folder.as_uri()).entry.path / "model.safetensors")


def _tensor_bytes(path: Path) -> int:
    data = path.read_bytes()
    return len(data) - 8 - int.from_bytes(data[:8], "little")


def test_a_description_reads_no_weights(store: Store, folder: Path) -> None:
    size = len(FILES["consolidated.00.pth"])
    (folder / "consolidated.00.pth").write_bytes(bytes(size))
    assert store.describe(folder.as_uri()).parameters is not None
    assert not store.home.exists()


def test_damage_is_repaired_and_a_lock_restored_from_the_same_folder(store: Store, folder: Path) -> None:
    id = store.pull(folder.as_uri()).entry.id
    path = store.home / "models" / id / "model.safetensors"
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:-1] + b"x")
    assert not store.verify(id).ok
    assert store.repair(id).files == ("model.safetensors",)
    assert path.read_bytes() == whole
    lock = store.lock(id)
    store.remove(id)
    assert store.restore(lock).entry.id == id
    assert path.read_bytes() == whole


def test_a_repair_without_the_folder_says_what_is_missing(store: Store, folder: Path) -> None:
    id = store.pull(folder.as_uri()).entry.id
    (store.home / "models" / id / "model.safetensors").unlink()
    for blob in (store.home / "blobs").rglob("*"):
        if blob.is_file() and blob.stat().st_size > 50_000:
            blob.unlink()
    (folder / "tokenizer.model").unlink()
    with pytest.raises(NotAModel, match=r"no 'tokenizer.model'.*put it there"):
        store.repair(id)


@pytest.mark.parametrize("digest", ["md5", "sha256"])
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_found_in_every_file(store: Store, folder: Path, name: str, digest: str) -> None:
    (folder / "checklist.chk").write_bytes(checklist(digest))
    store.plan(folder.as_uri())
    data = FILES[name]
    (folder / name).write_bytes(
        data[:-1] + bytes([data[-1] ^ 1]) if name != "params.json" else data.replace(b" ", b"\n")
    )
    with pytest.raises(IntegrityError, match=rf"{name}' is damaged.*Nothing was kept"):
        store.pull(folder.as_uri())
    assert left(store.home) == []


def test_a_folder_without_a_checklist_is_taken(store: Store, folder: Path) -> None:
    (folder / "checklist.chk").unlink()
    assert store.verify(store.pull(folder.as_uri()).entry.id).ok


@pytest.mark.parametrize("text", [b"", b"x", checklist().splitlines()[0]])
def test_a_checklist_that_is_none_or_names_too_little_is_refused(store: Store, folder: Path, text: bytes) -> None:
    (folder / "checklist.chk").write_bytes(text)
    with pytest.raises(IntegrityError, match="Meta's checklist"):
        store.pull(folder.as_uri())
    assert not store.home.exists() or left(store.home) == []


@pytest.mark.parametrize("name", ["params.json", "tokenizer.model", "consolidated.03.pth"])
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(store: Store, tmp_path: Path, name: str) -> None:
    shards = {f"consolidated.{number:02}.pth": FILES["consolidated.00.pth"] for number in range(8)}
    folder = write(tmp_path / "Llama3.1-70B", FILES | shards)
    (folder / name).unlink()
    with pytest.raises(NotAModel, match=f"no '{name}', which belongs to them: put it there"):
        store.pull(folder.as_uri())


def test_a_folder_with_more_weights_than_its_release_is_refused(store: Store, folder: Path) -> None:
    (folder / "consolidated.01.pth").write_bytes(FILES["consolidated.00.pth"])
    with pytest.raises(NotAModel, match=r"has 'consolidated.01.pth', which 'Llama3.2-1B-Instruct' has not: rename"):
        store.pull(folder.as_uri())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("original", "its name 'original' does not tell of which release: rename it, for example to Llama3.2-1B-Ins"),
        ("llama-2-7b", "its tokenizer is a SentencePiece one): pull https://huggingface.co/meta-llama/Llama-2-7b"),
        ("Llama3.2-1B-Instruct-int4-qlora-eo8", "it is quantised"),
        ("Llama-3.1-405B", "does not tell of which release"),
    ],
)
def test_a_name_that_is_none_of_a_release_to_convert_is_refused(
    store: Store, tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(InvalidRepository) as caught:
        store.pull(write(tmp_path / name).as_uri())
    assert words in str(caught.value)
    assert not store.home.exists() or left(store.home) == []


@pytest.mark.parametrize(
    ("folder", "release"),
    [
        ("Llama3.2-1B-Instruct", "Llama3.2-1B-Instruct"),
        ("Llama-3.2-1B-Instruct", "Llama3.2-1B-Instruct"),
        ("Meta-Llama-3-8B-Instruct", "Llama-3-8B-Instruct"),
        ("Meta-Llama3.1-70B", "Llama3.1-70B"),
        ("Llama3.1-405B-Instruct-bf16-mp16", "Llama3.1-405B-Instruct:bf16-mp16"),
        ("Llama-3.1-405B-MP8", "Llama3.1-405B:bf16-mp8"),
        ("llama-guard-2", "Llama-Guard-2-8B"),
    ],
)
def test_the_folders_that_meta_leaves_name_their_releases(folder: str, release: str) -> None:
    assert named_release(folder).name == release


def test_a_base_model_has_no_chat_template(store: Store, tmp_path: Path) -> None:
    entry = store.pull(write(tmp_path / "Llama3.2-1B").as_uri()).entry
    assert not (entry.path / "chat_template.jinja").exists()


def test_several_files_of_weights_are_all_read(store: Store, tmp_path: Path) -> None:
    shards = {f"consolidated.{number:02}.pth": FILES["consolidated.00.pth"] for number in range(8)}
    with pytest.raises(NotAModel, match="the 4 heads of the model cannot be split into 8 files"):
        store.pull(write(tmp_path / "Llama3.1-70B", FILES | shards).as_uri())
    assert left(store.home) == []


def test_params_that_cannot_be_used_are_known_at_once(store: Store, folder: Path) -> None:
    params = json.loads(FILES["params.json"]) | {"vision_chunk_size": 448}
    (folder / "params.json").write_text(json.dumps(params))
    with pytest.raises(NotAModel, match="reads images"):
        store.plan(folder.as_uri())


def test_a_pickle_that_names_a_function_is_not_run(store: Store, folder: Path) -> None:
    import io
    import zipfile

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    (folder / "checklist.chk").unlink()
    (folder / "consolidated.00.pth").write_bytes(packed.getvalue())
    with pytest.raises(NotAModel, match=r"it calls 'os\.system', which can run code"):
        store.pull(folder.as_uri())
    assert left(store.home) == []


def test_a_link_that_leads_out_of_the_folder_is_refused(store: Store, folder: Path, tmp_path: Path) -> None:
    (folder / "consolidated.00.pth").rename(tmp_path / "weights")
    (folder / "consolidated.00.pth").symlink_to(tmp_path / "weights")
    with pytest.raises(Refused, match="is a link that leads out of the folder"):
        store.pull(folder.as_uri())
    assert left(store.home) == []


def test_weights_that_change_while_they_are_read_are_not_kept(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metalchat_store import _gather

    unpack = _gather.unpack

    def edited(*arguments: object) -> object:
        os.utime(folder / "consolidated.00.pth", ns=(1, 1))
        return unpack(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(_gather, "unpack", edited)
    with pytest.raises(IntegrityError, match=r"'consolidated.00.pth' changed while it was read. Pull again"):
        store.pull(folder.as_uri())
    assert left(store.home) == []


def test_weights_that_may_not_be_read_are_named(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metalchat_store import _local

    def refused(path: Path) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(_local, "open_regular", refused)
    with pytest.raises(DiskError, match=r"cannot read .*params\.json: permission denied"):
        store.pull(folder.as_uri())


def test_a_folder_has_no_revisions(store: Store, folder: Path) -> None:
    with pytest.raises(RepositoryNotFound, match="a folder has no revisions"):
        store.pull(folder.as_uri(), revision="main")


def test_weights_in_safetensors_beside_the_checkpoints_are_taken_as_they_are(store: Store, folder: Path) -> None:
    done = store.pull(folder.as_uri()).entry
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_bytes((done.path / name).read_bytes())
    assert store.pull(folder.as_uri()).adopted is not None


def test_checkpoints_below_the_folder_are_refused_with_what_to_pull(store: Store, folder: Path) -> None:
    with pytest.raises(NotAModel, match="converts the folder itself that they lie in"):
        store.pull(folder.parent.as_uri())


def test_an_adoption_names_the_pull_that_converts(store: Store, folder: Path) -> None:
    (found,) = store.adoptable([folder.parent])
    assert isinstance(found.error, StoreError)
    assert str(found.error) == (
        f"it is converted, which needs a second copy: 'metalchat model pull {folder.as_uri()}' does that"
    )
