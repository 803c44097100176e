"""Where distributions are looked for: the settings of uv where it has any, else those of pip, else pypi.org.

The order is that of uv: what `find-links` names, then the extra indexes as they are written, then the default index.
The first place that knows the name decides, whatever the others offer: nobody can replace a distribution of a private
index by giving a public one the same name and a higher version.
"""

from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from metalchat_store._address import AddressError, Origin, origin_of
from metalchat_store.errors import InvalidRepository, Refused
from metalchat_store.remotes import _pip_settings, _uv_settings
from metalchat_store.remotes._index_settings import Named, Settings

DEFAULT = Named(text="https://pypi.org/simple", setting="the default index")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A package index, or a page or folder of links (`flat`).

    `url` is http, https or file and holds no login; `authorization` is what the address held. `setting` says who
    names the place.
    """

    url: str
    setting: str
    flat: bool = False
    authorization: str | None = field(default=None, repr=False)

    @property
    def local(self) -> bool:
        """Whether it is a folder or file of this computer."""
        return self.url.startswith("file:")

    @property
    def shown(self) -> str:
        """How messages call it: host or path."""
        return str(self.path) if self.local else self.origin.shown

    @property
    def path(self) -> Path:
        """The folder or file of a local place."""
        return local_file(self.url)

    @property
    def origin(self) -> Origin:
        """The server; `Refused` for http to another computer, `InvalidRepository` for an address that is none."""
        try:
            return origin_of(self.url)
        except AddressError as error:
            kind = Refused if self.url.startswith("http:") else InvalidRepository
            raise kind(f"the address of a package index in {self.setting} cannot be used: {error}") from error


def places(environ: Mapping[str, str]) -> tuple[Place, ...]:
    """All places in the order in which they are asked. Raises `Refused` if the settings leave none."""
    settings = _uv_settings.read(environ)
    if not settings.any:
        settings = _pip_settings.read(environ)
    found: dict[tuple[str, bool], Place] = {}
    for place in _ordered(settings, environ):
        found.setdefault((place.url, place.flat), place)
    if not found:
        raise Refused(f"{settings.closed} forbids package indexes, and no folder of distributions is named instead")
    return tuple(found.values())


def local_file(url: str) -> Path:
    """The path of a `file:` address; `InvalidRepository` if it has a host."""
    parts = urlsplit(url)
    path = unquote(parts.path, errors="surrogateescape")
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise InvalidRepository("the address of a local package index is file:///path/to/it, without a host")
    return Path(path)


def _ordered(settings: Settings, environ: Mapping[str, str]) -> Iterator[Place]:
    for named in settings.links:
        yield _place(named, environ, flat=True)
    if settings.closed is None:
        for named in (*settings.extra, settings.default or DEFAULT):
            yield _place(named, environ)


def _place(named: Named, environ: Mapping[str, str], *, flat: bool = False) -> Place:
    if "://" not in named.text and not named.text.startswith("file:"):
        return Place(url=_local(named, environ), setting=named.setting, flat=flat)
    try:
        parts = urlsplit(named.text)
    except ValueError as error:
        raise InvalidRepository(f"the address of a package index in {named.setting} is malformed") from error
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https", "file"):
        raise InvalidRepository(f"the address of a package index in {named.setting} is not http, https or file")
    if parts.query:
        raise InvalidRepository(f"the address of a package index in {named.setting} has a '?': remove what follows it")
    login, _, host = parts.netloc.rpartition("@")
    authorization = None
    if scheme != "file" and (login or named.login):
        user, _, password = login.partition(":")
        words = f"{unquote(user)}:{unquote(password)}" if login else named.login or ""
        authorization = f"Basic {b64encode(words.encode()).decode()}"
    url = parts._replace(scheme=scheme, netloc=host, fragment="").geturl()
    return Place(url=url, setting=named.setting, flat=flat, authorization=authorization)


def _local(named: Named, environ: Mapping[str, str]) -> str:
    text = named.text
    if text.startswith("~/"):
        text = environ.get("HOME", "~") + text[1:]
    return ((named.base or Path.cwd()) / text).absolute().as_uri()
