"""What a pull does to the store."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from metalchat_manifest import identifier
from metalchat_store import InvalidRepository, NetworkError, NotAModel, RepositoryNotFound, Store, snapshots
from metalchat_store.testing import MemoryRemote
from metalchat_store.testing.memory import tiny_model

URL = "memory://host/org/m"
Make = Callable[[MemoryRemote], Store]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("identities", ["sha256", "git", "none"])
def test_a_pull_makes_an_entry_that_is_whole(make_store: Make, identities: str) -> None:
    remote = MemoryRemote(files=tiny_model(), identities=identities)
    store = make_store(remote)
    pulled = store.pull(URL)
    assert not pulled.already
    assert pulled.entry.id == identifier(URL, variant="huggingface", architecture="llama3", partitioning="consolidated")
    assert store.list() == (pulled.entry,)
    assert store.verify(pulled.entry.id).ok
    folder = store.path(pulled.entry.id)
    assert (folder / "model.safetensors").read_bytes() == remote.files["model.safetensors"]
    assert (
        pulled.fetched_bytes
        == pulled.entry.size
        == sum((folder / n).stat().st_size for n in names(folder) - {"metalchat.toml"})
    )


def test_only_what_makes_the_model_is_fetched(make_store: Make) -> None:
    remote = MemoryRemote(files=tiny_model())
    folder = make_store(remote).pull(URL).entry.path
    kept = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "LICENSE"}
    assert names(folder) == kept | {"model.safetensors", "metalchat.toml"}
    assert {path for path, _ in remote.reads} == kept | {"model.safetensors"}


def test_blobs_are_named_by_their_sha256_and_read_only(make_store: Make, home: Path) -> None:
    import hashlib

    make_store(MemoryRemote(files=tiny_model())).pull(URL)
    blobs = [path for path in (home / "blobs" / "sha256").rglob("*") if path.is_file()]
    assert len(blobs) == 7
    for path in blobs:
        assert path.parent.name + path.name == hashlib.sha256(path.read_bytes()).hexdigest()
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert all(
        stat.S_IMODE(path.stat().st_mode) == 0o700 for path in (home, home / "blobs", home / "models", home / "partial")
    )


def test_a_pull_leaves_nothing_unfinished(make_store: Make, home: Path) -> None:
    make_store(MemoryRemote(files=tiny_model())).pull(URL)
    assert names(home / "partial") == set()
    assert names(home) == {"blobs", "models", "partial", "snapshots"}


def test_a_model_that_is_there_is_a_success_without_a_byte(make_store: Make) -> None:
    remote = MemoryRemote(files=tiny_model())
    store = make_store(remote)
    first = store.pull(URL)
    fetched = len(remote.reads)
    again = store.pull(URL)
    assert again.already
    assert again.entry == first.entry
    assert again.fetched_bytes == 0
    assert len(remote.reads) == fetched
    assert remote.closed == 2


def test_a_sharded_model_is_named_so(make_store: Make) -> None:
    entry = make_store(MemoryRemote(files=tiny_model(shards=3))).pull(URL).entry
    assert entry.spec is not None
    assert (entry.spec.partitioning, entry.spec.architecture, entry.spec.variant) == (
        "sharded",
        "llama3",
        "huggingface",
    )
    assert "model-00002-of-00003.safetensors" in names(entry.path)
    assert "model.safetensors.index.json" in names(entry.path)


def test_content_is_stored_once_for_two_models(make_store: Make) -> None:
    remote = MemoryRemote(files=tiny_model())
    store = make_store(remote)
    one = store.pull(URL).entry.path
    two = store.pull(URL + "-again")
    assert two.fetched_bytes == 0
    assert (one / "model.safetensors").samefile(two.entry.path / "model.safetensors")


def test_two_names_of_one_content_are_fetched_once(make_store: Make) -> None:
    remote = MemoryRemote(files=tiny_model() | {"LICENSE": b"words", "NOTICE": b"words"})
    folder = make_store(remote).pull(URL).entry.path
    assert (folder / "NOTICE").samefile(folder / "LICENSE")
    assert sum(path in ("LICENSE", "NOTICE") for path, _ in remote.reads) == 1


def test_an_update_fetches_what_changed_and_says_so(make_store: Make, home: Path) -> None:
    old = MemoryRemote(files=tiny_model(), identities="git")
    make_store(old).pull(URL)
    new = MemoryRemote(files=tiny_model() | {"tokenizer_config.json": b'{"chat_template": "other"}'}, identities="git")
    pulled = make_store(new).pull(URL)
    assert {path for path, _ in new.reads} == {"tokenizer_config.json"}
    assert not pulled.already
    moved, template = pulled.notices
    assert moved.startswith("'memory://host/org/m' moved from ")
    assert template.startswith("the chat template of 'memory://host/org/m' changed (sha256 ")
    assert (pulled.entry.path / "tokenizer_config.json").read_bytes() == b'{"chat_template": "other"}'
    assert len([path for path in (home / "blobs").rglob("*") if path.is_file()]) == 8
    assert len(names(home / "snapshots")) == 2


def test_an_update_keeps_what_the_user_wrote(make_store: Make) -> None:
    entry = make_store(MemoryRemote(files=tiny_model())).pull(URL).entry
    manifest = entry.path / "metalchat.toml"
    mine = "\n# careful\n[inference.sampling]\ntemperature = 0.1   # cold\n"
    manifest.write_text(manifest.read_text() + mine)
    (entry.path / "system.md").write_text("Be brief.")
    store = make_store(MemoryRemote(files=tiny_model(seed=2)))
    updated = store.pull(URL).entry
    assert updated.id == entry.id
    text = manifest.read_text()
    assert text.endswith(mine)
    assert f'commit = "{updated.commit}"' in text
    assert updated.commit != entry.commit
    assert (entry.path / "system.md").read_text() == "Be brief."
    assert store.list() == (updated,)
    assert updated.damaged is None
    assert store.verify(updated.id).ok


def test_a_manifest_that_is_no_toml_is_not_overwritten(make_store: Make) -> None:
    entry = make_store(MemoryRemote(files=tiny_model())).pull(URL).entry
    (entry.path / "metalchat.toml").write_text("[model\n")
    with pytest.raises(Exception, match=f"model '{entry.id}' has a metalchat.toml that cannot be updated") as caught:
        make_store(MemoryRemote(files=tiny_model(seed=2))).pull(URL)
    assert caught.value.exit_code == 6
    assert (entry.path / "metalchat.toml").read_text() == "[model\n"


def test_damage_is_repaired_by_the_next_pull(make_store: Make) -> None:
    remote = MemoryRemote(files=tiny_model())
    store = make_store(remote)
    entry = store.pull(URL).entry
    weights = entry.path / "model.safetensors"
    weights.chmod(0o600)
    weights.write_bytes(b"\0" + weights.read_bytes()[1:])
    remote.reads.clear()
    repaired = store.pull(URL)
    assert remote.reads == [("model.safetensors", 0)]
    assert not repaired.already
    assert store.verify(entry.id).ok


def test_a_missing_file_comes_back_from_its_blob(make_store: Make) -> None:
    remote = MemoryRemote(files=tiny_model())
    store = make_store(remote)
    entry = store.pull(URL).entry
    (entry.path / "config.json").unlink()
    assert store.list()[0].damaged == "'config.json' is missing"
    assert store.pull(URL).fetched_bytes == 0
    assert store.list()[0].damaged is None


def test_what_another_program_put_there_is_taken_over(make_store: Make) -> None:
    remote = MemoryRemote(files=tiny_model())
    store = make_store(remote)
    id = store.pull(URL).entry.id
    store.remove(id)
    folder = store.home / "models" / id
    folder.mkdir()
    (folder / "metalchat.toml").write_text(
        f'[model]\nrepository = "{URL}"\narchitecture = "llama3"\n'
        'partitioning = "consolidated"\nvariant = "huggingface"\n'
    )
    (folder / "model.safetensors").write_bytes(b"half")
    assert store.path(id) == folder
    assert not store.verify(id).ok
    assert store.pull(URL).entry.id == id
    assert store.verify(id).ok


def test_a_plan_tells_and_writes_nothing(make_store: Make, home: Path) -> None:
    store = make_store(MemoryRemote(files=tiny_model(size=1000), license="apache-2.0"))
    plan = store.plan(URL)
    assert not home.exists()
    assert (plan.repository, plan.license) == (URL, "apache-2.0")
    assert "model.safetensors" in {file.path for file in plan.files}
    assert plan.download_bytes == sum(file.size or 0 for file in plan.files)
    store.pull(URL)
    assert store.plan(URL).download_bytes == 0


def test_a_plan_does_not_guess_sizes(make_store: Make) -> None:
    assert make_store(MemoryRemote(files=tiny_model(), sizes=False, identities="none")).plan(URL).download_bytes is None


def test_sizes_need_not_be_known(make_store: Make) -> None:
    store = make_store(MemoryRemote(files=tiny_model(), sizes=False, identities="none"))
    assert store.verify(store.pull(URL).entry.id).ok


def test_progress_is_told_in_order(make_store: Make, listener) -> None:
    remote = MemoryRemote(files=tiny_model())
    make_store(remote).pull(URL, progress=listener)
    assert len(listener.plans) == 1
    weights = [(done, total) for path, done, total in listener.files if path == "model.safetensors"]
    assert weights == [(65536, 200000), (131072, 200000), (196608, 200000), (200000, 200000)]


def test_the_snapshot_tells_what_was_fetched(make_store: Make, home: Path) -> None:
    entry = make_store(MemoryRemote(files=tiny_model(), identities="git", license="mit")).pull(URL).entry
    record = json.loads((home / "snapshots" / f"{entry.id}@{entry.commit}.json").read_text())
    assert (record["repository"], record["commit"], record["license"]) == (URL, entry.commit, "mit")
    assert all(len(file["sha256"]) == 64 and len(file["git_sha1"]) == 40 for file in record["files"])


def test_a_model_without_a_usable_config_costs_no_weights(make_store: Make, home: Path) -> None:
    remote = MemoryRemote(files=tiny_model() | {"config.json": b"[]"})
    with pytest.raises(NotAModel, match=r"'config.json' is not a JSON object"):
        make_store(remote).pull(URL)
    assert "model.safetensors" not in {path for path, _ in remote.reads}
    assert not [path for path in (home / "blobs").rglob("*") if path.is_file()]


def test_a_failed_listing_is_asked_for_again(make_store: Make, pauses: list[float]) -> None:
    faults = [NetworkError("busy", transient=True), NetworkError("busy", transient=True, retry_after=7)]
    remote = MemoryRemote(files=tiny_model(), listing_faults=faults)
    make_store(remote).pull(URL)
    assert remote.lists == 3
    assert pauses[1] == 7


def test_an_unknown_revision_is_not_found(make_store: Make) -> None:
    store = make_store(MemoryRemote(files=tiny_model(), commit="c1"))
    assert store.pull(URL, revision="c1").entry.commit == "c1"
    with pytest.raises(RepositoryNotFound):
        store.pull(URL, revision="c2")


@pytest.mark.parametrize(
    "address", ["", "org/m", "https://", "memory://h/a b", "https://user:x@h/m", "https://[/x?file=a.gguf"]
)
def test_what_is_not_an_address_is_refused(make_store: Make, address: str) -> None:
    with pytest.raises(InvalidRepository):
        make_store(MemoryRemote(files={})).pull(address)


@pytest.mark.parametrize("swaps", [True, False])
def test_a_reader_sees_the_old_or_the_new_model_during_an_update(
    make_store: Make, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    from metalchat_store import _publish
    from metalchat_store.testing.faults import FaultyOs

    if not swaps:
        monkeypatch.setattr(_publish, "exchange", lambda *_: False)
    old = make_store(MemoryRemote(files=tiny_model())).pull(URL).entry
    reader, seen = make_store(MemoryRemote(files={})), []
    store = make_store(MemoryRemote(files=tiny_model(seed=2)))
    system = FaultyOs(0, lambda _: None)

    def look(name: str) -> None:
        if name in ("rename", "link") and len(seen) < 30:  # a reader that always comes between would stop the swap
            system.restore()
            (entry,) = reader.list()
            assert entry.damaged is None
            seen.append(entry.commit)
            system.resume()

    system.before = look
    try:
        new = store.pull(URL).entry
    finally:
        system.restore()
    assert set(seen) <= {old.commit, new.commit}
    assert old.commit in seen
    assert store.list() == (new,)


def test_two_names_change_places_or_nothing_happens(tmp_path: Path) -> None:
    from metalchat_store._exchange import exchange

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    swapped = exchange(tmp_path / "one", tmp_path / "two")
    assert names(tmp_path / "one") == {"two" if swapped else "one"}
    assert names(tmp_path / "two") == {"one" if swapped else "two"}
    assert not exchange(tmp_path / "one", tmp_path / "missing")


@pytest.mark.parametrize("identities", ["sha256", "git"])
def test_a_pull_reads_no_records_of_models_that_share_nothing_with_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, identities: Literal["sha256", "git"]
) -> None:
    remote = MemoryRemote(files=tiny_model(), identities=identities)
    store = Store(home, environ={}, remotes={"memory": lambda: remote})
    other = store.pull("memory://host/org/other").entry
    same = {name: data for name, data in tiny_model().items() if name == "tokenizer.json"}
    mine = {
        "config.json": b'{"model_type": "llama", "x": 1}',
        "model.safetensors": tiny_model(seed=2)["model.safetensors"],
    }
    parsed: list[str] = []
    real = snapshots._parsed

    def counted(id: str, data: bytes) -> snapshots.Snapshot | None:
        parsed.append(id)
        return real(id, data)

    monkeypatch.setattr(snapshots, "_parsed", counted)
    remote.files = mine
    assert not store.pull("memory://host/org/m").already
    assert store.pull("memory://host/org/m").already
    assert other.id not in parsed
    remote.files = mine | same
    reads = len(remote.reads)
    store.pull("memory://host/org/m")
    assert other.id in parsed  # whose tokenizer is the same
    assert [name for name, _ in remote.reads[reads:]] == []
