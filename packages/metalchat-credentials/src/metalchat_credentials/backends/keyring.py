"""The operating system's keychain, reached through the keyring library and never waited for without end."""

import hmac
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from metalchat_credentials.backend import BackendContext, Purpose, SecretBackend, SecretKey
from metalchat_credentials.backends._deadline import Deadline, Expired
from metalchat_credentials.backends._vault import Vault, vaults
from metalchat_credentials.errors import (
    CredentialsError,
    InvalidSecret,
    KeychainError,
    KeychainLocked,
    KeychainTimeout,
    KeychainUnavailable,
    SecretNotSaved,
)
from metalchat_credentials.secret import Secret, one_line, redact

_SECONDS = 5.0
_SECONDS_WITH_A_PERSON = 60.0
_PACKAGE = "org.metalchat.runtime"

Result = TypeVar("Result")


class KeyringBackend:
    """Keeps tokens in the keychain, under the names that the older program uses.

    The service is the URL, on macOS with `org.metalchat.runtime.` before it; tokens for writing have `#write` after
    it, which no stored URL ends with. Every failure of the keychain is a KeychainError.
    """

    name = "keyring"

    def __init__(self, keyring: Any = None, *, seconds: float = _SECONDS, platform: str = sys.platform) -> None:
        """`keyring` is a backend of the keyring library, by default the one it chooses. An operation that takes more
        than `seconds` is given up."""
        self._keyring = keyring
        self._deadline = Deadline(seconds)
        self._platform = platform

    def bind(self, context: BackendContext) -> SecretBackend:
        """With a person at the keyboard there is a minute to answer the keychain's own prompt."""
        if not context.interactive:
            return self
        return KeyringBackend(self._keyring, seconds=_SECONDS_WITH_A_PERSON, platform=self._platform)

    def describe(self) -> str:
        """The keychain's own name, such as `SecretService Keyring`."""
        return self._call("open", lambda found: found[0].name)

    def get(self, key: SecretKey) -> Secret | None:
        """The token of `key`, from the first vault that has one."""
        text = self._call("read", lambda found: _find(found, self._services(key), key.username))
        try:
            return None if text is None else Secret.parse(text)
        except InvalidSecret:
            raise KeychainError(
                f"what the keychain holds for {key.url} is not an access token. Store the token again"
            ) from None

    def set(self, key: SecretKey, secret: Secret) -> None:
        """Stores, reads back and compares; where that fails, what was there before is put back.

        Raises SecretNotSaved where the keychain did not return what was stored.
        """
        service = self._services(key)[0]
        self._call("store", lambda found: _store(found[0], service, key.username, secret), (secret,))

    def delete(self, key: SecretKey) -> bool:
        """Deletes from every vault that has it, after looking; False where none had."""
        return self._call("delete", lambda found: _delete(found, self._services(key), key.username))

    def _services(self, key: SecretKey) -> tuple[str, str]:
        """The service of `key`, and as the older program has it for a URL typed with a slash at the end."""
        prefix = f"{_PACKAGE}." if self._platform == "darwin" else ""
        suffix = "#write" if key.purpose is Purpose.WRITE else ""
        return f"{prefix}{key.url}{suffix}", f"{prefix}{key.url}/{suffix}"

    def _call(self, doing: str, work: Callable[[list[Vault]], Result], secrets: Iterable[Secret] = ()) -> Result:
        try:
            return self._deadline.run(lambda: work(self._vaults()))
        except Expired:
            raise KeychainTimeout(
                f"the keychain did not answer within {self._deadline.seconds:g} s (is it locked?). "
                "Unlock it, or set HF_TOKEN"
            ) from None
        except CredentialsError:
            raise
        except Exception as error:
            # Drivers of keychains raise classes of their own.
            raise _translated(doing, error, secrets) from error

    def _vaults(self) -> list[Vault]:
        if self._keyring is not None:
            return vaults(self._keyring)
        import keyring

        try:
            return vaults(keyring.get_keyring())
        except Exception as error:
            # A backend chosen by name may raise anything while it is imported.
            raise KeychainUnavailable(
                f"the keychain could not be opened: {one_line(redact(str(error)))}. "
                "Check PYTHON_KEYRING_BACKEND and keyringrc.cfg, or set HF_TOKEN"
            ) from error


def _find(found: list[Vault], services: tuple[str, ...], username: str) -> str | None:
    for vault in found:
        for service in services:
            text = vault.get(service, username)
            if text is not None:
                return text
    return None


def _store(vault: Vault, service: str, username: str, secret: Secret) -> None:
    before = vault.get(service, username)
    try:
        vault.set(service, username, secret.reveal())
        kept = vault.get(service, username)
        if kept is None or not hmac.compare_digest(kept.encode(), secret.reveal().encode()):
            raise SecretNotSaved(f"the token was not saved: the keychain '{vault.name}' did not return what was stored")
    except Exception:
        if before is not None:
            with suppress(Exception):
                vault.set(service, username, before)
        raise


def _delete(found: list[Vault], services: tuple[str, ...], username: str) -> bool:
    deleted = False
    for vault in found:
        for service in services:
            if vault.get(service, username) is not None:
                vault.delete(service, username)
                deleted = True
    return deleted


def _translated(doing: str, error: Exception, secrets: Iterable[Secret]) -> KeychainError:
    from keyring.errors import KeyringLocked, NoKeyringError

    if isinstance(error, NoKeyringError):
        return KeychainUnavailable(
            "no keychain is available on this system. Set HF_TOKEN for this session, or install one "
            "(on Linux gnome-keyring, KWallet or KeePassXC)"
        )
    if isinstance(error, KeyringLocked) or type(error).__name__ in ("LockedException", "PromptDismissedException"):
        return KeychainLocked("the keychain is locked. Unlock it, or set HF_TOKEN")
    text = one_line(redact(str(error), secrets))
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return KeychainError(f"the keychain could not {doing} the token ({reason}). Unlock or repair it, or set HF_TOKEN")
