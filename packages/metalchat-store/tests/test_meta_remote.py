"""Models from Meta: the signed link stays secret, every file is compared, and what is kept is safetensors."""

import hashlib
import json
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from metalchat_store import (
    AccessDenied,
    IntegrityError,
    InvalidRepository,
    NetworkError,
    NotAModel,
    RemoteContext,
    RepositoryNotFound,
    Store,
    StoreError,
)
from metalchat_store.remotes.meta import MetaRemote, parse_checklist
from metalchat_store.testing import FakeMeta, MemoryRemote, RemoteContract
from metalchat_store.testing.memory import tiny_model

META = Path(__file__).parent / "golden" / "meta"
REPOSITORY = "meta:Llama3.2-1B-Instruct"
FOLDER = "Llama-3.2-1B-Instruct"
FILES = {
    "params.json": (META / "params.json").read_bytes(),
    "tokenizer.model": (META / "tokenizer.model").read_bytes(),
    "consolidated.00.pth": (META / "whole.pth").read_bytes(),
}


@pytest.fixture
def meta() -> Iterator[FakeMeta]:
    with FakeMeta() as server:
        server.add(FOLDER, FILES)
        yield server


def store(home: Path, meta: FakeMeta, **environ: str) -> Store:
    return Store(home, environ=meta.environ | environ, remotes={"meta": MetaRemote}, sleep=lambda _: None)


def everything(home: Path) -> bytes:
    """Names and contents of all that a store wrote."""
    found = [str(path).encode() + (path.read_bytes() if path.is_file() else b"") for path in home.rglob("*")]
    return b"\n".join(found)


class TestMetaRemote(RemoteContract):
    @pytest.fixture
    def files(self) -> Mapping[str, bytes]:
        return FILES

    @pytest.fixture
    def remote(self) -> Iterator[MetaRemote]:
        remote = MetaRemote()
        yield remote
        remote.close()

    @pytest.fixture
    def context(self, meta: FakeMeta) -> RemoteContext:
        return RemoteContext(environ=meta.environ)

    @pytest.fixture
    def repository(self) -> str:
        return REPOSITORY

    @pytest.fixture
    def missing(self) -> str:
        return "meta:Llama3.2-3B"


@pytest.mark.parametrize("digest", ["md5", "sha256"])
def test_a_pull_keeps_safetensors_and_no_pickle(home: Path, digest: str) -> None:
    with FakeMeta() as meta:
        meta.add(FOLDER, FILES, digest=digest)
        pulled = store(home, meta).pull(REPOSITORY)
    spec = pulled.entry.spec
    assert spec is not None
    assert (spec.variant, spec.architecture, spec.partitioning) == ("meta", "llama3", "consolidated")
    assert {path.name for path in pulled.entry.path.iterdir()} == {
        "metalchat.toml",
        "params.json",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model.safetensors",
    }
    assert json.loads((pulled.entry.path / "config.json").read_text())["max_position_embeddings"] == 131072
    assert pulled.fetched_bytes == sum(map(len, FILES.values()))
    assert not list((home / "partial").iterdir())
    assert b".pth" not in everything(home)


def test_a_second_pull_fetches_nothing_and_a_verification_passes(home: Path, meta: FakeMeta) -> None:
    kept = store(home, meta)
    first = kept.pull(REPOSITORY)
    before = len([request for request in meta.requests if request.path.endswith(".pth") and request.sent > 1])
    assert kept.pull(REPOSITORY).already
    assert before == len([request for request in meta.requests if request.path.endswith(".pth") and request.sent > 1])
    assert kept.verify(first.entry.id).ok
    assert kept.plan(REPOSITORY).download_bytes == 0
    assert kept.lookup(REPOSITORY) == first.entry


def test_damage_is_repaired_and_a_lock_restored_by_the_same_conversion(home: Path, meta: FakeMeta) -> None:
    kept = store(home, meta)
    id = kept.pull(REPOSITORY).entry.id
    path = home / "models" / id / "model.safetensors"
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:-1] + b"x")
    assert not kept.verify(id).ok
    kept.repair(id)
    assert path.read_bytes() == whole
    lock = kept.lock(id)
    kept.remove(id)
    assert kept.restore(lock).entry.id == id
    assert path.read_bytes() == whole


