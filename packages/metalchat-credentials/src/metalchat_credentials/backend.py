"""The contract of a place that keeps secrets: what it is asked, what it answers, what else it may offer."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from metalchat_credentials.errors import InvalidUsername
from metalchat_credentials.secret import Secret
from metalchat_credentials.url import Url


class Purpose(StrEnum):
    """What a token is for. A token stored for one purpose is never used for the other."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretKey:
    """Which secret. `variable` is the name that the index maps it to, for backends that look names up.

    Raises InvalidUsername for more than 256 characters or a control character.
    """

    url: Url
    username: str
    purpose: Purpose = Purpose.READ
    variable: str | None = None

    def __post_init__(self) -> None:
        if len(self.username) > 256 or any(c < " " or "\x7f" <= c <= "\x9f" for c in self.username):
            raise InvalidUsername("the user name is too long or contains a character that is not allowed")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendContext:
    """Where a backend works: metalchat's home, the environment, the working directory, and is a person waiting."""

    home: Path
    environ: Mapping[str, str]
    directory: Path
    interactive: bool = False


@runtime_checkable
class SecretBackend(Protocol):
    """Looks secrets up. Raises CredentialsError and nothing else on purpose."""

    @property
    def name(self) -> str:
        """The entry point's name."""
        ...

    def get(self, key: SecretKey) -> Secret | None:
        """The secret that belongs to exactly this key, or None."""
        ...


@runtime_checkable
class SecretStore(SecretBackend, Protocol):
    """A backend that also keeps secrets."""

    def set(self, key: SecretKey, secret: Secret) -> None:
        """Keeps `secret`, replacing what the key had; returns only when `get` gives it back."""
        ...

    def delete(self, key: SecretKey) -> bool:
        """Forgets the key's secret, and no other; False where there was none."""
        ...


@runtime_checkable
class NeedsContext(Protocol):
    """A backend that wants to know where it works before it is used."""

    def bind(self, context: BackendContext) -> SecretBackend:
        """The backend for that place: a new one, or itself."""
        ...


@runtime_checkable
class NamesItself(Protocol):
    """A backend that can say which keychain it uses, such as `SecretService Keyring`."""

    def describe(self) -> str:
        """A name for a person to read."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendPoint:
    """An installed backend, as its distribution's metadata announces it."""

    name: str
    distribution: str
    version: str
    value: str
