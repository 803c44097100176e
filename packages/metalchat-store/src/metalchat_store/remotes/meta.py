"""Llama models from Meta itself: `meta:Llama3.2-1B-Instruct`, by the signed link that Meta mails after a request.

The link has one `*` where folder and file go, and a signature in its query, which is a secret: whoever has the link
can download. It is taken from the variable `METALCHAT_META_URL` of the store's environment and goes to the server that
it names and nowhere else; no message, record, journal or identifier holds any of it.

Meta's checklist gives each file's MD5 or SHA-256. The files are fetched against it, and become safetensors, a
`config.json` and a `tokenizer.json` on the way into the store (see `metalchat_store.checkpoint`).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from urllib.parse import urlsplit

from metalchat_store._address import AddressError, Origin, origin_of
from metalchat_store._answers import TooLarge, gathered
from metalchat_store._http import Head, Http, busy
from metalchat_store.checkpoint import model
from metalchat_store.checkpoint.params import LIMIT, read_params
from metalchat_store.errors import (
    AccessDenied,
    IntegrityError,
    InvalidRepository,
    NetworkError,
    RepositoryNotFound,
    StoreError,
)
from metalchat_store.remote import Body, Listing, Member, Preview, RemoteContext, RemoteFile
from metalchat_store.remotes._beginnings import previewed
from metalchat_store.remotes._meta_checklist import CHECKLIST, CHECKLIST_LIMIT, check_named, identified, parse_checklist
from metalchat_store.remotes._meta_releases import Release, find_release
from metalchat_store.remotes._ranges import Ranges

LINK = "METALCHAT_META_URL"
ASK = "https://www.llama.com/llama-downloads"


class MetaRemote:
    """Lists Meta's files of one release; the converted model is what is kept. The commit is the checklist's SHA-256."""

    def __init__(self) -> None:
        self._own: Http | None = None
        self._lock = Lock()

    def list(self, repository: str, *, revision: str | None, context: RemoteContext) -> Listing:
        """The files that the checklist covers; `params.json` is read, so that what cannot be used is not fetched.

        The only revision is the commit. Raises `AccessDenied` without a link, or with one that expired.
        """
        release = _release(repository)
        checklist = self._small(release, CHECKLIST, CHECKLIST_LIMIT, context)
        commit = hashlib.sha256(checklist).hexdigest()[:40]
        if revision not in (None, commit):
            raise RepositoryNotFound(f"'{repository}' is {commit[:7]} and has no other revision: pull it without one")
        digests = parse_checklist(checklist)
        params = self._small(release, model.PARAMS, LIMIT, context)
        files = [_file(release, model.PARAMS, len(params), digests)]
        _verify(params, files[0])
        read_params(params)
        names = (model.TOKENIZER, *release.weights)
        check_named(names, digests, release.name, context.notice)
        for name in names:
            files.append(_file(release, name, self._size(release, name, context), digests))
        return Listing(repository=repository, commit=commit, files=tuple(files), license=release.license)

    @contextmanager
    def read(
        self, listing: Listing, file: RemoteFile, *, offset: int, context: RemoteContext, validator: str | None = None
    ) -> Iterator[Body]:
        """The bytes of a file from `offset`, or from 0 if the server does not continue there."""
        ranges = self._ranges(_release(listing.repository), file.path, context)
        with ranges.read(offset, size=file.size, validator=validator) as body:
            yield body

    def members(self, listing: Listing, archives: Mapping[str, Path]) -> Iterable[Member]:
        """The model in safetensors."""
        return model.members(archives, _release(listing.repository).traits)

    @contextmanager
    def preview(self, listing: Listing, *, context: RemoteContext) -> Iterator[Preview | None]:
        """The converted model, as far as `params.json` tells what it will be; no weights are looked at."""
        release = _release(listing.repository)
        params = self._small(release, model.PARAMS, LIMIT, context)
        yield previewed(listing, params, release.traits)

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            own, self._own = self._own, None
        if own is not None:
            own.close()

    def _small(self, release: Release, name: str, limit: int, context: RemoteContext) -> bytes:
        with self._ranges(release, name, context).read(0, size=None, validator=None) as body:
            try:
                return gathered(iter(body), limit)
            except TooLarge:
                raise IntegrityError(f"'{name}' is larger than {limit >> 10} KiB") from None

    def _size(self, release: Release, name: str, context: RemoteContext) -> int:
        ranges = self._ranges(release, name, context)
        size, _ = ranges.tail(1)
        if size is None:
            with ranges.read(0, size=None, validator=None):
                raise NetworkError(f"the server of '{release.name}' does not tell the size of '{name}'")
        return size

    def _ranges(self, release: Release, name: str, context: RemoteContext) -> Ranges:
        link, origin = _link(release, context.environ)

        def refuse(head: Head) -> StoreError:
            return _refusal(head, release, name)

        url = link.replace("*", f"{release.folder}/{name}", 1)
        return Ranges(self._http(context), url, home=origin, authorize=_nobody, name=name, refuse=refuse)

    def _http(self, context: RemoteContext) -> Http:
        if context.client is not None:
            if not isinstance(context.client, Http):
                raise TypeError("RemoteContext.client is not an Http")
            return context.client
        with self._lock:
            if self._own is None:
                self._own = Http(clock=context.clock)
            return self._own


def _release(repository: str) -> Release:
    return find_release(repository.partition(":")[2])


def _link(release: Release, environ: Mapping[str, str]) -> tuple[str, Origin]:
    """The signed link and its server; nothing of the link is in an error."""
    link = environ.get(LINK, "").strip()
    if not link:
        raise AccessDenied(
            f"'{release.name}' needs the link that Meta mails for it (ask at {ASK}): "
            f"set {LINK} to it, or give it to 'metalchat model pull', at its prompt or with --url-stdin"
        )
    try:
        origin = origin_of(link)
        parts = urlsplit(link)
    except (AddressError, ValueError):
        origin, parts = None, urlsplit("")
    if origin is None or link.count("*") != 1 or not parts.path.endswith("/*") or parts.fragment:
        raise InvalidRepository(
            "this is not a link as Meta mails it: https://..., with one '*' at the end of its path, '?' and the rest"
        )
    return link, origin


def _file(release: Release, name: str, size: int, digests: Mapping[str, str]) -> RemoteFile:
    return identified(RemoteFile(path=name, size=size, location=f"{release.folder}/{name}"), digests)


def _verify(data: bytes, file: RemoteFile) -> None:
    whole = file.sha256 in (None, hashlib.sha256(data).hexdigest())
    if not whole or file.md5 not in (None, hashlib.md5(data, usedforsecurity=False).hexdigest()):
        raise IntegrityError(f"'{file.path}' is damaged: it is not what Meta's checklist says. Nothing was kept")


def _refusal(head: Head, release: Release, name: str) -> StoreError:
    host = head.origin.shown
    if head.status in (401, 403, 410):
        return AccessDenied(
            f"the link expired, or it is not for '{release.name}': ask Meta for a new one at {ASK} and pull again; "
            "what was fetched is kept"
        )
    if head.status == 404:
        return RepositoryNotFound(f"{host} has no '{name}' of '{release.name}': is the link for another release?")
    return busy(head) or NetworkError(f"{host} answered {head.status} when asked for '{name}'")


def _nobody(_url: str) -> str | None:
    return None