def test_without_a_link_the_others_are_asked_what_is_new_all_the_same(home: Path, meta: FakeMeta) -> None:
    store(home, meta).pull(REPOSITORY)
    shelf = MemoryRemote(files=tiny_model())
    kept = Store(home, environ={}, remotes={"meta": MetaRemote, "memory": lambda: shelf})
    kept.pull("memory://host/org/model")
    found = {each.entry.spec.repository: each for each in kept.outdated() if each.entry.spec is not None}
    assert isinstance(found[REPOSITORY].error, AccessDenied)
    assert found["memory://host/org/model"].error is None


def test_what_a_pull_would_fetch_is_known_before(home: Path, meta: FakeMeta) -> None:
    plan = store(home, meta).plan(REPOSITORY)
    assert plan.download_bytes == sum(map(len, FILES.values()))
    assert plan.license == "llama3.2"
    assert not home.exists()


def test_several_files_of_weights_become_one(home: Path) -> None:
    halves = [(META / f"half.{number:02}.pth").read_bytes() for number in range(2)]
    with FakeMeta() as meta:
        shards = {f"consolidated.{number:02}.pth": halves[number % 2] for number in range(8)}
        files = {name: content for name, content in FILES.items() if not name.endswith(".pth")} | shards
        meta.add("Llama-3.1-70B", files)
        with pytest.raises(NotAModel, match="the 4 heads of the model cannot be split into 8 files"):
            store(home, meta).pull("meta:Llama3.1-70B")
    assert not list((home / "partial").iterdir())


LEAKS = {
    "expired": {"status": 403},
    "unknown": {"status": 404},
    "broken": {"status": 418},
    "busy": {"status": 503, "times": -1},
    "waiting": {"status": 429, "set": {"Retry-After": "86400"}},
    "redirect to nothing": {"redirect": ""},
    "redirect to a file": {"redirect": "file:///etc/passwd"},
    "redirect in a circle": {"redirect": "/*?Signature=x", "times": -1},
    "garbage": {"garbage": b"\xff\xfe\r\n\r\n"},
    "closed": {"close": True, "times": -1},
    "bad chunk": {"badchunk": True, "times": -1},
    "compressed": {"gzip": True},
    "flipped": {"flip": 3, "times": -1},
    "cut": {"cut": 5, "times": -1},
    "longer": {"extra": b"more", "times": -1},
    "range of lies": {"range_lie": True, "times": -1},
}


@pytest.mark.parametrize("name", LEAKS)
@pytest.mark.parametrize("file", ["checklist.chk", "params.json", "consolidated.00.pth"])
def test_the_link_is_in_no_error_and_in_no_file(home: Path, meta: FakeMeta, name: str, file: str) -> None:
    meta.fault(path=file, **LEAKS[name])
    secrets = [meta.signature, "Key-Pair-Id", "Signature="]
    said: list[str] = []
    try:
        store(home, meta).pull(REPOSITORY)
    except StoreError as error:
        said = ["".join(traceback.format_exception(error)), repr(error)]
    assert not [secret for secret in secrets if secret in "".join(said)]
    content = everything(home)
    assert not [secret for secret in secrets if secret.encode() in content]


def test_the_link_goes_to_its_own_server_only(home: Path, meta: FakeMeta) -> None:
    target = f"{meta.evil_url}/{FOLDER}/consolidated.00.pth"
    meta.fault(role="meta", path=r"consolidated\.00\.pth", redirect=target, times=-1)
    store(home, meta).pull(REPOSITORY)
    seen = meta.of("evil")
    assert seen
    assert not [request for request in seen if meta.signature.encode() in request.dump()]


def test_an_expired_link_says_so(home: Path, meta: FakeMeta) -> None:
    kept = store(home, meta)
    meta.expire()
    with pytest.raises(AccessDenied) as caught:
        kept.pull(REPOSITORY)
    assert str(caught.value) == (
        "the link expired, or it is not for 'Llama3.2-1B-Instruct': ask Meta for a new one at "
        "https://www.llama.com/llama-downloads and pull again; what was fetched is kept"
    )
    assert caught.value.exit_code == 3


