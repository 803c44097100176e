"""The index of credentials, config.toml in metalchat's home: which address has one, whose and where; never a token.

    [credential."https://huggingface.co"]
    username = "alice"
    provider = "@keychain"

A token for writing has its own table, whose name ends with `#write`, and `purpose = "write"`. `variable` is the name
under which the backends `environment` and `dotenv` find a token.
"""

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from metalchat_credentials import _document, _file
from metalchat_credentials.backend import Purpose, SecretKey
from metalchat_credentials.errors import CredentialsError, IndexNotSaved, InvalidIndex
from metalchat_credentials.secret import one_line, redact
from metalchat_credentials.url import Url, parse_url

TABLE = "credential"
KEYCHAIN = "@keychain"
_WRITE = "#write"
_MUST_NOT_BE_THERE = frozenset({"token", "secret", "password"})
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """One entry of the index. `provider` is `@keychain`, or `@` and the name of another backend."""

    url: Url
    username: str
    provider: str = KEYCHAIN
    purpose: Purpose = Purpose.READ
    variable: str | None = None

    @property
    def backend(self) -> str:
        """The name of the backend that has the token."""
        return "keyring" if self.provider == KEYCHAIN else self.provider.removeprefix("@")

    @property
    def key(self) -> SecretKey:
        """What that backend is asked for."""
        return SecretKey(url=self.url, username=self.username, purpose=self.purpose, variable=self.variable)


class Index:
    """config.toml. Reading creates nothing; writing changes the one table that it is about, and no other byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notices: tuple[str, ...] = ()
        self._seen: tuple[object, tuple[Credential, ...]] | None = None

    def read(self) -> tuple[Credential, ...]:
        """The credentials in the order of the file; parsed again only when the file has changed.

        An entry that cannot be used is left out, and `notices` says so. Raises InvalidIndex, which never repeats what
        the file holds, and IndexNotSaved.
        """
        signature = _file.signature(self.path)
        if self._seen is None or self._seen[0] != signature:
            entries, self.notices = self._entries(self._table(_file.read(self.path)))
            self._seen = signature, tuple(entries.values())
        return self._seen[1]

    def put(self, credential: Credential) -> None:
        """Adds the credential, or replaces the one with the same address and purpose."""
        values = {"username": credential.username, "provider": credential.provider}
        if credential.purpose is Purpose.WRITE:
            values["purpose"] = "write"
        if credential.variable is not None:
            values["variable"] = credential.variable

        def change(data: bytes) -> bytes:
            names = self._names(data, [credential])
            name = names[0] if names else f"{credential.url}{_WRITE if credential.purpose is Purpose.WRITE else ''}"
            return _document.put(_document.drop(data, TABLE, names[1:]), TABLE, name, values)

        self._edit(change)

    def drop(self, credentials: Iterable[Credential]) -> None:
        """Removes every entry that has the address and purpose of one of `credentials`."""
        gone = list(credentials)
        self._edit(lambda data: _document.drop(data, TABLE, self._names(data, gone)))

    def _edit(self, change: Callable[[bytes], bytes]) -> None:
        for _ in range(_ATTEMPTS):
            before = _file.read(self.path)
            try:
                after = change(before)
            except CredentialsError:
                raise
            except Exception as error:
                # tomlkit raises more than the errors that it documents.
                raise InvalidIndex(f"{self.path} could not be edited ({type(error).__name__}). Simplify it") from error
            if after == before or _file.replace(self.path, before, after):
                return
        raise IndexNotSaved(f"{self.path} was changed by another program; nothing was written. Try again")

    def _names(self, data: bytes, credentials: list[Credential]) -> list[str]:
        wanted = {(credential.url, credential.purpose) for credential in credentials}
        entries, _ = self._entries(self._table(data))
        return [name for name, entry in entries.items() if (entry.url, entry.purpose) in wanted]

    def _table(self, data: bytes) -> Mapping[str, object]:
        try:
            values = tomllib.loads(data.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            reason = one_line(redact(str(error))) if isinstance(error, tomllib.TOMLDecodeError) else "unreadable text"
            raise InvalidIndex(f"{self.path} is not valid TOML: {reason}. Correct it") from error
        table = values.get(TABLE, {})
        if not isinstance(table, dict):
            raise InvalidIndex(f"{self.path}: '{TABLE}' is not a table. Correct it")
        return table

    def _entries(self, table: Mapping[str, object]) -> tuple[dict[str, Credential], tuple[str, ...]]:
        entries: dict[str, Credential] = {}
        notices = []
        for number, (name, values) in enumerate(table.items(), start=1):
            if isinstance(values, dict) and _MUST_NOT_BE_THERE & {key.lower() for key in values}:
                raise InvalidIndex(
                    f"{self.path}: an access token must not be written in it. "
                    f"Remove it from entry {number} of '{TABLE}'"
                )
            try:
                entries[name] = _entry(name, values)
            except (CredentialsError, ValueError) as error:
                notices.append(f"{self.path}: entry {number} of '{TABLE}' is not used: {error}")
        return entries, tuple(notices)


def _entry(name: str, values: object) -> Credential:
    if not isinstance(values, dict):
        raise ValueError("it is not a table")
    url = parse_url(name.removesuffix(_WRITE))
    purpose = values.get("purpose", "write" if name.endswith(_WRITE) else "read")
    provider, variable = values.get("provider", KEYCHAIN), values.get("variable")
    username = values.get("username")
    if not isinstance(username, str):
        raise ValueError("it has no username")
    if not isinstance(provider, str) or not provider.startswith("@"):
        raise ValueError("its provider does not begin with '@'")
    if not isinstance(variable, str | None):
        raise ValueError("its variable is not a string")
    if purpose not in ("read", "write"):
        raise ValueError("its purpose is neither 'read' nor 'write'")
    credential = Credential(url=url, username=username, provider=provider, purpose=Purpose(purpose), variable=variable)
    credential.key  # noqa: B018 - raises InvalidUsername
    return credential
