"""Models of other tools: found, taken in without a second copy, and never changed."""

import hashlib
import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from metalchat_store import Adoption, Corrupted, Listing, RemoteContext, RepositoryNotFound, Store
from metalchat_store.testing import MemoryRemote
from metalchat_store.testing.memory import git_blob_id, tiny_model

COMMIT = "1" * 40
URL = "https://huggingface.co/org/m"


def gguf(size: int = 5000) -> bytes:
    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    header = (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    )
    return header + bytes(size)


class Hub(MemoryRemote):
    """Tells the sha256 of weights and the git id of small files, as a hub does."""

    def list(self, repository: str, *, revision: str | None, context: RemoteContext) -> Listing:
        listing = super().list(repository, revision=revision, context=context)
        files = (
            replace(file, git_sha1=None, sha256=hashlib.sha256(self.files[file.path]).hexdigest())
            if file.path.endswith(".safetensors")
            else file
            for file in listing.files
        )
        return replace(listing, files=tuple(files))


def hub_cache(folder: Path, files: dict[str, bytes], *, name: str = "models--org--m", commit: str = COMMIT) -> Path:
    """The layout of Hugging Face libraries: weights by sha256, small files by git id, snapshots of links."""
    repository = folder / name
    for inner in ("blobs", "refs", f"snapshots/{commit}"):
        (repository / inner).mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    for path, content in files.items():
        large = path.endswith((".safetensors", ".gguf"))
        blob = repository / "blobs" / (hashlib.sha256(content).hexdigest() if large else git_blob_id(content))
        blob.write_bytes(content)
        link = repository / "snapshots" / commit / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return repository


