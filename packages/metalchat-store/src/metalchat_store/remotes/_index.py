"""One place of distributions, asked what it has under a name: over HTTP, or in a folder of this computer."""

from collections.abc import Callable, Iterator
from pathlib import Path

from metalchat_store._answers import AnswerError
from metalchat_store._http import MIB, Answer, Head, Http, busy
from metalchat_store.errors import AccessDenied, DiskError, NetworkError, RepositoryNotFound, StoreError
from metalchat_store.remote import Authorizer, RemoteContext
from metalchat_store.remotes._index_page import ACCEPT, JSON, Link, html_links, json_links
from metalchat_store.remotes._index_places import Place

PAGE_LIMIT = 16 * MIB
_HTML = ("text/html", "application/vnd.pypi.simple.v1+html", "application/xhtml+xml")
_SERVICE = "a package index"


def links(
    place: Place, project: str, normalised: Callable[[str], str | None], http: Http, context: RemoteContext
) -> tuple[Link, ...] | None:
    """What a place has of a project; None if it does not know the name.

    `project` is in the form of PEP 503; `normalised` gives that form of the project that a file belongs to, or None.
    """
    if place.local:
        found = _local(place, project, context)
    else:
        found = _asked(place, project, http, context)
    if found is None:
        return None
    mine = tuple(link for link in found if normalised(link.filename) == project)
    return None if place.flat and not mine else mine


def authorizer(place: Place, context: RemoteContext) -> Authorizer:
    """The login in the address of the place, else what the user stored; the HTTP layer asks for its origin only."""
    return lambda url: place.authorization or context.authorize(url)


def refusal(head: Head, place: Place, *, what: str, authorized: bool) -> StoreError:
    """The error for an answer that is not 2xx, from the server of the place."""
    later = busy(head)
    if later is not None:
        return later
    host = head.origin.shown
    if head.status in (401, 403):
        add = f"metalchat credential add --host {place.origin.url}"
        if authorized:
            return AccessDenied(f"{host} refused the credential for {what}: correct it in {place.setting}, or {add}")
        return AccessDenied(f"{host} does not give out {what} without a credential: {add}")
    if head.status in (404, 410):
        return RepositoryNotFound(f"{host} does not have {what}, which the package index lists")
    return NetworkError(f"{host} answered {head.status} when asked for {what}")


def _asked(place: Place, project: str, http: Http, context: RemoteContext) -> list[Link] | None:
    url = place.url if place.flat else f"{place.url.rstrip('/')}/{project}/"
    sent: list[bool] = []
    find = authorizer(place, context)

    def authorize(address: str) -> str | None:
        value = find(address)
        sent.append(value is not None)
        return value

    answer = http.fetch(url, home=place.origin, authorize=authorize, limit=PAGE_LIMIT, accept=ACCEPT)
    if answer.status in (404, 410):
        return None
    if answer.status != 200:
        raise refusal(answer, place, what=f"'{project}'", authorized=any(sent))
    return list(_decoded(answer))


def _decoded(answer: Answer) -> Iterator[Link]:
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind in _HTML:
            yield from html_links(answer.data, answer.url)
        elif kind in (JSON, "application/json"):
            yield from json_links(answer.json(_SERVICE), answer.url)
        else:
            raise AnswerError("neither HTML nor JSON")
    except AnswerError as error:
        raise answer.unlike(_SERVICE, str(error)) from error


def _local(place: Place, project: str, context: RemoteContext) -> list[Link] | None:
    """A page in a folder, a page of links, or a folder of distributions. One that is missing is left out, audibly."""
    root = place.path
    try:
        if not root.exists():
            context.notice(f"{root}, which {place.setting} names, does not exist and is left out")
            return None
        if place.flat and root.is_dir():
            return [_found(path) for path in sorted(root.iterdir()) if path.suffix == ".whl"]
        page = root if root.is_file() else root / project / "index.html"
        if not page.is_file():
            return None
        with page.open("rb") as file:
            data = file.read(PAGE_LIMIT + 1)
        if len(data) > PAGE_LIMIT:
            raise AnswerError(f"it is larger than {PAGE_LIMIT // MIB} MiB")
        return list(html_links(data, page.absolute().as_uri()))
    except AnswerError as error:
        raise NetworkError(f"the page of '{project}' in {root} is not one of a package index: {error}") from error
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise DiskError(f"cannot read {error.filename or root}: {reason}") from error


def _found(path: Path) -> Link:
    uri = path.absolute().as_uri()
    return Link(filename=path.name, address=uri, base=uri, listed=False)
