"""Everything that this package raises.

    StoreError                      exit code 1
    ├── InvalidRepository           2  not an address that a model can be pulled from
    ├── InvalidLock                 2  a metalchat.lock that cannot be used
    ├── InvalidPush                 2  a push that cannot be made as it was asked for
    ├── AmbiguousModel              2  a reference that several models answer to
    ├── RemoteNotFound              2  no installed remote serves that kind of address
    ├── RemoteConflict              2  two distributions serve the same kind of address
    ├── IncompatibleRemote          1  a remote that does not import, or is not one
    ├── AccessDenied                3  the server wants a credential, or refused the one it got
    ├── NotFound                    4  what was asked for does not exist
    │   ├── RepositoryNotFound      4  no such repository, revision or file on the server
    │   └── ModelNotFound           4  no such model in the store
    ├── NetworkError                5  the server cannot be reached, or does not answer as it should
    ├── UntrustedData               6  data that may not be used
    │   ├── IntegrityError          6  bytes, names or identities that are not what was promised
    │   ├── NotAModel               6  whole data, but nothing that can be used as a model
    │   └── Corrupted               6  a model of the store that changed since it was pulled
    ├── DiskError                   7  the disk is full, read-only or failing
    └── Refused                     8  forbidden by policy
        └── PushConflict            8  somebody else changed the repository while files were pushed to it

Messages are one line, hold no secret, and name what can be changed.
"""

from collections.abc import Sequence
from typing import ClassVar


class StoreError(Exception):
    """Base of all errors of the store. `exit_code` is what a command line program ends with."""

    exit_code: ClassVar[int] = 1


class InvalidRepository(StoreError):
    """Not an address that a model can be pulled from."""

    exit_code = 2


class InvalidLock(StoreError):
    """A metalchat.lock that cannot be used."""

    exit_code = 2


class InvalidPush(StoreError):
    """A push that cannot be made as it was asked for."""

    exit_code = 2


class AmbiguousModel(StoreError):
    """Several models answer to a reference. `candidates` are their ids."""

    exit_code = 2

    def __init__(self, message: str, *, candidates: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.candidates = tuple(candidates)


class RemoteNotFound(StoreError):
    """No installed remote serves addresses of that scheme."""

    exit_code = 2


class RemoteConflict(StoreError):
    """Two installed distributions serve addresses of the same scheme."""

    exit_code = 2


class IncompatibleRemote(StoreError):
    """The remote's distribution does not import, or what it registered is not a remote."""


class AccessDenied(StoreError):
    """The server wants a credential, or refused the one that it got."""

    exit_code = 3


class NotFound(StoreError):
    """What was asked for does not exist."""

    exit_code = 4


class RepositoryNotFound(NotFound):
    """No such repository, revision or file on the server."""


class ModelNotFound(NotFound):
    """No such model in the store."""


class NetworkError(StoreError):
    """The server cannot be reached, or does not answer as it should.

    `transient`: the same request may succeed later, so the store tries again with growing pauses.
    `retry_after`: seconds that the server asked to wait, already parsed; the store waits at most 60.
    """

    exit_code = 5

    def __init__(self, message: str, *, transient: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.transient = transient
        self.retry_after = retry_after


class UntrustedData(StoreError):
    """Data from elsewhere that may not be used."""

    exit_code = 6


class IntegrityError(UntrustedData):
    """Bytes, names or identities that are not what was promised."""


class NotAModel(UntrustedData):
    """Nothing that can be used as a model; the message says what was found and what was looked for."""


class Corrupted(UntrustedData):
    """A model of the store changed since it was pulled. `files` names what changed."""

    def __init__(self, message: str, *, files: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.files = tuple(files)


class DiskError(StoreError):
    """The disk is full, read-only or failing, or a path of the store is not what it must be."""

    exit_code = 7


class Refused(StoreError):
    """Forbidden by policy."""

    exit_code = 8


class PushConflict(Refused):
    """Somebody else changed the repository while files were pushed to it."""
