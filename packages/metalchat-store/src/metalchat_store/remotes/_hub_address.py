"""Addresses on a Hugging Face hub: `https://host/org/name`, with `@revision` or `/tree/revision`."""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from metalchat_store._address import AddressError, Origin, origin_of
from metalchat_store.errors import InvalidRepository

_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+#-]{0,254}")
_FOLDERS = {"model": "", "dataset": "datasets/", "space": "spaces/"}
_OTHER_PAGES = ("buckets", "collections", "docs", "api")


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A repository on a hub: where, `org/name`, the revision that the address names, and its kind."""

    origin: Origin
    name: str
    revision: str | None = None
    kind: str = "model"

    @property
    def url(self) -> str:
        """The repository's page."""
        return f"{self.origin.url}/{_FOLDERS[self.kind]}{self.name}"

    def api(self, *rest: str) -> str:
        """The address of `/api/<kind>s/<name>/<rest>`, each part of `rest` quoted as one segment."""
        return "/".join([f"{self.origin.url}/api/{self.kind}s/{self.name}", *(quote(part, safe="") for part in rest)])

    def resolve(self, commit: str, path: str) -> str:
        """The address of a file's bytes at a commit."""
        return f"{self.url}/resolve/{commit}/{quote(path)}"


def parse_model(repository: str) -> HubRepository:
    """The model that an address names; `InvalidRepository` if it names none."""
    return parse_repository(repository, "model")


def parse_repository(repository: str, kind: str) -> HubRepository:
    """The repository of that kind that an address names; `InvalidRepository` if it names none."""
    try:
        origin = origin_of(repository)
    except AddressError as error:
        raise InvalidRepository(f"the address of the {kind} is not valid: {error}") from error
    rest = repository.split("/", 3)[3:]
    path = rest[0] if rest else ""
    if "?" in path or "#" in path:
        raise InvalidRepository(
            f"the address of a {kind} ends with its name or a revision: remove what follows '?' or '#'"
        )
    first = path.partition("/")[0]
    found = {"datasets": "dataset", "spaces": "space"}.get(first, "model")
    if found != kind or first in _OTHER_PAGES:
        named = first if found == kind else f"{found}s"
        raise InvalidRepository(
            f"expected the address of a {kind}, {origin.url}/{_FOLDERS[kind]}<organisation>/<name>, not of '{named}'"
        )
    path, revision = _revision(path.removeprefix(_FOLDERS[kind]))
    parts = path.removesuffix("/").split("/")
    if len(parts) > 2 or not all(map(_is_part, parts)):
        raise InvalidRepository(
            f"expected {origin.url}/{_FOLDERS[kind]}<organisation>/<{kind}>, with @<revision> if needed"
        )
    return HubRepository(origin, "/".join(parts), revision, kind)


def check_revision(revision: str) -> str:
    """`revision` if a branch, tag or commit can have that name; `InvalidRepository` otherwise."""
    if _REVISION.fullmatch(revision) is None or ".." in revision or revision.endswith(("/", ".lock")):
        raise InvalidRepository(f"{revision[:60]!a} is not the name of a revision")
    return revision


def _revision(path: str) -> tuple[str, str | None]:
    head, mark, tail = path.partition("@")
    if not mark:
        parts = path.split("/")
        if len(parts) < 4 or parts[2] != "tree":
            return path, None
        head, tail = "/".join(parts[:2]), "/".join(parts[3:])
    return head, check_revision(unquote(tail))


def _is_part(part: str) -> bool:
    return _PART.fullmatch(part) is not None and "--" not in part and ".." not in part and not part.endswith(".git")
