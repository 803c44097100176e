"""Models of Ollama have a source like others: updated, repaired and pulled from where Ollama keeps them."""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from metalchat_store import IntegrityError, Refused, RemoteContext, RepositoryNotFound, Store
from metalchat_store.remotes.ollama import OllamaRemote
from metalchat_store.testing import RemoteContract

URL = "ollama:tiny:1b"


def gguf(size: int) -> bytes:
    key, value = b"general.architecture", b"llama"
    entry = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(value)) + value
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry + bytes(size)


def pulled_by_ollama(cache: Path, content: bytes, *, tag: str = "1b") -> Path:
    """What `ollama pull tiny:1b` leaves; the file with the weights."""
    (cache / "blobs").mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(content).hexdigest()
    blob = cache / "blobs" / f"sha256-{digest}"
    blob.write_bytes(content)
    manifest = cache / "manifests" / "registry.ollama.ai" / "library" / "tiny" / tag
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": len(content)}
    manifest.write_text(json.dumps({"layers": [layer]}))
    return blob


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "ollama"


@pytest.fixture
def store(home: Path, cache: Path) -> Store:
    return Store(home, environ={"OLLAMA_MODELS": str(cache)})


class TestOllamaRemote(RemoteContract):
    @pytest.fixture
    def files(self) -> Mapping[str, bytes]:
        return {"model.gguf": gguf(3000)}

    @pytest.fixture
    def remote(self) -> OllamaRemote:
        return OllamaRemote()

    @pytest.fixture
    def context(self, cache: Path) -> RemoteContext:
        return RemoteContext(authorize=lambda _: None, environ={"OLLAMA_MODELS": str(cache)})

    @pytest.fixture
    def repository(self, cache: Path, files: Mapping[str, bytes]) -> str:
        pulled_by_ollama(cache, files["model.gguf"])
        return URL

    @pytest.fixture
    def missing(self) -> str:
        return "ollama:other:latest"


def test_a_name_without_a_tag_is_the_latest(store: Store, cache: Path) -> None:
    pulled_by_ollama(cache, gguf(100), tag="latest")
    entry = store.pull("ollama:tiny").entry
    assert entry.spec is not None
    assert entry.spec.repository == "ollama:tiny:latest"
    assert store.lookup("ollama:tiny") == store.lookup("ollama:tiny:latest") == entry
    with pytest.raises(RepositoryNotFound, match="no model 'space/tiny:latest' on this computer"):
        store.pull("ollama:space/tiny")


def test_an_adopted_model_follows_what_ollama_pulls(store: Store, cache: Path) -> None:
    pulled_by_ollama(cache, gguf(100))
    (adopted,) = store.adopt(store.adoptable())
    entry = adopted.entry
    assert not store.outdated()[0].outdated
    pulled_by_ollama(cache, gguf(200))
    assert store.outdated()[0].outdated
    plan = store.plan_update(entry.id)
    assert [(change.path, change.what) for change in plan.changes] == [("model.gguf", "changed")]
    assert plan.download_bytes == 0
    newer = store.update(entry.id).entry
    assert (newer.id, newer.size) == (entry.id, len(gguf(200)))
    assert store.rollback(entry.id).commit == entry.commit


def test_a_model_of_ollama_is_pulled_by_its_name(store: Store, cache: Path) -> None:
    pulled_by_ollama(cache, gguf(100))
    pulled = store.pull(URL)
    assert (pulled.fetched_bytes, pulled.entry.spec.variant) == (0, "gguf")
    lock = store.lock("tiny")
    store.remove("tiny")
    assert store.restore(lock).entry.id == pulled.entry.id
    with pytest.raises(RepositoryNotFound, match=r"no other revision of it: pull it without one$"):
        store.pull(URL, revision="main")
    with pytest.raises(RepositoryNotFound, match=r"has no model 'tiny:latest' on this computer \(ollama:tiny:1b\)"):
        store.pull("ollama:tiny")


def test_damage_is_repaired_from_ollama_while_its_own_file_is_whole(store: Store, cache: Path) -> None:
    blob = pulled_by_ollama(cache, gguf(100))
    entry = store.pull(URL).entry
    inside = entry.path / "model.gguf"
    inside.unlink()
    inside.write_bytes(gguf(99) + b"x")
    (broken,) = (path for path in (store.home / "blobs").rglob("*") if path.is_file())
    broken.unlink()
    broken.write_bytes(gguf(99) + b"x")
    assert store.repair(entry.id).verification.ok
    assert blob.read_bytes() == (entry.path / "model.gguf").read_bytes() == gguf(100)


def test_damage_that_is_in_the_file_of_ollama_names_that_file(store: Store, cache: Path) -> None:
    blob = pulled_by_ollama(cache, gguf(100))
    store.pull(URL)
    blob.chmod(0o644)
    with blob.open("r+b") as file:  # if it is a hard link, this is the file of the store too
        file.seek(60)
        file.write(b"x")
    for path in (store.home / "blobs").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(gguf(99) + b"x")
    with pytest.raises(IntegrityError, match=f"'{blob}' is damaged: expected sha256"):
        store.repair("tiny")
    blob.unlink()
    with pytest.raises(Refused, match=r"cannot be taken from Ollama: 'model.gguf' is missing$"):
        store.repair("tiny")