def test_a_link_that_expires_on_the_way_loses_nothing(home: Path, meta: FakeMeta) -> None:
    path = r"consolidated\.00\.pth"
    meta.fault(path=path, skip=1, cut=40_000)
    meta.fault(path=path, skip=1, expire=True)
    with pytest.raises(AccessDenied, match="the link expired"):
        store(home, meta).pull(REPOSITORY)
    pulled = store(home, meta).pull(REPOSITORY)
    whole = sum(map(len, FILES.values()))
    assert pulled.fetched_bytes < whole - 30_000
    last = [request for request in meta.requests if request.path.endswith(".pth")][-1]
    assert (last.header("Range") or "").startswith("bytes=40000-")
    assert last.status == 206


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("digest", ["md5", "sha256"])
def test_a_flipped_byte_is_found_in_every_file(home: Path, name: str, digest: str) -> None:
    with FakeMeta() as meta:
        meta.add(FOLDER, FILES, digest=digest)
        meta.files[f"/{FOLDER}/{name}"] = FILES[name][:-1] + bytes([FILES[name][-1] ^ 1])
        with pytest.raises(IntegrityError, match=rf"'{name}' is damaged.*Nothing was kept"):
            store(home, meta).pull(REPOSITORY)
    assert not list((home / "models").iterdir())
    assert not [path for path in (home / "blobs").rglob("*") if path.is_file()]


def test_a_wrong_range_starts_over(home: Path, meta: FakeMeta) -> None:
    meta.fault(path=r"consolidated\.00\.pth", skip=1, cut=40_000)
    meta.fault(path=r"consolidated\.00\.pth", skip=2, range_lie=True)
    assert not store(home, meta).pull(REPOSITORY).already


@pytest.mark.parametrize(
    "checklist",
    [
        b"x",
        b"0" * 31 + b"  params.json\n",
        b"0" * 32 + b"  ../params.json\n",
        b"0" * 32 + b"  /etc/passwd\n",
        b"0" * 32 + b"  a\x1b[2Jb\n",
        b"0" * 32 + b"  .hidden\n",
        (b"0" * 32 + b"  params.json\n") * 2,
        b"\xff\xfe",
    ],
)
def test_a_checklist_that_is_none_is_refused(home: Path, checklist: bytes) -> None:
    with pytest.raises(IntegrityError, match="not a list of digests and file names"):
        parse_checklist(checklist)
    with FakeMeta() as meta:
        meta.add(FOLDER, FILES, checklist=checklist)
        with pytest.raises(IntegrityError):
            store(home, meta).pull(REPOSITORY)


def test_a_checklist_may_be_written_as_md5sum_does() -> None:
    md5 = "0" * 32
    assert parse_checklist(f"{md5} *a\n{md5.upper()}  ./b\r\n\n".encode()) == {"a": md5, "b": md5}


def test_a_huge_checklist_is_not_read(home: Path, meta: FakeMeta) -> None:
    meta.files[f"/{FOLDER}/checklist.chk"] = bytes(1 << 20)
    with pytest.raises(IntegrityError, match=r"'checklist.chk' is larger than 64 KiB"):
        store(home, meta).pull(REPOSITORY)


def test_weights_that_the_checklist_does_not_name_are_refused(home: Path) -> None:
    def line(name: str) -> str:
        return f"{hashlib.md5(FILES[name]).hexdigest()}  {name}\n"

    with FakeMeta() as meta:
        meta.add(FOLDER, FILES, checklist=line("params.json").encode())
        with pytest.raises(IntegrityError, match=r"does not name 'consolidated.00.pth'"):
            store(home, meta).pull(REPOSITORY)
        meta.add(FOLDER, FILES, checklist=(line("params.json") + line("consolidated.00.pth")).encode())
        notices: list[str] = []
        context = RemoteContext(environ=meta.environ, notice=notices.append)
        remote = MetaRemote()
        remote.list(REPOSITORY, revision=None, context=context)
        remote.close()
    assert notices == ["Meta's checklist does not name 'tokenizer.model': its content is not compared"]


def test_params_that_cannot_be_used_are_known_before_the_weights_are_fetched(home: Path) -> None:
    params = json.dumps(json.loads(FILES["params.json"]) | {"vision_chunk_size": 448}).encode()
    with FakeMeta() as meta:
        meta.add(FOLDER, FILES | {"params.json": params})
        with pytest.raises(NotAModel, match="reads images"):
            store(home, meta).pull(REPOSITORY)
        assert not [request for request in meta.requests if request.path.endswith(".pth")]


