"""Which secret belongs to which URL: the index, the backends, and the one function that turns a URL into a header."""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from metalchat_credentials._origins import is_hub
from metalchat_credentials.backend import (
    BackendContext,
    NamesItself,
    NeedsContext,
    Purpose,
    SecretBackend,
    SecretKey,
    SecretStore,
)
from metalchat_credentials.discovery import load_backend
from metalchat_credentials.errors import (
    BackendNotFound,
    CredentialsError,
    InsecureTransport,
    InvalidUsername,
    KeychainError,
    NothingSelected,
    ReadOnlyBackend,
    SecretMissing,
    TokenFileRefused,
)
from metalchat_credentials.index import KEYCHAIN, Credential, Index
from metalchat_credentials.secret import Secret, redact
from metalchat_credentials.url import Url, parse_target

_AMBIENT = ("environment", "dotenv", "huggingface")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What `add` did: the entry, who keeps the token, and the entry that it replaced."""

    credential: Credential
    kept_by: str
    replaced: Credential | None = None


class Credentials:
    """The credentials of one home directory. May be used from several threads at once."""

    def __init__(
        self,
        home: Path,
        *,
        environ: Mapping[str, str] | None = None,
        directory: Path | None = None,
        interactive: bool = False,
        backends: Mapping[str, SecretBackend] | None = None,
    ) -> None:
        """`home` is $METALCHAT_HOME and `directory` the working directory. `interactive`: a person can answer the
        keychain's own prompt, so it is given a minute instead of 5 s. `backends` are used before installed ones."""
        self._index = Index(home / "config.toml")
        self._environ = os.environ if environ is None else environ
        self._context = BackendContext(
            home=home,
            environ=self._environ,
            directory=Path.cwd() if directory is None else directory,
            interactive=interactive,
        )
        self._backends: dict[str, SecretBackend] = dict(backends or {})
        self._secrets: dict[tuple[str, SecretKey], Secret] = {}
        self._shown: set[Secret] = set()
        self._notices: dict[str, None] = {}
        self._lock = threading.RLock()

    @property
    def notices(self) -> tuple[str, ...]:
        """What a person should know and no error was raised for, each once: a token file that was refused, a keychain
        that failed while another token was at hand, an entry of the index that cannot be used."""
        with self._lock:
            return tuple(dict.fromkeys([*self._index.notices, *self._notices]))

    def add(
        self,
        url: Url,
        *,
        username: str,
        secret: Secret,
        purpose: Purpose = Purpose.READ,
        backend: str = "keyring",
    ) -> Stored:
        """Keeps `secret` for `url` and everything below it, replacing what that address had for `purpose`.

        The backend has returned the token before the index is written. Raises InsecureTransport, InvalidUsername,
        ReadOnlyBackend, and what the backend and the index raise.
        """
        credential = self._credential(url, username, backend, purpose, None)
        with self._lock:
            store = self._backend(backend)
            if not isinstance(store, SecretStore):
                raise ReadOnlyBackend(f"the secret backend '{backend}' only reads. Choose another one, such as keyring")
            replaced = self._entry(url, purpose)
            store.set(credential.key, secret)
            self._index.put(credential)
            self._shown.add(secret)
            self._forget_replaced(replaced, credential)
            kept_by = store.describe() if isinstance(store, NamesItself) else backend
            return Stored(credential=credential, kept_by=kept_by, replaced=replaced)

    def link(
        self,
        url: Url,
        *,
        backend: str,
        username: str = "token",
        variable: str | None = None,
        purpose: Purpose = Purpose.READ,
    ) -> Credential:
        """Notes that `backend`, which may be one that only reads, has the token of `url`; stores no token.

        `variable` is the name under which `environment` or `dotenv` finds it.
        """
        credential = self._credential(url, username, backend, purpose, variable)
        with self._lock:
            self._backend(backend)
            replaced = self._entry(url, purpose)
            self._index.put(credential)
            self._forget_replaced(replaced, credential)
        return credential

    def list(self) -> tuple[Credential, ...]:
        """Every entry of the index; no backend is asked."""
        with self._lock:
            return self._index.read()

    def remove(self, url: Url | None, *, all: bool = False) -> tuple[Credential, ...]:
        """Forgets the tokens of exactly `url`, or of every entry, and returns the entries that are gone.

        A token that a backend no longer had is no error. Raises NothingSelected without a URL and without `all`.
        """
        if url is None and not all:
            raise NothingSelected("say which credential to remove: give its address, or all of them with --all")
        with self._lock:
            gone = tuple(entry for entry in self._index.read() if all or entry.url == url)
            for entry in gone:
                store = self._backend(entry.backend)
                if isinstance(store, SecretStore):
                    store.delete(entry.key)
                self._index.drop([entry])
            self._secrets.clear()
            return gone

    def authorization(self, url: str, purpose: Purpose = Purpose.READ) -> str | None:
        """The value of the Authorization header of a request to exactly `url`, or None where no token belongs to it.

        The entry whose address has the same scheme, host and port and the longest path that contains `url` decides.
        Where the index has none, or its keychain fails, tokens of the environment, of .env and of the token file of
        other tools are used for https://huggingface.co and the origin of $HF_ENDPOINT. For any other address no
        backend is asked. Raises InvalidURL, InsecureTransport, SecretMissing, and what the backend raises.
        """
        target = parse_target(url)
        with self._lock:
            entry = self._longest(target, purpose)
            secret = self._ambient(target, purpose) if entry is None else self._indexed(entry, target, purpose)
            if secret is None:
                return None
            self._shown.add(secret)
            return f"Bearer {secret.reveal()}"

    def redact(self, text: str) -> str:
        """`text` without the tokens that were used so far, and without anything that looks like one."""
        with self._lock:
            return redact(text, self._shown)

    def _credential(self, url: Url, username: str, backend: str, purpose: Purpose, variable: str | None) -> Credential:
        _require_confidential(url)
        if not username:
            raise InvalidUsername("a user name is missing")
        provider = KEYCHAIN if backend == "keyring" else f"@{backend}"
        entry = Credential(url=url, username=username, provider=provider, purpose=purpose, variable=variable)
        entry.key  # noqa: B018 - raises InvalidUsername
        return entry

    def _entry(self, url: Url, purpose: Purpose) -> Credential | None:
        return next((e for e in self._index.read() if (e.url, e.purpose) == (url, purpose)), None)

    def _longest(self, target: Url, purpose: Purpose) -> Credential | None:
        entries = (e for e in self._index.read() if e.purpose is purpose and e.url.covers(target))
        return max(entries, key=lambda entry: len(entry.url.path), default=None)

    def _indexed(self, entry: Credential, target: Url, purpose: Purpose) -> Secret:
        _require_confidential(target)
        try:
            return self._secret(entry)
        except (KeychainError, SecretMissing) as error:
            secret = self._ambient(target, purpose)
            if secret is None:
                raise
            self._notices[f"another token was used: {error}"] = None
            return secret

    def _secret(self, entry: Credential) -> Secret:
        known = self._secrets.get((entry.backend, entry.key))
        if known is not None:
            return known
        secret = self._backend(entry.backend).get(entry.key)
        if secret is None:
            raise SecretMissing(
                f"the credential of {entry.url} has no token in {entry.provider}. "
                "Add it again, or remove the credential"
            )
        self._secrets[entry.backend, entry.key] = secret
        return secret

    def _ambient(self, target: Url, purpose: Purpose) -> Secret | None:
        if not is_hub(target, self._environ):
            return None
        if not target.is_confidential:
            self._notices[f"no token is sent to {target.origin}: it is neither https nor this computer"] = None
            return None
        for name in _AMBIENT:
            try:
                secret = self._backend(name).get(SecretKey(url=target, username="", purpose=purpose))
            except TokenFileRefused as error:
                self._notices[str(error)] = None
            else:
                if secret is not None:
                    return secret
        return None

    def _backend(self, name: str) -> SecretBackend:
        if name not in self._backends:
            try:
                backend = load_backend(name, environ=self._environ)
            except BackendNotFound as error:
                raise BackendNotFound(f"{error}. Entries of {self._index.path} that name it cannot be used") from None
            self._backends[name] = backend.bind(self._context) if isinstance(backend, NeedsContext) else backend
        return self._backends[name]

    def _forget_replaced(self, entry: Credential | None, credential: Credential) -> None:
        self._secrets.clear()
        if entry is None or (entry.backend, entry.key) == (credential.backend, credential.key):
            return
        try:
            store = self._backend(entry.backend)
            if isinstance(store, SecretStore):
                store.delete(entry.key)
        except CredentialsError as error:
            self._notices[f"the replaced token of {entry.url} is still in {entry.provider}: {error}"] = None


def _require_confidential(url: Url) -> None:
    if not url.is_confidential:
        raise InsecureTransport(
            "refusing to send an access token over http to a server that is not this computer. Use https"
        )