def ollama_cache(folder: Path, content: bytes, *, name: str = "registry.ollama.ai/library/tiny/1b") -> Path:
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    layers = []
    for media, data in (("model", content), ("template", b"{{ .Prompt }}"), ("license", b"Apache-2.0")):
        digest = hashlib.sha256(data).hexdigest()
        (folder / "blobs" / f"sha256-{digest}").write_bytes(data)
        kind = f"application/vnd.ollama.image.{media}"
        layers.append({"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)})
    manifest = folder / "manifests" / name
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    return manifest


def facts(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything about another tool's files but how many names they have."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""  # noqa: PTH115 - beside lstat
        found[str(path)] = (state.st_mode, state.st_mtime_ns, state.st_ino, state.st_uid, content)
    return found


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """The home directory of somebody who uses all three tools."""
    return tmp_path / "user"


@pytest.fixture
def store(home: Path, user: Path) -> Store:
    return Store(home, environ={"HOME": str(user)}, remotes={}, sleep=lambda _: None)


def one(adoptions: tuple[Adoption, ...]) -> Adoption:
    (adoption,) = [adoption for adoption in adoptions if "/usr/share" not in str(adoption.found.place)]
    return adoption


def test_a_hub_cache_is_taken_in_without_a_copy_and_unchanged(store: Store, user: Path) -> None:
    cache = user / ".cache" / "huggingface" / "hub"
    files = tiny_model()
    hub_cache(cache, files)
    for path in cache.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o644)
    before = facts(cache)
    planned = one(store.adoptable())
    assert facts(cache) == before
    assert not store.home.exists()
    assert (planned.found.tool, planned.found.repository, planned.found.commit) == ("huggingface", URL, COMMIT)
    assert (planned.how, planned.already, planned.error) == ("hard link", False, None)
    wanted = sum(len(files[file.path]) for file in planned.found.files)
    assert planned.saved == wanted
    done = one(store.adopt([planned]))
    assert facts(cache) == before
    assert done.entry is not None
    assert done.how in ("clone", "hard link")
    assert (done.saved, done.entry.commit, done.entry.spec.repository) == (wanted, COMMIT, URL)
    weights = done.entry.path / "model.safetensors"
    blob = cache / "models--org--m" / "blobs" / hashlib.sha256(files["model.safetensors"]).hexdigest()
    assert done.how == "clone" or weights.samefile(blob)
    assert store.verify(done.entry.id).ok
    assert store.path("org/m") == done.entry.path
    assert one(store.adoptable()).already


def test_a_later_pull_of_the_same_commit_finds_everything_present(home: Path, store: Store, user: Path) -> None:
    files = {name: content for name, content in tiny_model().items() if "." in name}
    hub_cache(user / ".cache" / "huggingface" / "hub", files)
    entry = one(store.adopt(store.adoptable())).entry
    remote = Hub(files=tiny_model(), commit=COMMIT, identities="git")
    later = Store(home, environ={}, remotes={"https": lambda: remote})
    pulled = later.pull(URL)
    assert pulled.entry.id == entry.id
    assert {path for path, _ in remote.reads} == {"LICENSE"}
    assert later.pull(URL).already
    assert later.outdated()[0].outdated is False


def test_a_file_that_changes_in_the_cache_is_noticed(store: Store, user: Path) -> None:
    cache = user / ".cache" / "huggingface" / "hub"
    files = tiny_model()
    hub_cache(cache, files)
    done = one(store.adopt(store.adoptable()))
    blob = cache / "models--org--m" / "blobs" / hashlib.sha256(files["model.safetensors"]).hexdigest()
    blob.write_bytes(bytes(200_000))
    if done.how == "hard link":
        with pytest.raises(Corrupted):
            store.path(done.entry.id)
    else:
        assert store.path(done.entry.id) == done.entry.path


@pytest.mark.parametrize("victim", ["model.safetensors", "config.json"])
def test_S_4_a_blob_that_is_not_what_its_name_says_is_refused(store: Store, user: Path, victim: str) -> None:
    repository = hub_cache(user / ".cache" / "huggingface" / "hub", tiny_model())
    blob = (repository / "snapshots" / COMMIT / victim).resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    done = one(store.adopt(store.adoptable()))
    assert str(done.error).startswith(f"'{blob}' is damaged: expected ")
    assert done.entry is None
    assert store.list() == ()
    assert not [path for path in (store.home / "blobs").rglob("*") if path.is_file()]
    assert not list((store.home / "partial").iterdir())


@pytest.mark.parametrize("way", ["file", "blob", "parent", "snapshot", "dangling"])
def test_S_3_links_out_of_the_cache_are_refused(store: Store, user: Path, tmp_path: Path, way: str) -> None:
    repository = hub_cache(user / ".cache" / "huggingface" / "hub", tiny_model())
    secret = tmp_path / "secret"
    secret.write_bytes(b'{"model_type": "llama"}')
    config = repository / "snapshots" / COMMIT / "config.json"
    blob = config.resolve()
    if way == "blob":
        blob.unlink()
        blob.symlink_to(secret)
    elif way == "parent":
        (repository / "blobs").rename(tmp_path / "blobs")
        (repository / "blobs").symlink_to(tmp_path / "blobs")
    elif way == "snapshot":
        outside = tmp_path / "outside"
        outside.mkdir()
        for name, content in tiny_model().items():
            (outside / name).write_bytes(content)
        snapshot = repository / "snapshots" / COMMIT
        snapshot.rename(tmp_path / "before")
        snapshot.symlink_to(outside)
    else:
        config.unlink()
        config.symlink_to(secret if way == "file" else "nothing")
    planned = one(store.adoptable())
    words = "is a link to nothing" if way == "dangling" else "is a link that leads out of the cache"
    assert f"' {words}" in str(planned.error)
    assert store.adopt([planned]) == (planned,)
    assert store.list() == ()
    assert secret.read_bytes() == b'{"model_type": "llama"}'


def test_a_cache_without_the_weights_says_what_is_missing(store: Store, user: Path) -> None:
    files = {name: content for name, content in tiny_model().items() if not name.endswith((".safetensors", ".bin"))}
    hub_cache(user / ".cache" / "huggingface" / "hub", files)
    assert "looked for config.json with *.safetensors" in str(one(store.adoptable()).error)
    hub_cache(user / ".cache" / "huggingface" / "hub", {}, name="models--org--empty")
    assert len(store.adoptable()) >= 2


def test_each_gguf_file_of_a_cache_is_a_model(store: Store, user: Path) -> None:
    files = {"a-q4.gguf": gguf(100), "sub/b-q8.gguf": gguf(200), "README.md": b"x", "mmproj-x.gguf": gguf()}
    hub_cache(user / ".cache" / "huggingface" / "hub", files)
    done = store.adopt(store.adoptable())
    assert sorted(adoption.found.repository for adoption in done if adoption.entry) == [
        f"{URL}?file=a-q4.gguf",
        f"{URL}?file=sub/b-q8.gguf",
    ]
    assert all(store.verify(entry.id).ok for entry in store.list())


@pytest.mark.parametrize("name", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "OLLAMA_MODELS"])
def test_variables_say_where_the_caches_are(home: Path, tmp_path: Path, name: str) -> None:
    place = tmp_path / "place"
    inner = {"HF_HUB_CACHE": ".", "HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub", "OLLAMA_MODELS": "."}[name]
    if name == "OLLAMA_MODELS":
        ollama_cache(place, gguf())
    else:
        hub_cache(place / inner, tiny_model())
    store = Store(home, environ={name: str(place), "HOME": str(tmp_path / "nobody")})
    assert one(store.adoptable()).how is not None


def test_models_of_ollama_are_taken_in(store: Store, user: Path) -> None:
    cache = user / ".ollama" / "models"
    ollama_cache(cache, gguf())
    ollama_cache(cache, gguf(77), name="hf.example/org/other/latest")
    before = facts(cache)
    done = store.adopt(store.adoptable())
    assert facts(cache) == before
    found = {adoption.found.repository: adoption for adoption in done if adoption.found.tool == "ollama"}
    assert set(found) == {"ollama:tiny:1b", "ollama:hf.example/org/other:latest"}
    entry = found["ollama:tiny:1b"].entry
    assert (entry.spec.variant, entry.spec.architecture) == ("gguf", "llama3")
    assert (entry.path / "LICENSE").read_bytes() == b"Apache-2.0"
    assert store.verify(entry.id).ok
    assert store.find("tiny") == entry


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda cache, manifest: manifest.write_text("{"), "its manifest cannot be read"),
        (lambda cache, manifest: manifest.write_text('{"layers": []}'), "it has no GGUF file"),
        (
            lambda cache, manifest: manifest.write_text(
                '{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../x", "size": 1}]}'
            ),
            "its manifest cannot be read",
        ),
        (
            lambda cache, manifest: manifest.write_text(
                '{"layers": [{"mediaType": "application/vnd.ollama.image.adapter"}]}'
            ),
            "it has an adapter, which is not read",
        ),
        (lambda cache, manifest: [path.unlink() for path in (cache / "blobs").iterdir()], "'model.gguf' is missing"),
        (
            lambda cache, manifest: [path.write_bytes(b"x") for path in (cache / "blobs").iterdir()],
            "'model.gguf' is not the file that the manifest names",
        ),
        (
            lambda cache, manifest: [
                (path.rename(path.with_suffix(".x")), path.symlink_to(path.with_suffix(".x")))
                for path in list((cache / "blobs").iterdir())
            ],
            "'model.gguf' is a link, which is not followed",
        ),
    ],
)
def test_S_1_a_manifest_of_ollama_is_not_believed(store: Store, user: Path, harm: Callable, words: str) -> None:
    cache = user / ".ollama" / "models"
    manifest = ollama_cache(cache, gguf())
    harm(cache, manifest)
    assert str(one(store.adoptable()).error) == words


