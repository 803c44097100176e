"""A remote of somebody else's that can be pushed to: four methods beside those of every remote."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from metalchat_store import (
    Committed,
    Destination,
    IncompatibleRemote,
    LocalFile,
    NetworkError,
    Offer,
    Offered,
    Pushed,
    Pushes,
    RemoteContext,
    push,
)
from metalchat_store.testing import MemoryRemote

FILES = {"a.txt": b"a", "big.bin": bytes(100_000), "b/c.txt": b"c"}


@dataclass(kw_only=True)
class Shelf:
    """Keeps what is pushed to it in memory; `failures` are raised by the next calls."""

    large: dict[str, bytes] = field(default_factory=dict)
    there: dict[str, bytes] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    closed: int = 0

    def close(self) -> None:
        self.closed += 1

    def offer(self, destination: Destination, files: Sequence[LocalFile], *, context: RemoteContext) -> Offer:
        self._called("offer")
        return Offer(commit=f"c{len(self.there)}", files=tuple(map(self._offered, files)))

    def create(self, destination: Destination, *, context: RemoteContext) -> bool:
        raise AssertionError("it is there")

    def send(
        self, destination: Destination, file: LocalFile, *, context: RemoteContext, seen: Callable[[int], None]
    ) -> int:
        self._called("send")
        self.large[file.sha256] = b"".join(file.read(0, file.size))
        seen(file.size)
        return file.size

    def commit(
        self,
        destination: Destination,
        offer: Offer,
        files: Sequence[LocalFile],
        *,
        message: str,
        context: RemoteContext,
    ) -> Committed:
        self._called("commit")
        for file in files:
            self.there[file.path] = self.large.get(file.sha256) or b"".join(file.read(0, file.size))
        return Committed(commit=f"c{len(self.there)}", url="memory://page")

    def _offered(self, file: LocalFile) -> Offered:
        content = b"".join(file.read(0, file.size))
        if self.there.get(file.path) == content:
            return Offered(path=file.path, how="unchanged")
        if file.sha256 in self.large:
            return Offered(path=file.path, how="present")
        return Offered(path=file.path, how="large" if file.size > 1000 else "regular")

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.failures:
            raise self.failures.pop(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def send(folder: Path, shelf: Shelf) -> Pushed:
    return push(
        folder, "memory://host/m", authorize=lambda _url: "Bearer x", environ={}, remotes={"memory": lambda: shelf},
        sleep=lambda _seconds: None,
    )  # fmt: skip


def test_a_remote_with_the_four_methods_is_pushed_to(folder: Path) -> None:
    shelf = Shelf()
    assert isinstance(shelf, Pushes)
    assert not isinstance(MemoryRemote(files={}), Pushes)
    result = send(folder, shelf)
    assert shelf.there == FILES
    assert (result.commit, result.url, result.sent_bytes) == ("c3", "memory://page", 100_002)
    assert shelf.closed == 1
    assert send(folder, shelf).already


def test_the_store_pauses_and_asks_again_for_it(folder: Path) -> None:
    shelf = Shelf(failures=[NetworkError("busy", transient=True), ConnectionResetError("reset")])
    send(folder, shelf)
    assert shelf.there == FILES
    assert shelf.calls == ["offer", "offer", "offer", "send", "commit"]


def test_what_it_raises_by_accident_is_an_error_of_the_store(folder: Path) -> None:
    with pytest.raises(IncompatibleRemote, match="the remote of memory://host/m failed: KeyError: 'x'"):
        send(folder, Shelf(failures=[KeyError("x")]))


def test_an_answer_about_other_files_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf()
    monkeypatch.setattr(shelf, "_offered", lambda _file: Offered(path="other", how="regular"))
    with pytest.raises(NetworkError, match="did not answer for the files that it was offered"):
        send(folder, shelf)
