"""Listing, finding, checking and removing models."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from metalchat_store import AmbiguousModel, Corrupted, Entry, ModelNotFound, Store
from metalchat_store.testing import MemoryRemote
from metalchat_store.testing.memory import tiny_model

Make = Callable[[MemoryRemote], Store]
BASE = "memory://host/"


@pytest.fixture
def store(make_store: Make) -> Store:
    return make_store(MemoryRemote(files=tiny_model()))


@pytest.fixture
def entry(store: Store) -> Entry:
    return store.pull(BASE + "org/m").entry


def weights(entry: Entry) -> Path:
    path = entry.path / "model.safetensors"
    path.chmod(0o600)
    return path


def test_a_store_that_does_not_exist_is_empty(store: Store) -> None:
    assert store.list() == ()
    assert store.lookup(BASE + "org/m") is None
    with pytest.raises(ModelNotFound, match=r"^model 'x' not found$"):
        store.find("x")
    assert not store.home.exists()


def test_list_is_sorted_and_whole(store: Store) -> None:
    made = [store.pull(f"{BASE}org/m{number}").entry for number in range(5)]
    assert store.list() == tuple(sorted(made, key=lambda entry: entry.id))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: (path / "metalchat.toml").unlink(), "it has no metalchat.toml"),
        (lambda path: (path / "metalchat.toml").write_bytes(b"\xff\xfe"), "its metalchat.toml cannot be read"),
        (lambda path: (path / "metalchat.toml").write_text("[model"), "its metalchat.toml is not valid TOML"),
        (lambda path: (path / "metalchat.toml").write_text("a = 1"), "its metalchat.toml has no valid [model] table"),
        (lambda path: (path / "metalchat.toml").write_bytes(b"#" * (1 << 21)), "its metalchat.toml cannot be read"),
        (lambda path: (path / "config.json").unlink(), "'config.json' is missing"),
        (lambda path: os.truncate(weights_of(path), 7), "'model.safetensors' has 7 bytes instead of 200,000"),
    ],
)
def test_a_damaged_entry_is_listed_found_and_removed(store: Store, entry: Entry, harm, words: str) -> None:
    harm(entry.path)
    (listed,) = store.list()
    assert (listed.id, listed.damaged) == (entry.id, words)
    assert store.find(entry.id[:6]).id == entry.id
    with pytest.raises(Corrupted, match=f"^model '{entry.id}' is corrupted$"):
        store.path(entry.id)
    assert not store.verify(entry.id).ok
    assert store.remove(entry.id).id == entry.id
    assert store.list() == ()


def weights_of(path: Path) -> Path:
    (path / "model.safetensors").chmod(0o600)
    return path / "model.safetensors"


def test_an_entry_that_is_a_file_or_a_link_is_damaged(store: Store, entry: Entry, tmp_path: Path) -> None:
    (store.home / "models" / ("a" * 40)).write_text("what")
    (store.home / "models" / ("b" * 40)).symlink_to(tmp_path)
    assert [found.damaged for found in store.list() if found.id != entry.id] == ["it is not a folder"] * 2
    store.remove("aaaa")
    store.remove("bbbb")
    assert store.list() == (entry,)
    assert tmp_path.is_dir()


def test_edited_manifests_are_read(store: Store, entry: Entry) -> None:
    manifest = entry.path / "metalchat.toml"
    manifest.write_text("# mine\n" + manifest.read_text() + '\n[prompt]\nsystem = "system.md"\n')
    (entry.path / "system.md").write_text("Be brief.")
    assert store.list() == (entry,)
    assert store.path("org/m") == entry.path


def test_find_takes_ids_prefixes_and_parts_of_names(store: Store) -> None:
    one = store.pull(BASE + "HuggingFaceTB/SmolLM2-135M").entry
    two = store.pull(BASE + "Qwen/Qwen3-0.6B").entry
    for reference in (
        one.id,
        one.id[:4],
        one.id[:9].upper(),
        "SmolLM2",
        "smollm2-135m",
        BASE + "HuggingFaceTB/SmolLM2-135M",
    ):
        assert store.find(reference) == one
    assert store.find("qwen3") == two
    with pytest.raises(ModelNotFound):
        store.find(one.id[:3])


def test_an_ambiguous_name_lists_the_candidates(store: Store) -> None:
    made = [store.pull(BASE + name).entry for name in ("org/tiny", "org/tiny-chat", "org/other")]
    with pytest.raises(AmbiguousModel) as caught:
        store.find("org/")
    assert set(caught.value.candidates) == {entry.id for entry in made}
    assert str(caught.value).startswith("'org/' names 3 models: ")
    assert caught.value.exit_code == 2
    assert store.find("tiny") == made[0]


def test_an_ambiguous_prefix_lists_the_candidates(store: Store) -> None:
    for tail in "01":
        (store.home / "models" / ("abcd" + tail * 36)).mkdir(parents=True)
    with pytest.raises(AmbiguousModel, match="'abcd' names 2 models: abcd000, abcd111"):
        store.find("abcd")


def test_the_older_id_of_a_folder_is_found(tmp_path: Path, store: Store) -> None:
    from metalchat_manifest import legacy_identifier

    for name, content in tiny_model().items():
        (tmp_path / name).write_bytes(content)
    entry = store.pull(tmp_path.as_uri()).entry
    assert store.find(legacy_identifier(tmp_path.as_uri())) == entry


def test_lookup_knows_all_spellings_of_an_address(store: Store, entry: Entry) -> None:
    assert store.lookup("MEMORY://host/x/../org/m") == entry
    assert store.lookup(BASE + "org/m/") is None
    (entry.path / "config.json").unlink()
    assert store.lookup(BASE + "org/m") is None


def test_abbreviations_are_seven_long_or_as_long_as_needed(store: Store) -> None:
    ids = ["a" * 40, "a" * 8 + "b" * 32, "c" * 40]
    assert store.abbreviate(ids) == {ids[0]: "a" * 9, ids[1]: "a" * 8 + "b", ids[2]: "c" * 7}
    assert store.abbreviate([]) == {}


def test_remove_frees_what_no_other_model_uses(make_store: Make) -> None:
    one = make_store(MemoryRemote(files=tiny_model())).pull(BASE + "one").entry
    store = make_store(MemoryRemote(files=tiny_model() | {"README.md": b"another"}))
    two = store.pull(BASE + "two").entry
    store.remove(one.id)
    blobs = [path for path in (store.home / "blobs").rglob("*") if path.is_file()]
    assert len(blobs) == 7
    assert store.verify(two.id).ok
    store.remove(two.id)
    assert not [path for path in store.home.rglob("*") if path.is_file()]
    with pytest.raises(ModelNotFound):
        store.remove(two.id)


def test_an_untouched_model_is_not_hashed_again(store: Store, entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metalchat_store.checks.hash_file", lambda *_: pytest.fail("hashed"))
    assert store.path(entry.id) == entry.path


def test_a_touched_model_is_hashed_once(store: Store, entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(weights(entry), ns=(1, 1))
    assert store.path(entry.id) == entry.path
    monkeypatch.setattr("metalchat_store.checks.hash_file", lambda *_: pytest.fail("hashed"))
    assert store.path(entry.id) == entry.path


@pytest.mark.parametrize("place", [0, 100_000, 199_999])
def test_S_5_one_flipped_byte_is_refused_named_and_repaired(store: Store, entry: Entry, place: int) -> None:
    path = weights(entry)
    data = bytearray(path.read_bytes())
    data[place] ^= 0x80
    path.write_bytes(data)
    with pytest.raises(Corrupted) as caught:
        store.path(entry.id)
    assert str(caught.value) == f"model '{entry.id}' is corrupted"
    assert caught.value.files == ("model.safetensors",)
    bad = [check for check in store.verify(entry.id).files if not check.ok]
    assert [check.path for check in bad] == ["model.safetensors"]
    assert bad[0].reason.startswith("expected sha256 ")
    store.pull(BASE + "org/m")
    assert store.path(entry.id) == entry.path


def test_S_5_rot_that_no_stamp_shows_is_found_by_verify_and_remembered(store: Store, entry: Entry) -> None:
    path = weights(entry)
    facts = path.stat()
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert store.path(entry.id) == entry.path
    assert not store.verify(entry.id).ok
    with pytest.raises(Corrupted):
        store.path(entry.id)
    assert store.pull(BASE + "org/m").fetched_bytes == 200_000
    assert store.verify(entry.id).ok


def test_a_link_in_place_of_a_file_is_refused(store: Store, entry: Entry, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes((entry.path / "model.safetensors").read_bytes())
    (entry.path / "model.safetensors").unlink()
    (entry.path / "model.safetensors").symlink_to(copy)
    with pytest.raises(Corrupted):
        store.path(entry.id)
    assert store.list()[0].damaged == "'model.safetensors' is not a file"


@pytest.mark.parametrize(
    "change",
    [
        ('"sha256": "', '"sha256": "../'),
        ('"path": "config.json"', '"path": "../../x"'),
        ('"size"', '"sise"'),
        ("{", "["),
    ],
)
def test_S_1_a_record_with_a_wrong_identity_or_name_is_not_used(store: Store, entry: Entry, change) -> None:
    (record,) = (store.home / "snapshots").iterdir()
    record.write_text(record.read_text().replace(*change, 1))
    (entry.path / "LICENSE").unlink()
    assert store.list()[0].damaged == "the record of its files is missing"
    with pytest.raises(Corrupted):
        store.path(entry.id)
    assert store.pull(BASE + "org/m").entry.damaged is None


def test_verify_tells_progress(store: Store, entry: Entry, listener) -> None:
    assert store.verify(entry.id, progress=listener).ok
    assert ("model.safetensors", 200_000, 200_000) in listener.files


def test_of_a_thousand_models_only_the_manifests_are_read(
    store: Store, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = (store.home / "snapshots" / f"{entry.id}@{entry.commit}.json").read_text()
    for number in range(1000):
        id = f"{number:040x}"
        folder = store.home / "models" / id
        folder.mkdir()
        for name in (
            "metalchat.toml",
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
            "README.md",
            "LICENSE",
            "model.safetensors",
        ):
            os.link(entry.path / name, folder / name)
        (store.home / "snapshots" / f"{id}@{entry.commit}.json").write_text(record)
    opened: list[str] = []
    real = os.open

    def counted(path: object, *arguments: int, **options: object) -> int:
        opened.append(Path(str(path)).name)
        return real(path, *arguments, **options)

    def parse(*_: object) -> None:
        raise AssertionError("a TOML parser is not needed for a manifest that the store wrote")

    monkeypatch.setattr(os, "open", counted)
    monkeypatch.setattr("tomllib.loads", parse)
    entries = store.list()
    assert len(entries) == 1001
    assert all(found.damaged is None for found in entries)
    assert opened == ["metalchat.toml"] * 1001


def test_a_model_whose_record_is_gone_is_not_opened(store: Store, entry: Entry) -> None:
    (store.home / "snapshots" / f"{entry.id}@{entry.commit}.json").unlink()
    with pytest.raises(Corrupted):
        store.path(entry.id)
    assert not store.verify(entry.id).ok
    assert store.pull(BASE + "org/m").fetched_bytes == 0
    assert store.path(entry.id) == entry.path


def test_an_entry_that_cannot_be_read_is_listed(store: Store, entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("metalchat_store.entries._census", scandir)
    assert store.list()[0].damaged == "it cannot be read: permission denied"
    assert store.remove(entry.id).id == entry.id


def test_a_removed_model_does_not_come_back(store: Store, entry: Entry) -> None:
    """A replacement that was killed before its last step leaves the older form of the entry behind."""
    import shutil

    old = store.home / "partial" / f"{entry.id}~{2**22 + 1}-00000000.old"
    shutil.copytree(entry.path, old)
    assert store.list() == (entry,)
    store.remove(entry.id)
    assert store.list() == ()
    assert not old.exists()


def test_an_entry_that_was_stepping_aside_comes_back(store: Store, entry: Entry) -> None:
    entry.path.rename(store.home / "partial" / f"{entry.id}~{2**22 + 1}-00000000.old")
    assert store.list() == (entry,)
    assert store.path(entry.id) == entry.path
