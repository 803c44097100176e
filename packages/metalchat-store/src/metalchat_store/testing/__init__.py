"""Doubles of what models are pulled from, and the tests that every remote passes."""

TYPE_CHECKING = False

if TYPE_CHECKING:
    from metalchat_store.testing._contract import RemoteContract
    from metalchat_store.testing.faults import FaultyOs
    from metalchat_store.testing.files import FakeFiles
    from metalchat_store.testing.hub import FakeHub
    from metalchat_store.testing.index import FakeIndex
    from metalchat_store.testing.memory import MemoryRemote
    from metalchat_store.testing.meta import FakeMeta

__all__ = ["FakeFiles", "FakeHub", "FakeIndex", "FakeMeta", "FaultyOs", "MemoryRemote", "RemoteContract"]

_HOMES = {
    "FakeFiles": "files",
    "FakeHub": "hub",
    "FakeIndex": "index",
    "FakeMeta": "meta",
    "FaultyOs": "faults",
    "MemoryRemote": "memory",
    "RemoteContract": "_contract",
}


def __getattr__(name: str) -> object:
    """Imports what is used; the tests of the contract get pytest's explanations of failed assertions."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name == "RemoteContract":
        import pytest

        pytest.register_assert_rewrite(f"{__name__}._contract")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
