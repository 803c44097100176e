"""Which secret belongs to which URL, and the httpx.Auth that sends it there and nowhere else."""

from __future__ import annotations

from importlib import import_module

# The sub-package first: its first import would otherwise put itself in the place of the function of that name.
import metalchat_credentials.backends  # noqa: F401 - for the order of imports
from metalchat_credentials.discovery import backends, load_backend
from metalchat_credentials.errors import (
    BackendConflict,
    BackendNotFound,
    BackendUnusable,
    CredentialsError,
    IndexNotSaved,
    InsecureTransport,
    InvalidIndex,
    InvalidSecret,
    InvalidURL,
    InvalidUsername,
    KeychainError,
    KeychainLocked,
    KeychainTimeout,
    KeychainUnavailable,
    NothingSelected,
    ReadOnlyBackend,
    SecretMissing,
    SecretNotSaved,
    TokenFileRefused,
)

TYPE_CHECKING = False  # as typing has it; importing typing takes longer than all the rest

if TYPE_CHECKING:
    from metalchat_credentials.auth import CredentialAuth
    from metalchat_credentials.backend import (
        BackendContext,
        BackendPoint,
        NamesItself,
        NeedsContext,
        Purpose,
        SecretBackend,
        SecretKey,
        SecretStore,
    )
    from metalchat_credentials.credentials import Credentials, Stored
    from metalchat_credentials.index import Credential
    from metalchat_credentials.secret import Secret, redact
    from metalchat_credentials.url import Url, parse_host, parse_url

__all__ = [
    "BackendConflict",
    "BackendContext",
    "BackendNotFound",
    "BackendPoint",
    "BackendUnusable",
    "Credential",
    "CredentialAuth",
    "Credentials",
    "CredentialsError",
    "IndexNotSaved",
    "InsecureTransport",
    "InvalidIndex",
    "InvalidSecret",
    "InvalidURL",
    "InvalidUsername",
    "KeychainError",
    "KeychainLocked",
    "KeychainTimeout",
    "KeychainUnavailable",
    "NamesItself",
    "NeedsContext",
    "NothingSelected",
    "Purpose",
    "ReadOnlyBackend",
    "Secret",
    "SecretBackend",
    "SecretKey",
    "SecretMissing",
    "SecretNotSaved",
    "SecretStore",
    "Stored",
    "TokenFileRefused",
    "Url",
    "backends",
    "load_backend",
    "parse_host",
    "parse_url",
    "redact",
]

_LAZY = {
    "auth": ("CredentialAuth",),
    "backend": (
        "BackendContext",
        "BackendPoint",
        "NamesItself",
        "NeedsContext",
        "Purpose",
        "SecretBackend",
        "SecretKey",
        "SecretStore",
    ),
    "credentials": ("Credentials", "Stored"),
    "index": ("Credential",),
    "secret": ("Secret", "redact"),
    "url": ("Url", "parse_host", "parse_url"),
}


def __getattr__(name: str) -> object:
    for module, names in _LAZY.items():
        if name in names:
            value: object = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
