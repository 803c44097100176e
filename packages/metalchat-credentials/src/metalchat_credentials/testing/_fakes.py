"""Secret backends for tests: one that keeps secrets in memory, and one that notes what another one is asked."""

from collections.abc import Mapping

from metalchat_credentials.backend import SecretKey, SecretStore
from metalchat_credentials.secret import Secret


class MemoryBackend:
    """Keeps secrets for as long as it lives."""

    def __init__(self, secrets: Mapping[SecretKey, Secret] | None = None, *, name: str = "memory") -> None:
        self.name = name
        self._secrets = dict(secrets or {})

    def get(self, key: SecretKey) -> Secret | None:
        """The secret of `key`, or None."""
        return self._secrets.get(key)

    def set(self, key: SecretKey, secret: Secret) -> None:
        """Keeps `secret`, replacing another one of `key`."""
        self._secrets[key] = secret

    def delete(self, key: SecretKey) -> bool:
        """Whether there was one to forget."""
        return self._secrets.pop(key, None) is not None


class SpyBackend:
    """Passes everything on to another store, and notes the keys in `reads`, `writes` and `deletes`."""

    def __init__(self, store: SecretStore | None = None) -> None:
        self._store: SecretStore = MemoryBackend() if store is None else store
        self.name = self._store.name
        self.reads: list[SecretKey] = []
        self.writes: list[SecretKey] = []
        self.deletes: list[SecretKey] = []

    @property
    def calls(self) -> int:
        """How often it was asked for anything."""
        return len(self.reads) + len(self.writes) + len(self.deletes)

    def get(self, key: SecretKey) -> Secret | None:
        """What the other store has."""
        self.reads.append(key)
        return self._store.get(key)

    def set(self, key: SecretKey, secret: Secret) -> None:
        """Kept by the other store."""
        self.writes.append(key)
        self._store.set(key, secret)

    def delete(self, key: SecretKey) -> bool:
        """Forgotten by the other store."""
        self.deletes.append(key)
        return self._store.delete(key)
