import sys
from importlib.metadata import EntryPoint

import pytest
from metalchat_credentials import (
    BackendConflict,
    BackendNotFound,
    BackendUnusable,
    SecretBackend,
    SecretStore,
    backends,
    load_backend,
)

BUILT_IN = ["dotenv", "environment", "huggingface", "keyring"]


class Distribution:
    def __init__(self, name: str) -> None:
        self.name = name
        self.version = "1.2"


def point(name: str, value: str, distribution: str) -> EntryPoint:
    made = EntryPoint(name=name, value=value, group="metalchat.credentials")
    vars(made)["dist"] = Distribution(distribution)
    return made


@pytest.fixture
def install(monkeypatch):
    import importlib.metadata

    installed = list(importlib.metadata.entry_points(group="metalchat.credentials"))

    def install(*points: EntryPoint) -> None:
        installed.extend(points)
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: tuple(installed))

    return install


def test_the_built_in_backends_are_registered_as_any_other() -> None:
    found = [entry for entry in backends(environ={}) if entry.distribution == "metalchat-credentials"]
    assert [entry.name for entry in found] == BUILT_IN
    for entry in found:
        backend = load_backend(entry.name)
        assert isinstance(backend, SecretBackend)
        assert backend.name == entry.name
        assert isinstance(backend, SecretStore) is (entry.name == "keyring")


def test_listing_imports_nothing(install) -> None:
    install(point("vault", "no_such_module:Vault", "vault-plugin"))
    assert ("vault", "vault-plugin", "1.2", "no_such_module:Vault") in [
        (entry.name, entry.distribution, entry.version, entry.value) for entry in backends(environ={})
    ]
    assert "no_such_module" not in sys.modules


def test_an_unknown_name_is_an_error_that_lists_what_is_installed() -> None:
    with pytest.raises(BackendNotFound) as caught:
        load_backend("no\nsuch", environ={"METALCHAT_PLUGINS": ""})
    assert str(caught.value) == (
        "no secret backend is named 'no\\nsuch'. Installed: dotenv, environment, huggingface, keyring"
    )
    assert caught.value.exit_code == 2


def test_two_distributions_with_one_name_are_an_error_that_names_both(install) -> None:
    install(point("keyring", "metalchat_credentials.testing:MemoryBackend", "vault-plugin"))
    with pytest.raises(BackendConflict) as caught:
        load_backend("keyring", environ={})
    assert "metalchat-credentials and vault-plugin" in str(caught.value)
    assert caught.value.exit_code == 2
    assert load_backend("environment", environ={}).name == "environment"


def test_one_distribution_seen_twice_is_one(install) -> None:
    entry = point("vault", "metalchat_credentials.testing:MemoryBackend", "vault-plugin")
    install(entry, entry)
    assert load_backend("vault", environ={}).name == "memory"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_module:Vault", "does not load (ModuleNotFoundError)"),
        ("metalchat_credentials.testing:NoSuch", "does not load (AttributeError)"),
        ("metalchat_credentials.secret:Secret", "does not load (TypeError)"),
        ("builtins:dict", "is not a secret backend"),
    ],
)
def test_a_backend_that_does_not_load_is_an_error_that_names_its_distribution(install, value, reason) -> None:
    install(point("vault", value, "vault-plugin"))
    with pytest.raises(BackendUnusable) as caught:
        load_backend("vault", environ={})
    assert reason in str(caught.value)
    assert "vault-plugin" in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("plugins", "listed"),
    [(None, ["safe", "vault"]), ("", []), ("vault", ["vault"]), ("vault, safe", ["safe", "vault"]), ("other", [])],
)
def test_the_environment_restricts_which_plugins_may_load(install, plugins, listed) -> None:
    install(
        point("vault", "builtins:dict", "vault-plugin"),
        point("safe", "builtins:dict", "metalchat-safe-plugin"),  # a name like ours is not ours
    )
    environ = {} if plugins is None else {"METALCHAT_PLUGINS": plugins}
    found = backends(environ=environ)
    assert [entry.name for entry in found if entry.distribution.endswith("-plugin")] == listed
    assert [entry.name for entry in found if entry.distribution == "metalchat-credentials"] == BUILT_IN
    if "vault" not in listed:
        with pytest.raises(BackendNotFound):
            load_backend("vault", environ=environ)
