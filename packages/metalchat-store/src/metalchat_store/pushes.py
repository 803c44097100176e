"""The contract between the store and whatever files are pushed to.

A remote that can be pushed to has these methods beside those of `Remote`. As there it raises the errors of
`metalchat_store.errors` and no others, and does not retry or wait: `NetworkError(transient=True)` makes the store
pause and call again. The store reads the files and vouches for their content.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from metalchat_store.remote import RemoteContext

How = Literal["unchanged", "ignored", "regular", "present", "large"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a push goes. `revision` is a branch, None for the default one.

    `private` and `sdk` (of a space) say what a repository that does not exist yet shall be. With `pull_request`
    the commit is proposed instead of made.
    """

    repository: str
    revision: str | None = None
    pull_request: bool = False
    private: bool = False
    sdk: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """A file of this computer under the name that it shall have in the repository.

    `git_sha1` is the git blob id of the content, None for files of more than 100 MB. `sample` holds the first 512
    bytes. `read(start, length)` yields those bytes in blocks of at most 48 KiB, whose length is a multiple of three
    except at the end. It raises `IntegrityError` if the file is no longer what the digests say, and then the last
    block of the file is never given out.
    """

    path: str
    size: int
    sha256: str
    git_sha1: str | None
    sample: bytes
    read: Callable[[int, int], Iterator[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """What the remote makes of an offered file.

    `unchanged`: the repository has it. `ignored`: it does not want it. `regular`: its bytes are part of the commit.
    `present`: the remote has the content already, the commit names it. `large`: its content is to be sent first.
    `current` identifies what the repository has under that name, None if it has nothing.
    """

    path: str
    how: How
    current: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The remote's answer to an offer: one `Offered` a file, in order, and the commit that the push builds upon."""

    commit: str
    files: tuple[Offered, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A commit that the remote made, the page that shows it, and that of its pull request."""

    commit: str
    url: str
    pull_request: str | None = None


@runtime_checkable
class Pushes(Protocol):
    """A remote that files can be pushed to."""

    def offer(self, destination: Destination, files: Sequence[LocalFile], *, context: RemoteContext) -> Offer:
        """Ask what of `files` has to be sent. Changes nothing.

        `RepositoryNotFound` if there is no repository, `NotFound` if it has no such branch.
        """
        ...

    def create(self, destination: Destination, *, context: RemoteContext) -> bool:
        """Create the repository; False if it was there."""
        ...

    def send(
        self, destination: Destination, file: LocalFile, *, context: RemoteContext, seen: Callable[[int], None]
    ) -> int:
        """Send the content of a `large` file; returns the bytes sent. Called again after a transient failure.

        `seen` is told how much has arrived. Called from several threads, once at a time for one content.
        """
        ...

    def commit(
        self,
        destination: Destination,
        offer: Offer,
        files: Sequence[LocalFile],
        *,
        message: str,
        context: RemoteContext,
    ) -> Committed:
        """Make one commit of the `files`, all of which `offer` is about, on top of `offer.commit`.

        `PushConflict` if another commit came first.
        """
        ...
