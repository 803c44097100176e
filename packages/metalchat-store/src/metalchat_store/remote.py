"""The contract between the store and whatever models are pulled from.

A remote is registered in the entry-point group `metalchat.remotes` under the URL scheme that it serves, as a
zero-argument factory. The store makes one for a pull and uses it from several threads at once.

A remote raises the errors of `metalchat_store.errors` and no others. It does not retry, wait, verify digests or
write files: it raises `NetworkError(transient=True)` (with `retry_after` where the server said so), and the store
pauses and calls again; the store hashes every byte that it is given.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

from metalchat_store.digest import Digest, check_sha1
from metalchat_store.errors import IntegrityError
from metalchat_store.names import check_name, check_names

Authorizer = Callable[[str], str | None]
"""Maps an absolute URL to the value of the Authorization header that belongs to it, or None."""

MAX_FILES = 10_000
_MD5 = re.compile(r"[0-9a-f]{32}")
_COMMIT = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+-]{0,127}")


def _nobody(_url: str) -> str | None:
    return None


def _silent(_text: str) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteContext:
    """What a remote may use during one pull.

    `kind` is what the address shall name: `model`, `dataset` or `space`.
    `authorize` is asked for every single request with its final URL, redirects included.
    `client` is an object of the remote's own HTTP layer that replaces the one it would make, for tests; or None.
    `notice` shows one line to the user. `clock` is monotonic, in seconds.
    """

    authorize: Authorizer = _nobody
    environ: Mapping[str, str] = field(default_factory=dict)
    client: object | None = None
    notice: Callable[[str], None] = _silent
    clock: Callable[[], float] = time.monotonic
    kind: str = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file of a repository, as listed. Construction checks the name and the identities (`IntegrityError`).

    `size` in bytes, None where only the transfer tells. `sha256` of the content; `git_sha1` is the git blob id of the
    content (never of an LFS pointer) and needs `size`. `md5` is compared too where a server gives nothing better.
    Any of them may be known. `location` is the remote's own business: a URL, a path, a key.
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    location: str = ""
    md5: str | None = None

    def __post_init__(self) -> None:
        check_name(self.path)
        if self.sha256 is not None:
            Digest(self.sha256)
        if self.git_sha1 is not None:
            check_sha1(self.git_sha1)
        if self.md5 is not None and _MD5.fullmatch(self.md5) is None:
            raise IntegrityError("the server sent a file identity that is not valid")
        if self.size is not None and (type(self.size) is not int or not 0 <= self.size < 1 << 63):
            raise IntegrityError("the server sent a file size that is not valid")


def check_commit(commit: str) -> str:
    """`commit` if it can be the name of an immutable state, else `IntegrityError`."""
    if not isinstance(commit, str) or _COMMIT.fullmatch(commit) is None:
        raise IntegrityError("the server sent a commit that is not valid")
    return commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All files of a repository at one commit. Construction checks that the names can stand side by side.

    `commit` is the immutable name of the state: a git commit, a release, a fingerprint; `[0-9A-Za-z._+-]`, at most
    128 characters. `license` is an SPDX expression or the hub's own word, None if unknown. `gated`: somebody has to
    accept the licence at the server before the files can be read; None if unknown.
    """

    repository: str
    commit: str
    files: tuple[RemoteFile, ...]
    license: str | None = None
    gated: bool | None = None

    def __post_init__(self) -> None:
        check_commit(self.commit)
        if self.license is not None and (len(self.license) > 256 or not self.license.isprintable()):
            raise IntegrityError("the server sent the name of a license that is not valid")
        if len(self.files) > MAX_FILES:
            raise IntegrityError(f"'{self.repository}' has more than {MAX_FILES:,} files")
        check_names([file.path for file in self.files])


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Bytes of a file from `offset` to its end, in chunks of any size.

    `offset` is where the bytes really start: what was asked for, or 0 if the server sends everything.
    `validator` is what the next `read` of the rest gets, such as a strong ETag.
    """

    offset: int
    chunks: Iterable[bytes]
    validator: str | None = None

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.chunks)


class Remote(Protocol):
    """A place that models are pulled from."""

    def list(self, repository: str, *, revision: str | None, context: RemoteContext) -> Listing:
        """The files at `revision` (a branch, tag or commit; None: the default).

        Raises `RepositoryNotFound`, `AccessDenied`, `NetworkError`, `IntegrityError`.
        """
        ...

    def read(
        self, listing: Listing, file: RemoteFile, *, offset: int, context: RemoteContext, validator: str | None = None
    ) -> AbstractContextManager[Body]:
        """The bytes of `file` from `offset`. Leaving the context ends the transfer.

        `offset` is 0 to the size, the size included. `validator` comes from the `Body` that brought the first `offset`
        bytes, perhaps in an earlier process; if the content has changed since, the answer starts at 0.
        """
        ...


@runtime_checkable
class ReadsParts(Protocol):
    """A remote that can give several parts of one file at once."""

    def read_part(
        self,
        listing: Listing,
        file: RemoteFile,
        *,
        start: int,
        end: int,
        context: RemoteContext,
        validator: str | None = None,
    ) -> AbstractContextManager[Body]:
        """The bytes of `file` from `start` to before `end`; if there are no parts to be had, all of it from 0 on.

        Everything else is as with `read`.
        """
        ...


@runtime_checkable
class Adopts(Protocol):
    """A remote whose files lie on this computer already."""

    def local(self, listing: Listing, file: RemoteFile) -> Path:
        """The file itself. The store clones it, else hard-links it, else copies it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file inside an archive. `open` gives its bytes from the start, every time. The name is checked."""

    path: str
    size: int | None
    open: Callable[[], IO[bytes]]

    def __post_init__(self) -> None:
        check_name(self.path)


@runtime_checkable
class Unpacks(Protocol):
    """A remote whose listed files are archives; what is inside them is the model.

    One that adopts too has its archives on this computer: they are read where they lie.
    """

    def members(self, listing: Listing, archives: Mapping[str, Path]) -> Iterable[Member]:
        """What the model consists of, with the paths that it shall have.

        `archives` maps every listed path to the verified file. What was fetched is deleted after the pull.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The model inside archives that have not come: the files of it, what reads them, and the bytes that this cost."""

    listing: Listing
    remote: Remote
    cost: Callable[[], int]


@runtime_checkable
class Previews(Protocol):
    """A remote that unpacks, and can show parts of the model before its archives come."""

    def preview(self, listing: Listing, *, context: RemoteContext) -> AbstractContextManager[Preview | None]:
        """What `describe` looks at; None where the server does not allow it. Nothing in it is verified."""
        ...


@runtime_checkable
class ChecksAddresses(Protocol):
    """A remote that can tell from an address alone that it names nothing there."""

    def check_address(self, repository: str, *, kind: str) -> None:
        """Raise `InvalidRepository` for what is no address of that kind; asks nobody."""
        ...


@runtime_checkable
class Serves(Protocol):
    """A remote that has another way for some addresses of models, such as folders whose content is converted."""

    def serving(self, repository: str) -> Remote:
        """The remote that is used for that address; it shares what this one holds. Asks nobody."""
        ...


@runtime_checkable
class Closes(Protocol):
    """A remote that holds connections."""

    def close(self) -> None:
        """Called once, after the last use."""
        ...
