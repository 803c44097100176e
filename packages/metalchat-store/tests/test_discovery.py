"""Remotes are found by the scheme of the address."""

from collections.abc import Callable
from importlib import metadata
from types import SimpleNamespace

import pytest
from metalchat_store import IncompatibleRemote, RemoteConflict, RemoteNotFound, installed_remotes, load_remote
from metalchat_store.remotes.file import FileRemote

Register = Callable[..., None]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    def register(*points: tuple[str, str, str]) -> None:
        found = [
            SimpleNamespace(
                name=name, value=value, dist=SimpleNamespace(metadata={"Name": distribution}, version="1.0")
            )
            for name, distribution, value in points
        ]
        monkeypatch.setattr(metadata, "entry_points", lambda *, group: found if group == "metalchat.remotes" else [])

    return register


FILE = "metalchat_store.remotes.file:FileRemote"


def test_the_builtin_remotes_are_registered_like_any_other() -> None:
    assert {point.scheme for point in installed_remotes() if point.builtin} >= {"https", "http", "file", "pypi"}


def test_a_scheme_selects_its_remote() -> None:
    assert isinstance(load_remote("FILE", {}), FileRemote)


def test_an_unknown_scheme_lists_what_is_installed(register: Register) -> None:
    register(("file", "metalchat-store", FILE), ("s3", "other", FILE))
    with pytest.raises(RemoteNotFound) as caught:
        load_remote("gopher", {})
    assert str(caught.value) == "nothing installed can pull from 'gopher:' addresses (installed: file, s3)"


def test_two_remotes_of_one_scheme_are_an_error_that_names_both(register: Register) -> None:
    register(("s3", "one", FILE), ("s3", "two", FILE))
    with pytest.raises(RemoteConflict, match="one and two"):
        load_remote("s3", {})


@pytest.mark.parametrize(("plugins", "allowed"), [(None, True), ("", False), ("other", False), ("other, S3", True)])
def test_METALCHAT_PLUGINS_restricts_remotes_of_others(register: Register, plugins: str | None, allowed: bool) -> None:
    register(("file", "metalchat-store", FILE), ("s3", "other", FILE))
    environ = {} if plugins is None else {"METALCHAT_PLUGINS": plugins}
    assert isinstance(load_remote("file", environ), FileRemote)
    if allowed:
        assert isinstance(load_remote("s3", environ), FileRemote)
    else:
        with pytest.raises(RemoteNotFound, match="METALCHAT_PLUGINS does not name it"):
            load_remote("s3", environ)


@pytest.mark.parametrize(
    "distribution", ["metalchat-s3", "metalchat-server", "metalchat-chat", "metalchat-engine-openai"]
)
def test_a_name_that_looks_like_one_of_ours_does_not_make_a_remote_builtin(
    register: Register, distribution: str
) -> None:
    register(("file", "Metalchat_Store", FILE), ("s3", distribution, FILE))
    assert {point.scheme: point.builtin for point in installed_remotes()} == {"file": True, "s3": False}
    with pytest.raises(RemoteNotFound, match="METALCHAT_PLUGINS does not name it"):
        load_remote("s3", {"METALCHAT_PLUGINS": ""})


@pytest.mark.parametrize(
    "value", ["no.such.module:Remote", "os:nothing", "metalchat_store.digest:Digest", "builtins:object"]
)
def test_a_remote_that_does_not_load_is_named(register: Register, value: str) -> None:
    register(("s3", "other-remote", value))
    with pytest.raises(IncompatibleRemote, match="'s3' of other-remote"):
        load_remote("s3", {})
