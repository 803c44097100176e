"""Models that lie wherever a list says: `manifest:https://host/model.toml`, or `manifest:/home/me/model.toml`.

The list is TOML, or JSON of the same shape:

    version = 1
    license = "apache-2.0"              # optional
    expires = 2026-12-31T23:59:59Z      # optional: until when the addresses work, with a zone

    [[file]]                            # one for each file
    path = "config.json"                # what it is called in the model
    url = "https://host/files/1?sig=x"  # https; in a list from https also relative to the list
    size = 651                          # bytes
    sha256 = "f3a5..."                  # 64 lower-case digits
    expires = 2026-12-31T23:59:59Z      # optional: the earlier one counts

Every file must have exactly its size and digest, whoever gives it out. A credential belongs to an address or to none:
the store's `authorize` is asked for the list and for each file with the address itself, and what it says is sent to
that server only. Addresses may be signed; no message or record holds one. The state that was pulled is named by the
files' names and digests, so a list with new addresses for the same files is the same state.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from urllib.parse import unquote, urlsplit

from metalchat_store._address import AddressError, origin_of
from metalchat_store._answers import TooLarge, gathered
from metalchat_store._files import read_file
from metalchat_store._http import Head, Http, busy
from metalchat_store.errors import (
    AccessDenied,
    DiskError,
    InvalidRepository,
    NetworkError,
    NotAModel,
    RepositoryNotFound,
    StoreError,
)
from metalchat_store.remote import Body, Listing, RemoteContext, RemoteFile
from metalchat_store.remotes._manifest_file import LIMIT, FileList, parse
from metalchat_store.remotes._ranges import Ranges

_FORM = "write manifest:https://host/model.toml or manifest:/path/to/model.toml, without '?' or '#'"


class ManifestRemote:
    """Lists and gives out the files of a list of addresses. `now` is the time in seconds since 1970."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._own: Http | None = None
        self._lists: dict[str, FileList] = {}
        self._lock = Lock()

    def list(self, repository: str, *, revision: str | None, context: RemoteContext) -> Listing:
        """The files of the list as it is now. The only revision is the commit."""
        found = self._load(_place(repository), context)
        if revision not in (None, found.commit):
            raise RepositoryNotFound(f"the list of files is {found.commit[:7]} and has no other revision")
        with self._lock:
            self._lists[repository] = found
        files = tuple(RemoteFile(path=file.path, size=file.size, sha256=file.sha256) for file in found.files)
        return Listing(repository=repository, commit=found.commit, files=files, license=found.license)

    @contextmanager
    def read(
        self, listing: Listing, file: RemoteFile, *, offset: int, context: RemoteContext, validator: str | None = None
    ) -> Iterator[Body]:
        """The bytes of a file from `offset`, or from 0 if the server does not continue there.

        Raises `AccessDenied` where the list says that the address has expired.
        """
        with self._lock:
            known = self._lists.get(listing.repository)
        if known is None:
            known = self._load(_place(listing.repository), context)
        address = next((item for item in known.files if (item.path, item.sha256) == (file.path, file.sha256)), None)
        if address is None:
            raise NetworkError("the list of files has changed: pull again")
        if address.expires is not None and address.expires <= self._now():
            raise AccessDenied(f"the address of '{file.path}' has expired: get a new list from whoever made it")
        with self._ranges(address.url, f"'{file.path}'", file.path, context).read(
            offset, size=file.size, validator=validator
        ) as body:
            yield body

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            own, self._own = self._own, None
            self._lists.clear()
        if own is not None:
            own.close()

    def _load(self, place: str | Path, context: RemoteContext) -> FileList:
        if isinstance(place, Path):
            return parse(_local(place), where=f"'{place.name}'", base=None)
        name = place.rpartition("/")[2]
        with self._ranges(place, f"the list '{name}'", name, context).read(0, size=None, validator=None) as body:
            try:
                data = gathered(iter(body), LIMIT)
            except TooLarge:
                raise NotAModel(f"'{name}' is larger than {LIMIT >> 20} MiB") from None
        return parse(data, where=f"'{name}'", base=place)

    def _ranges(self, url: str, what: str, name: str, context: RemoteContext) -> Ranges:
        asked: list[bool] = []

        def authorize(address: str) -> str | None:
            value = context.authorize(address)
            asked.append(value is not None)
            return value

        def refuse(head: Head) -> StoreError:
            return _refusal(head, what, authorized=any(asked))

        return Ranges(self._http(context), url, home=origin_of(url), authorize=authorize, name=name, refuse=refuse)

    def _http(self, context: RemoteContext) -> Http:
        if context.client is not None:
            if not isinstance(context.client, Http):
                raise TypeError("RemoteContext.client is not an Http")
            return context.client
        with self._lock:
            if self._own is None:
                self._own = Http(clock=context.clock)
            return self._own


def _place(repository: str) -> str | Path:
    """Where the list is: an https address, or a path of this computer."""
    text = repository.partition(":")[2]
    if "?" in text or "#" in text:
        raise InvalidRepository(f"the address of a list of files ends with its name: {_FORM}")
    if text.startswith("file://"):
        parts = urlsplit(text)
        text = unquote(parts.path) if parts.netloc in ("", "localhost") else ""
    if text.startswith("/") and "\0" not in text:
        return Path(text)
    try:
        origin_of(text)
    except AddressError as error:
        raise InvalidRepository(f"this is not the address of a list of files: {_FORM}") from error
    return text


def _local(path: Path) -> bytes:
    try:
        return read_file(path.resolve(), LIMIT)
    except FileNotFoundError as error:
        raise RepositoryNotFound(f"'{path}' does not exist") from error
    except OSError as error:
        raise DiskError(f"cannot read {path}: {(error.strerror or type(error).__name__).lower()}") from error


def _refusal(head: Head, what: str, *, authorized: bool) -> StoreError:
    host = head.origin.shown
    if head.status in (401, 403):
        if authorized:
            return AccessDenied(f"{host} refused the credential for {what}, or its address has expired")
        add = f"metalchat credential add --host {head.origin.url}"
        return AccessDenied(f"{host} does not give out {what} without a credential, or its address has expired: {add}")
    if head.status in (404, 410):
        return RepositoryNotFound(f"{host} does not have {what}")
    return busy(head) or NetworkError(f"{host} answered {head.status} when asked for {what}")
