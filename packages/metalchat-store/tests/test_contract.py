"""The remotes that need no network pass the contract of remotes."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from metalchat_store import NotFound, RemoteContext
from metalchat_store.remotes.file import FileRemote
from metalchat_store.testing import MemoryRemote, RemoteContract
from metalchat_store.testing.memory import tiny_model


class TestFileRemote(RemoteContract):
    @pytest.fixture
    def files(self) -> Mapping[str, bytes]:
        return tiny_model()

    @pytest.fixture
    def remote(self) -> FileRemote:
        return FileRemote()

    @pytest.fixture
    def repository(self, tmp_path: Path, files: Mapping[str, bytes]) -> str:
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        return tmp_path.as_uri()

    @pytest.fixture
    def missing(self, tmp_path: Path) -> str:
        return (tmp_path / "nothing").as_uri()


class TestMemoryRemote(RemoteContract):
    @pytest.fixture
    def files(self) -> Mapping[str, bytes]:
        return tiny_model()

    @pytest.fixture
    def remote(self, files: Mapping[str, bytes]) -> MemoryRemote:
        return MemoryRemote(files=files, identities="git")

    @pytest.fixture
    def repository(self) -> str:
        return "memory://host/org/m"

    @pytest.fixture
    def missing(self) -> str:
        return "memory://host/org/missing"

    def test_what_does_not_exist_is_an_error_of_one_line(
        self, remote: MemoryRemote, missing: str, context: RemoteContext
    ) -> None:
        with pytest.raises(NotFound):
            remote.list(missing, revision="unknown", context=context)
