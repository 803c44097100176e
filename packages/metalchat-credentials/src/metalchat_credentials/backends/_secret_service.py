"""The Linux Secret Service, with items that libsecret programs and the keyring library both find.

An item carries the attributes `service` and `username`, which the keyring library searches for, and `xdg:schema`,
which libsecret adds to its own searches. The older program of this name is a libsecret program.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from metalchat_credentials.errors import KeychainLocked

SCHEMA = "org.metalchat.runtime"


class SecretServiceVault:
    """The collection that keyring's Secret Service backend would use. Items of the older program come first."""

    def __init__(self, keyring: Any) -> None:
        self.name: str = keyring.name
        self._keyring = keyring

    def get(self, service: str, username: str) -> str | None:
        """The first matching item's text."""
        with self._collection() as collection:
            for item in [*_search(collection, service, username, ours=True), *_search(collection, service, username)]:
                item.unlock()
                if item.is_locked():
                    raise KeychainLocked("the keychain's item is locked. Unlock it, or set HF_TOKEN")
                return item.get_secret().decode("utf-8")
        return None

    def set(self, service: str, username: str, text: str) -> None:
        """Creates the item, or replaces the one with the same attributes in one step."""
        with self._collection() as collection:
            attributes = {"service": service, "username": username, "xdg:schema": SCHEMA}
            collection.create_item(f"{service} ({username})", attributes, text.encode("utf-8"), replace=True)

    def delete(self, service: str, username: str) -> None:
        """Deletes every item that `get` could return."""
        with self._collection() as collection:
            for item in _search(collection, service, username):
                item.delete()

    @contextmanager
    def _collection(self) -> Iterator[Any]:
        import secretstorage

        with closing(secretstorage.dbus_init()) as bus:
            path = getattr(self._keyring, "preferred_collection", None)
            collection = secretstorage.Collection(bus, path) if path else secretstorage.get_default_collection(bus)
            if collection.is_locked():
                collection.unlock()
            if collection.is_locked():
                raise KeychainLocked("the keychain is locked. Unlock it, or set HF_TOKEN")
            yield collection


def _search(collection: Any, service: str, username: str, *, ours: bool = False) -> list[Any]:
    attributes = {"service": service, "username": username}
    return list(collection.search_items({**attributes, "xdg:schema": SCHEMA} if ours else attributes))
