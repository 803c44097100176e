"""Everything that this package raises.

    CredentialsError                3  base
    ├── InvalidURL                  2  an address that cannot own a credential
    ├── InsecureTransport           2  a token would go over http to another computer
    ├── InvalidUsername             2  a user name that no keychain could hold unambiguously
    ├── InvalidSecret               2  what was given is not an access token
    ├── NothingSelected             2  `remove` without a URL and without `all`
    ├── InvalidIndex                2  config.toml does not hold what it must
    ├── IndexNotSaved               7  config.toml could not be read or written
    ├── BackendNotFound             2  no installed backend has that name
    ├── BackendConflict             2  two distributions offer the same name
    ├── ReadOnlyBackend             2  the backend cannot store
    ├── BackendUnusable             1  the backend's distribution does not load
    ├── SecretMissing               3  the index names a token that its backend no longer has
    ├── TokenFileRefused            3  a token file that others can read, or that cannot be read
    └── KeychainError               3  the keychain failed
        ├── KeychainUnavailable     3  there is none, or it does not open
        ├── KeychainLocked          3  it is locked
        ├── KeychainTimeout         3  it did not answer
        └── SecretNotSaved          3  it did not return what was stored

The numbers are the exit codes of a command that ends with the error. Messages are one line, name what can be
changed, and never contain a token.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it; importing typing takes longer than all the rest

if TYPE_CHECKING:
    from typing import ClassVar


class CredentialsError(Exception):
    """Base of all errors of this package."""

    exit_code: ClassVar[int] = 3


class InvalidURL(CredentialsError):
    """The address has no host, a character that is not allowed, or a part that does not belong there."""

    exit_code: ClassVar[int] = 2


class InsecureTransport(CredentialsError):
    """An access token would travel over http to a server that is not this computer."""

    exit_code: ClassVar[int] = 2


class InvalidUsername(CredentialsError):
    """The user name is empty, too long, or contains a control character."""

    exit_code: ClassVar[int] = 2


class InvalidSecret(CredentialsError):
    """The text is not 1 to 1,024 printable ASCII characters without a space."""

    exit_code: ClassVar[int] = 2


class NothingSelected(CredentialsError):
    """A removal named neither a URL nor `all`."""

    exit_code: ClassVar[int] = 2


class InvalidIndex(CredentialsError):
    """config.toml is not TOML, or its table `credential` is not what it must be."""

    exit_code: ClassVar[int] = 2


class IndexNotSaved(CredentialsError):
    """config.toml could not be read from, or written to, the disk."""

    exit_code: ClassVar[int] = 7


class BackendNotFound(CredentialsError):
    """No installed secret backend has that name."""

    exit_code: ClassVar[int] = 2


class BackendConflict(CredentialsError):
    """Two installed distributions offer a secret backend of the same name."""

    exit_code: ClassVar[int] = 2


class ReadOnlyBackend(CredentialsError):
    """The secret backend can look a token up and cannot store one."""

    exit_code: ClassVar[int] = 2


class BackendUnusable(CredentialsError):
    """The secret backend's distribution does not import, or offers something else."""

    exit_code: ClassVar[int] = 1


class SecretMissing(CredentialsError):
    """The index names a credential, and its backend has no token for it."""


class TokenFileRefused(CredentialsError):
    """A token file is readable by others, is no regular file, or cannot be read."""


class KeychainError(CredentialsError):
    """The operating system's keychain failed."""


class KeychainUnavailable(KeychainError):
    """There is no keychain on this system, or the chosen one does not open."""


class KeychainLocked(KeychainError):
    """The keychain is locked, or its prompt was dismissed."""


class KeychainTimeout(KeychainError):
    """The keychain did not answer before the deadline."""


class SecretNotSaved(KeychainError):
    """The keychain accepted a token and did not return it."""
