"""Where a model comes from: the address a person gave, and the remote that serves it."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from metalchat_store._backoff import Backoff
from metalchat_store._download import remote_errors
from metalchat_store.discovery import load_remote
from metalchat_store.errors import InvalidRepository, NetworkError
from metalchat_store.remote import ChecksAddresses, Closes, Listing, Remote, RemoteContext, Serves
from metalchat_store.selection import split_file

_VERSION = re.compile(r"[A-Za-z0-9!+._-]{1,128}")

Remotes = Mapping[str, Callable[[], Remote]]
"""Factories of remotes by URL scheme, before and beside the installed ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An address in its parts. `repository` is its normalised form, `address` the same without `file=`.

    `version` is that of `pypi:NAME==VERSION`. It is no part of `repository`: like a revision it says which state of a
    model is meant, not which model.
    """

    repository: str
    address: str
    gguf: str | None
    version: str | None = None

    @property
    def scheme(self) -> str:
        """Selects the remote."""
        return self.address.partition(":")[0]

    def means(self, repository: str, commit: str | None) -> bool:
        """Whether what was pulled from `repository` at `commit` is what this address names."""
        if repository != self.repository:
            return False
        return self.version is None or (commit or "").partition("-sha256-")[0] == self.version.lower()


def parse_source(repository: str) -> Source:
    """Take an address apart; `InvalidRepository` if it is not one."""
    version = None
    scheme, _, rest = repository.partition(":")
    if scheme.lower() == "pypi":
        name, mark, tail = rest.partition("==")
        if mark:
            version, question, query = tail.partition("?")
            if _VERSION.fullmatch(version) is None:
                raise InvalidRepository("after 'pypi:NAME==' stands the version of a distribution")
            repository = f"{scheme}:{name}{question}{query}"
    elif scheme.lower() == "ollama" and rest and ":" not in rest.rpartition("/")[2]:
        repository = f"{repository}:latest"  # what Ollama itself takes a name without a tag for
    normalised = normalise(repository)
    try:
        address, gguf = split_file(normalised)
    except ValueError as error:
        raise InvalidRepository("this is not the address of a repository: it is malformed") from error
    return Source(repository=normalised, address=address, gguf=gguf, version=version)


def normalise(repository: str) -> str:
    """The spelling of an address that identifiers are made of; `InvalidRepository` if it is not one."""
    from metalchat_manifest import ManifestError, normalise_repository

    try:
        return normalise_repository(repository)
    except ManifestError as error:
        raise InvalidRepository(str(error)) from error


def check_address(
    repository: str, *, kind: str = "model", remotes: Remotes | None = None, environ: Mapping[str, str]
) -> None:
    """Whether an address can name a repository of that kind, as far as that is known without asking anybody.

    Raises `InvalidRepository`, `RemoteNotFound`, `RemoteConflict`, `IncompatibleRemote`.
    """
    with opened(parse_source(repository), {} if remotes is None else remotes, environ, kind=kind):
        return


@contextmanager
def opened(
    source: Source, remotes: Remotes, environ: Mapping[str, str], *, kind: str | None = None
) -> Iterator[Remote]:
    """The remote for an address, closed at the end; `InvalidRepository` if it is none of something of that `kind`."""
    factory = remotes.get(source.scheme)
    remote = load_remote(source.scheme, environ) if factory is None else factory()
    try:
        if kind is not None and isinstance(remote, ChecksAddresses):
            with remote_errors(source.address):
                remote.check_address(source.address, kind=kind)
        yield remote.serving(source.address) if kind == "model" and isinstance(remote, Serves) else remote
    finally:
        if isinstance(remote, Closes):
            remote.close()


def ask(remote: Remote, source: Source, revision: str | None, context: RemoteContext, backoff: Backoff) -> Listing:
    """The remote's listing, asked for again as long as the back-off allows."""
    while True:
        try:
            with remote_errors(source.address):
                return remote.list(source.address, revision=revision, context=context)
        except NetworkError as error:
            backoff.failed(source.address, error)
