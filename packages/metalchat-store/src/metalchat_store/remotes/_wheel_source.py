"""Where the bytes of one wheel come from: a server, or a file of this computer."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from metalchat_store._address import AddressError, origin_of
from metalchat_store._files import hash_file
from metalchat_store._http import Head, Http, busy
from metalchat_store.errors import DiskError, IntegrityError, NetworkError, RepositoryNotFound, StoreError
from metalchat_store.remote import Body, RemoteContext
from metalchat_store.remotes._index import authorizer, refusal
from metalchat_store.remotes._index_page import Link
from metalchat_store.remotes._index_places import Place, local_file
from metalchat_store.remotes._ranges import Ranges
from metalchat_store.remotes._wheel_metadata import LIMIT, TAIL, license_in_tail, license_of, verified

_BLOCK = 1 << 20


class LocalWheel:
    """A wheel at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def sha256(self) -> str:
        """What its bytes hash to now."""
        hasher = hashlib.sha256()
        with _disk(self._path), self._path.open("rb") as file:
            hash_file(file.fileno(), os.fstat(file.fileno()).st_size, (hasher,), lambda _: None)
        return hasher.hexdigest()

    def look(self, link: Link) -> tuple[int | None, str | None]:
        """Size and licence."""
        with _disk(self._path), self._path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - TAIL))
            return size, license_in_tail(file.read(TAIL))

    @contextmanager
    def read(self, offset: int, *, size: int | None, validator: str | None) -> Iterator[Body]:
        """The bytes from `offset`."""
        with _disk(self._path):
            file = self._path.open("rb")
        with file:
            file.seek(offset)
            yield Body(offset=offset, chunks=iter(lambda: file.read(_BLOCK), b""), validator=validator)


class RemoteWheel:
    """A wheel at `url`, which a page of `place` names. Only the server of that place is sent a credential."""

    def __init__(self, url: str, name: str, place: Place, http: Http, context: RemoteContext) -> None:
        self._url = url
        self._name = name
        self._place = place
        self._http = http
        try:
            self._home = origin_of(url)
        except AddressError as error:
            raise IntegrityError(
                f"the package index has an address for {name!a} that is not followed: {error}"
            ) from error
        self._same = not place.local and place.origin == self._home
        self._authorize = authorizer(place, context) if self._same else _nobody
        self._asked = False

    def look(self, link: Link) -> tuple[int | None, str | None]:
        """Size and licence, from as few and short answers as the server allows; None for what it does not tell."""
        size, license_name = link.size, None
        if link.metadata is not None:
            data = self._ranges(f"{self._url}.metadata").small(LIMIT)
            license_name = None if data is None else license_of(verified(data, link.metadata, f"{self._name!a}"))
        if size is None or link.metadata is None:
            found, tail = self._ranges(self._url).tail(TAIL)
            size = found if size is None else size
            license_name = license_name or license_in_tail(tail)
        return size, license_name

    def read(self, offset: int, *, size: int | None, validator: str | None) -> AbstractContextManager[Body]:
        """The bytes from `offset`, or from 0 if the server does not continue there."""
        return self._ranges(self._url).read(offset, size=size, validator=validator)

    def _ranges(self, url: str) -> Ranges:
        return Ranges(self._http, url, home=self._home, authorize=self._find, name=self._name, refuse=self._refused)

    def _find(self, url: str) -> str | None:
        value = self._authorize(url)
        self._asked = self._asked or value is not None
        return value

    def _refused(self, head: Head) -> StoreError:
        if self._same and head.origin == self._home:
            return refusal(head, self._place, what=f"'{self._name}'", authorized=self._asked)
        if head.status in (404, 410):
            return RepositoryNotFound(
                f"{head.origin.shown} does not have '{self._name}', which the package index lists"
            )
        return busy(head) or NetworkError(f"{head.origin.shown} does not give out '{self._name}' ({head.status})")


def wheel_at(url: str, name: str, place: Place, http: Http | None, context: RemoteContext) -> LocalWheel | RemoteWheel:
    """The source of a wheel; `http` is needed unless it lies on this computer."""
    if http is None:
        return LocalWheel(local_file(url))
    return RemoteWheel(url, name, place, http, context)


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise RepositoryNotFound(f"'{path}', which the package index lists, does not exist") from error
    except OSError as error:
        raise DiskError(f"cannot read {path}: {(error.strerror or type(error).__name__).lower()}") from error


def _nobody(_url: str) -> str | None:
    return None
