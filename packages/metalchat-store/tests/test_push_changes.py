"""Files that change while they are pushed: nothing of them arrives."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from metalchat_store import IntegrityError, StoreError, push
from metalchat_store.testing import FakeHub
from metalchat_store.testing.hub_wire import Recorded

TOKEN = "hf_canaryCANARYcanaryCANARYcanary12"
FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": bytes(range(256)) * 300}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add_token(TOKEN, user="alice", role="write")
        hub.add_repo("alice/m", files={".gitattributes": b"x"})
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def send(hub: FakeHub, folder: Path) -> None:
    push(folder, f"{hub.url}/alice/m", authorize=lambda _: f"Bearer {TOKEN}", environ={}, sleep=lambda _: None)


@pytest.fixture
def meddle(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], None]], None]:
    """Do something when the hub gets a request of that kind."""

    def when(word: str, action: Callable[[], None]) -> None:
        real = hub.routes.serve

        def serve(request: Recorded) -> object:
            if word in request.path:
                action()
            return real(request)

        monkeypatch.setattr(hub.routes, "serve", serve)

    return when


@pytest.mark.parametrize("how", ["grown", "same size", "replaced", "gone"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("chunk", [30_000, 1 << 24])
def test_a_file_that_changes_during_the_push_is_an_error(
    hub: FakeHub, folder: Path, meddle: Callable[..., None], name: str, how: str, chunk: int
) -> None:
    hub.routes.chunk_size = chunk
    target = folder / name
    content = target.read_bytes()

    def change() -> None:
        if how == "grown":
            target.write_bytes(content + b"x")
        elif how == "same size":
            target.write_bytes(content[::-1])
        elif how == "replaced":
            (folder.parent / "new").write_bytes(content[::-1])
            (folder.parent / "new").replace(target)
        else:
            target.unlink(missing_ok=True)

    meddle("preupload", change)
    with pytest.raises(StoreError, match=r"changed while it was pushed|cannot read") as caught:
        send(hub, folder)
    assert caught.value.exit_code == (7 if how == "gone" else 6)
    assert hub.contents("alice/m").keys() == {".gitattributes"}


def test_a_change_that_hides_its_time_is_noticed_before_the_last_byte(
    hub: FakeHub, folder: Path, meddle: Callable[..., None]
) -> None:
    target = folder / "model.safetensors"
    facts = target.stat()

    def change() -> None:
        with target.open("r+b") as file:
            file.write(b"\xff")
        os.utime(target, ns=(facts.st_atime_ns, facts.st_mtime_ns))

    meddle("preupload", change)
    with pytest.raises(IntegrityError, match=r"'model\.safetensors' changed while it was pushed"):
        send(hub, folder)
    assert hub.routes.received == {}
    assert hub.contents("alice/m").keys() == {".gitattributes"}