@pytest.mark.parametrize(
    ("link", "kind"),
    [
        ("", AccessDenied),
        ("  ", AccessDenied),
        ("https://llama.test/x?Signature=CANARY", InvalidRepository),
        ("https://llama.test/*/*?Signature=CANARY", InvalidRepository),
        ("https://llama.test/?x=*&Signature=CANARY", InvalidRepository),
        ("https://llama.test/*#CANARY", InvalidRepository),
        ("http://llama.test/*?Signature=CANARY", InvalidRepository),
        ("https://CANARY@llama.test/*?x", InvalidRepository),
        ("https://llama.test/*?a\nCANARY", InvalidRepository),
        ("https://llama.test/*?\x1b[2JCANARY", InvalidRepository),
        ("CANARY:/*", InvalidRepository),
        ("file:///CANARY/*", InvalidRepository),
        ("https://llama.test/*?" + "CANARY" * 2000, InvalidRepository),
    ],
)
def test_what_is_no_link_is_not_repeated(home: Path, link: str, kind: type[StoreError]) -> None:
    kept = Store(home, environ={"METALCHAT_META_URL": link}, remotes={"meta": MetaRemote})
    with pytest.raises(kind) as caught:
        kept.pull(REPOSITORY)
    assert "CANARY" not in "".join(traceback.format_exception(caught.value))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Llama3.2-1B-instruct", "such as Llama3.2-1B-Instruct"),
        ("nothing-like-it", "such as Llama3.2-1B-Instruct"),
        ("../../etc", "Meta has no model"),
        ("Llama-2-7b", "its tokenizer is a SentencePiece one): pull https://huggingface.co/meta-llama/Llama-2-7b"),
        ("Llama3.2-11B-Vision", "it reads images): pull https://huggingface.co/meta-llama/Llama-3.2-11B-Vision"),
        ("Llama3.1-405B", "it is quantised): pull https://huggingface.co/meta-llama/Llama-3.1-405B-FP8"),
        ("Llama-4-Scout-17B-16E", "it is a mixture of experts): pull https://huggingface.co/meta-llama/Llama-4-Scout"),
        ("Prompt-Guard-86M", "without its configuration): pull https://huggingface.co/meta-llama/Prompt-Guard-86M"),
    ],
)
def test_what_meta_has_not_or_cannot_be_converted_is_refused_without_a_request(
    home: Path, meta: FakeMeta, name: str, words: str
) -> None:
    with pytest.raises(InvalidRepository) as caught:
        store(home, meta).pull(f"meta:{name}")
    assert words in str(caught.value)
    assert meta.requests == []


def test_the_known_releases_have_the_folders_and_files_of_meta(meta: FakeMeta) -> None:
    from metalchat_store.remotes._meta_releases import _OTHERS, _TEXT, find_release

    releases = {row[0]: find_release(row[0]) for row in _TEXT}
    assert len(releases) + len(_OTHERS) == 45 + 3
    assert releases["Llama-Guard-2-8B"].folder == "llama-guard-2"
    assert releases["Llama3.1-405B:bf16-mp16"].folder == "Llama-3.1-405B-MP16"
    assert releases["Llama3.1-405B:bf16-mp16"].weights[-1] == "consolidated.15.pth"
    assert releases["Llama3.3-70B-Instruct"].weights == tuple(f"consolidated.{number:02}.pth" for number in range(8))
    assert releases["Llama3.2-3B"].folder == "Llama-3.2-3B"
    assert (releases["Llama-3-8B"].traits.tokens, releases["Llama-3-8B"].traits.context) == ("llama3", 8192)
    assert (releases["Llama3.2-3B"].traits.rope_factor, releases["Llama3.1-8B"].traits.rope_factor) == (32.0, 8.0)
    assert not releases["Llama3.2-3B"].traits.chat


def test_the_only_revision_is_the_commit(home: Path, meta: FakeMeta) -> None:
    with pytest.raises(RepositoryNotFound, match="has no other revision"):
        store(home, meta).pull(REPOSITORY, revision="main")


def test_a_release_that_the_link_is_not_for_is_not_found(home: Path, meta: FakeMeta) -> None:
    with pytest.raises(RepositoryNotFound, match="is the link for another release"):
        store(home, meta).pull("meta:Llama3.2-3B")


def test_a_server_that_tells_no_size_is_refused(home: Path, meta: FakeMeta) -> None:
    meta.fault(path="tokenizer", norange=True, drop=("Content-Length",), times=-1)
    with pytest.raises(NetworkError, match=r"does not tell the size of 'tokenizer.model'"):
        store(home, meta).pull(REPOSITORY)
