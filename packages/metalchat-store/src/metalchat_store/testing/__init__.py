"""Doubles of what models are pulled from, for the tests of whoever uses the store."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metalchat_store.testing.hub import FakeHub as FakeHub
    from metalchat_store.testing.index import FakeIndex as FakeIndex
    from metalchat_store.testing.memory import MemoryRemote as MemoryRemote

__all__ = ["FakeHub", "FakeIndex", "MemoryRemote"]

_HOMES = {"FakeHub": "hub", "FakeIndex": "index", "MemoryRemote": "memory"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