def test_a_flipped_byte_in_ollama_is_refused(store: Store, user: Path) -> None:
    cache = user / ".ollama" / "models"
    ollama_cache(cache, gguf())
    blob = max((cache / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    assert "is damaged: expected sha256" in str(one(store.adopt(store.adoptable())).error)


@pytest.mark.parametrize("place", [".lmstudio/models", ".cache/lm-studio/models"])
def test_models_of_lm_studio_are_taken_in(store: Store, user: Path, place: str) -> None:
    folder = user / place / "publisher" / "tiny-GGUF"
    folder.mkdir(parents=True)
    (folder / "tiny q4.gguf").write_bytes(gguf())
    (folder / "mmproj-tiny.gguf").write_bytes(gguf())
    (folder / "big-00001-of-00002.gguf").write_bytes(gguf())
    mlx = user / place / "publisher" / "tiny-mlx"
    mlx.mkdir()
    for name, content in tiny_model().items():
        (mlx / name).write_bytes(content)
    done = store.adopt(store.adoptable())
    found = {adoption.found.place.name: adoption for adoption in done if adoption.found.tool == "lmstudio"}
    assert set(found) == {"tiny q4.gguf", "big-00001-of-00002.gguf", "tiny-mlx"}
    assert str(found["big-00001-of-00002.gguf"].error) == "it is one of several parts, which are not joined"
    assert found["tiny q4.gguf"].entry.spec.repository == (folder / "tiny q4.gguf").as_uri()
    assert store.pull(mlx.as_uri()).already
    assert all(store.verify(entry.id).ok for entry in store.list())
    assert len(store.list()) == 2


def test_named_folders_are_looked_into_whatever_they_are(store: Store, tmp_path: Path) -> None:
    hub_cache(tmp_path / "hf" / "hub", tiny_model())
    ollama_cache(tmp_path / "ol" / "models", gguf())
    (tmp_path / "plain" / "deep").mkdir(parents=True)
    (tmp_path / "plain" / "deep" / "x.gguf").write_bytes(gguf())
    adoptions = store.adoptable([tmp_path / name for name in ("hf", "ol", "plain")])
    assert [adoption.found.tool for adoption in adoptions] == ["huggingface", "ollama", "folder"]
    (single,) = store.adoptable([tmp_path / "hf" / "hub" / "models--org--m"])
    assert single.found == adoptions[0].found
    (same,) = store.adoptable([tmp_path / "hf" / "hub" / "models--org--m" / "snapshots" / COMMIT])
    assert same.found == single.found
    with pytest.raises(RepositoryNotFound, match="nowhere' is not a folder"):
        store.adoptable([tmp_path / "nowhere"])
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(RepositoryNotFound, match=r"^there is no model in '.*pickled': looked for "):
        store.adoptable([tmp_path / "pickled"])


def test_the_folder_of_an_older_commit_is_that_commit(store: Store, tmp_path: Path) -> None:
    hub_cache(tmp_path, tiny_model(seed=2), commit="2" * 40)
    repository = hub_cache(tmp_path, tiny_model())
    (done,) = store.adopt(store.adoptable([repository / "snapshots" / ("2" * 40)]))
    assert done.entry is not None
    assert (done.entry.commit, done.how) == ("2" * 40, "hard link")
    weights = (done.entry.path / "model.safetensors").read_bytes()
    assert weights == tiny_model(seed=2)["model.safetensors"]


def test_a_cache_of_another_hub_has_its_addresses(home: Path, user: Path) -> None:
    hub_cache(user / ".cache" / "huggingface" / "hub", tiny_model())
    environ = {"HOME": str(user), "HF_ENDPOINT": "https://hub.example.com/"}
    planned = one(Store(home, environ=environ).adoptable())
    assert planned.found.repository == "https://hub.example.com/org/m"
    for text in ("hub example", "https://user:hf_secret@hub.example.com", ""):
        planned = one(Store(home, environ=environ | {"HF_ENDPOINT": text}).adoptable())
        assert planned.found.repository == "https://huggingface.co/org/m"


def test_S_3_links_out_of_a_plain_folder_are_refused(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside.gguf"
    outside.write_bytes(gguf())
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x.gguf").symlink_to(outside)
    (adoption,) = store.adoptable([folder])
    assert str(adoption.error) == "'x.gguf' is a link that leads out of the folder"


def test_content_that_is_there_already_is_stored_once(home: Path, store: Store, user: Path) -> None:
    remote = MemoryRemote(files=tiny_model())
    Store(home, environ={}, remotes={"memory": lambda: remote}).pull("memory://host/org/m")
    before = {path.name for path in (home / "blobs").rglob("*") if path.is_file()}
    hub_cache(user / ".cache" / "huggingface" / "hub", tiny_model())
    done = one(store.adopt(store.adoptable()))
    assert {path.name for path in (home / "blobs").rglob("*") if path.is_file()} == before
    assert len(store.list()) == 2
    assert store.verify(done.entry.id).ok


def test_nothing_is_copied_unless_that_was_asked_for(store: Store, user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_cache(user / ".cache" / "huggingface" / "hub", tiny_model())
    monkeypatch.setattr("metalchat_store._adopt.clone", lambda *_: False)
    monkeypatch.setattr("metalchat_store._adopt.link", lambda *_: False)
    done = one(store.adopt(store.adoptable()))
    assert "can be neither cloned nor hard-linked from here" in str(done.error)
    assert done.error.exit_code == 8
    done = one(store.adopt(store.adoptable(), copies=True))
    assert (done.how, done.saved) == ("copy", 0)
    assert store.verify(done.entry.id).ok
