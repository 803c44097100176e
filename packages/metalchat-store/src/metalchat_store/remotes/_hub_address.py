"""Addresses of models on a Hugging Face hub: `https://host/org/name`, with `@revision` or `/tree/revision`."""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from metalchat_store._address import AddressError, Origin, origin_of
from metalchat_store.errors import InvalidRepository

_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+#-]{0,254}")
_OTHER_KINDS = ("datasets", "spaces", "buckets", "collections", "docs", "api")


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on a hub: where, `org/name`, and the revision that the address names."""

    origin: Origin
    name: str
    revision: str | None = None

    @property
    def url(self) -> str:
        """The model's page."""
        return f"{self.origin.url}/{self.name}"

    def api(self, *rest: str) -> str:
        """The address of `/api/models/<name>/<rest>`, each part of `rest` quoted as one segment."""
        return "/".join([f"{self.origin.url}/api/models/{self.name}", *(quote(part, safe="") for part in rest)])

    def resolve(self, commit: str, path: str) -> str:
        """The address of a file's bytes at a commit."""
        return f"{self.url}/resolve/{commit}/{quote(path)}"


def parse_model(repository: str) -> HubModel:
    """The model that an address names; `InvalidRepository` if it names none."""
    try:
        origin = origin_of(repository)
    except AddressError as error:
        raise InvalidRepository(f"the address of the model is not valid: {error}") from error
    rest = repository.split("/", 3)[3:]
    path = rest[0] if rest else ""
    if "?" in path or "#" in path:
        raise InvalidRepository(
            "the address of a model ends with its name or a revision: remove what follows '?' or '#'"
        )
    path, revision = _revision(path)
    parts = path.removesuffix("/").split("/")
    if parts[0] in _OTHER_KINDS:
        raise InvalidRepository(f"only models can be pulled, not '{parts[0]}'")
    if len(parts) > 2 or not all(map(_is_part, parts)):
        raise InvalidRepository(f"expected {origin.url}/<organisation>/<model>, with @<revision> if needed")
    return HubModel(origin, "/".join(parts), revision)


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
