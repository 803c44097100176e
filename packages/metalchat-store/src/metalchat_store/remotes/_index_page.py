"""Pages of a package index: what is offered under a name, in HTML (PEP 503) or JSON (PEP 691).

A page is data of somebody else. What it says about a file is checked when that file is chosen, not before, so that
one bad line does not hide the rest.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

from metalchat_store._address import AddressError, redirected
from metalchat_store._answers import AnswerError, Json, typed
from metalchat_store.digest import Digest
from metalchat_store.errors import IntegrityError

MAX_LINKS = 50_000
JSON = "application/vnd.pypi.simple.v1+json"
ACCEPT = f"{JSON}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
_ALGORITHMS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
_HASH = re.compile(f"({'|'.join(_ALGORITHMS)})=([^&]*)")
_STRAY = re.compile(r"<(?![A-Za-z/!?])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One file that an index offers. `address` is as written, relative to `base`; `hashes` by algorithm.

    `size` in bytes. `metadata`: the sha256 of the file's METADATA beside it, empty if that is offered without one,
    None if it is not offered. `listed`: a page names it; otherwise it was found in a folder.
    What Python a file requires does not matter here: nothing in it is run.
    """

    filename: str
    address: str
    base: str
    hashes: tuple[tuple[str, str], ...] = ()
    size: int | None = None
    yanked: bool = False
    metadata: str | None = None
    listed: bool = True

    @property
    def url(self) -> str:
        """The absolute address; `IntegrityError` if the page may not send anybody there."""
        try:
            if self.base.startswith("file:") and not re.match(r"https?:", self.address, re.IGNORECASE):
                url = urljoin(self.base, self.address).partition("#")[0]
                if urlsplit(url).scheme == "file":
                    return url
            return redirected(self.base, self.address)
        except (AddressError, ValueError) as error:
            raise IntegrityError(
                f"the package index has an address for {self.filename!a} that is not followed: {error}"
            ) from error

    @property
    def sha256(self) -> str:
        """What the bytes must hash to; `IntegrityError` if the index gives no sha256."""
        found = dict(self.hashes)
        if "sha256" not in found:
            given = f"only {', '.join(sorted(found))}" if found else "nothing"
            raise IntegrityError(
                f"the package index gives {given} to check {self.filename!a} with, and a sha256 is needed"
            )
        return Digest(found["sha256"]).hex


def html_links(data: bytes, url: str) -> Iterator[Link]:
    """The links of a page that was found at `url`. Raises `AnswerError`."""
    page = _Page()
    text = _STRAY.sub("&lt;", data.decode("utf-8", "replace"))  # the parser takes quadratic time for many of these
    try:
        page.feed(text)  # once, and never closed: an unfinished end costs no second look
    except AssertionError as error:  # how the parser gives up
        raise AnswerError("HTML that cannot be read") from error
    if page.version is not None and re.fullmatch(r"1(\.[0-9]+)?", page.version) is None:
        raise AnswerError("its version of the repository API is not known")
    base = url
    if page.base is not None:
        try:
            base = urljoin(url, page.base) if url.startswith("file:") else redirected(url, page.base)
        except (AddressError, ValueError) as error:
            raise AnswerError(f"its base address is not followed: {error}") from error
    for anchor in page.anchors:
        address, _, fragment = anchor["href"].partition("#")
        name = _filename(address)
        if name is None:
            continue
        metadata = anchor.get("data-core-metadata", anchor.get("data-dist-info-metadata"))
        yield Link(
            filename=name,
            address=address,
            base=base,
            hashes=tuple(_HASH.findall(fragment)),
            yanked="data-yanked" in anchor,
            metadata=None if metadata in (None, "false") else (metadata or "").removeprefix("sha256="),
        )


def json_links(value: Json, url: str) -> Iterator[Link]:
    """The files of a JSON answer of major version 1. Raises `AnswerError`."""
    page = typed(value, dict, "the answer")
    meta = typed(page.get("meta"), dict, "'meta'")
    if not typed(meta.get("api-version"), str, "'api-version'").startswith("1."):
        raise AnswerError("its version of the repository API is not known")
    files = typed(page.get("files"), list, "'files'")
    if len(files) > MAX_LINKS:
        raise AnswerError(f"it has more than {MAX_LINKS:,} files")
    for item in files:
        file = typed(item, dict, "a file")
        hashes = typed(file.get("hashes"), dict, "'hashes'")
        size = file.get("size")
        yield Link(
            filename=typed(file.get("filename"), str, "'filename'"),
            address=typed(file.get("url"), str, "'url'").partition("#")[0],
            base=url,
            hashes=tuple((name, str(hashes[name])) for name in _ALGORITHMS if name in hashes),
            size=None if size is None else typed(size, int, "'size'"),
            yanked=file.get("yanked", False) is not False,
            metadata=_json_metadata(file.get("core-metadata", file.get("dist-info-metadata"))),
        )


def _json_metadata(value: Json) -> str | None:
    if isinstance(value, dict):
        digest = value.get("sha256", "")
        return digest if isinstance(digest, str) else ""
    return "" if value is True else None


def _filename(address: str) -> str | None:
    try:
        return unquote(urlsplit(address).path).rpartition("/")[2] or None
    except ValueError:
        return None


class _Page(HTMLParser):
    """The anchors of a page with their attributes, its first base address, and its version of the API."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.anchors: list[dict[str, str]] = []
        self.base: str | None = None
        self.version: str | None = None

    # pyrefly: ignore[missing-override-decorator] - typing has it from 3.12 on
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what matters."""
        if tag not in ("a", "base", "meta"):
            return
        found = {name: value or "" for name, value in attrs}
        if tag == "a" and "href" in found:
            if len(self.anchors) == MAX_LINKS:
                raise AnswerError(f"it has more than {MAX_LINKS:,} links")
            self.anchors.append(found)
        elif tag == "base" and self.base is None:
            self.base = found.get("href")
        elif tag == "meta" and found.get("name") == "pypi:repository-version":
            self.version = found.get("content")
