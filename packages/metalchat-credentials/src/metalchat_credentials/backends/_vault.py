"""What the keyring library found on this system, as one or more vaults with the same three operations."""

from typing import Any, Protocol

from metalchat_credentials.backends._secret_service import SecretServiceVault

_LINUX = "keyring.backends.SecretService"


class Vault(Protocol):
    """A keychain that holds texts by service and user name. Raises whatever its driver raises."""

    name: str

    def get(self, service: str, username: str) -> str | None: ...

    def set(self, service: str, username: str, text: str) -> None: ...

    def delete(self, service: str, username: str) -> None: ...


class PlainVault:
    """A backend of the keyring library, used through that library's interface."""

    def __init__(self, keyring: Any) -> None:
        self.name: str = keyring.name
        self._keyring = keyring

    def get(self, service: str, username: str) -> str | None:
        """The text, or None."""
        text: str | None = self._keyring.get_password(service, username)
        return text

    def set(self, service: str, username: str, text: str) -> None:
        """Some backends delete the old text first, and some accept and keep nothing: the caller checks."""
        self._keyring.set_password(service, username, text)

    def delete(self, service: str, username: str) -> None:
        """Some backends raise where there is nothing to delete."""
        self._keyring.delete_password(service, username)


def vaults(keyring: Any) -> list[Vault]:
    """The vaults behind `keyring`: a chain is taken apart, since it deletes only from its first member."""
    from keyring.backends.chainer import ChainerBackend

    members: list[Any] = list(keyring.backends) if isinstance(keyring, ChainerBackend) else [keyring]
    return [
        SecretServiceVault(member) if type(member).__module__ == _LINUX else PlainVault(member)
        for member in members or [keyring]
    ]
