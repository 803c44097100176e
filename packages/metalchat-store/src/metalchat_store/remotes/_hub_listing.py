"""What a hub says about a repository: its commit, licence and files, each answer checked before it is believed."""

import re
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import urljoin

from metalchat_store._address import AddressError, origin_of
from metalchat_store._answers import AnswerError, Json, typed
from metalchat_store._http import MIB, Answer, Head, Http
from metalchat_store.digest import Digest, check_sha1
from metalchat_store.errors import IntegrityError, NetworkError
from metalchat_store.remote import MAX_FILES, Authorizer, RemoteFile
from metalchat_store.remotes._hub_address import HubRepository
from metalchat_store.remotes._hub_errors import check_rename, refusal

T = TypeVar("T")

MAX_PAGES = 100
_PAGE_LIMIT = 16 * MIB
_SERVICE = "a Hugging Face hub"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LINK = re.compile(r'<([^<>]*)>((?:\s*;\s*[\w*-]+=(?:"[^"]*"|[^",;\s]*))*)')
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")


class HubApi:
    """The read side of a hub's API for one repository."""

    def __init__(self, http: Http, model: HubRepository, authorize: Authorizer) -> None:
        self._http = http
        self._model = model
        self._authorize = authorize

    def commit(self, revision: str) -> tuple[str, str | None, bool | None]:
        """The commit that `revision` names at this moment, the licence that the model declares, whether it is gated."""
        answer = self._get(self._model.api("revision", revision), what=f"'{revision}'", limit=MIB)
        info = self._checked(answer, lambda value: typed(value, dict, "the answer"))
        sha = self._checked(answer, lambda _: typed(info.get("sha"), str, "'sha'"))
        check_sha1(sha)
        if _COMMIT.fullmatch(revision) is not None and sha != revision:
            raise other_commit(sha, revision)
        gated = info.get("gated")
        return sha, _license(info), gated in (True, "auto", "manual") if isinstance(gated, bool | str) else None

    def private(self, revision: str) -> bool:
        """Whether only some people see the repository."""
        answer = self._get(self._model.api("revision", revision), what=f"'{revision}'", limit=MIB)
        return self._checked(answer, lambda value: typed(typed(value, dict, "it").get("private"), bool, "'private'"))

    def files(self, commit: str) -> tuple[RemoteFile, ...]:
        """Every file at `commit`, from at most 100 pages."""
        model = self._model
        url = model.api("tree", commit) + "?recursive=true&expand=false"
        files: list[RemoteFile] = []
        for _ in range(MAX_PAGES):
            answer = self._get(url, what="the list of files", limit=_PAGE_LIMIT)
            said = answer.headers.get("x-repo-commit", commit)
            if said != commit:
                raise other_commit(check_sha1(said), commit)
            files += self._checked(answer, lambda value: list(_entries(value, model, commit)))
            if len(files) > MAX_FILES:
                raise IntegrityError(f"'{model.name}' has more than {MAX_FILES:,} files")
            following = _next(answer)
            if following is None:
                return tuple(files)
            url = self._page(answer.url, following)
        raise NetworkError(f"{model.origin.shown}: the hub's file list does not end (more than {MAX_PAGES} pages)")

    def _get(self, url: str, *, what: str, limit: int) -> Answer:
        asked: list[str] = []

        def authorize(address: str) -> str | None:
            value = self._authorize(address)
            asked.extend([address] if value is not None else [])
            return value

        def inspect(head: Head) -> None:
            check_rename(head, self._model)

        answer = self._http.fetch(url, home=self._model.origin, authorize=authorize, limit=limit, inspect=inspect)
        if answer.status != 200:
            raise refusal(answer, self._model, what=what, authorized=bool(asked))
        return answer

    def _page(self, url: str, following: str) -> str:
        try:
            target = urljoin(url, following)
            origin = origin_of(target)
        except (AddressError, ValueError) as error:
            raise NetworkError(f"{self._model.origin.shown} sent a page link that is not valid: {error}") from error
        if origin != self._model.origin:
            raise NetworkError(f"the hub sent a page link to another server ({origin.shown}), which is not followed")
        return target

    @staticmethod
    def _checked(answer: Answer, decode: Callable[[Json], T]) -> T:
        try:
            return decode(answer.json(_SERVICE))
        except AnswerError as error:
            raise answer.unlike(_SERVICE, str(error)) from error


def other_commit(said: str, asked: str) -> IntegrityError:
    """The error of an answer that belongs to another commit."""
    return IntegrityError(f"the hub answered for commit {said[:12]}, asked for {asked[:12]}")


def _entries(value: Json, model: HubRepository, commit: str) -> Iterator[RemoteFile]:
    for item in typed(value, list, "the file list"):
        entry = typed(item, dict, "a file")
        kind = typed(entry.get("type"), str, "'type'")
        if kind == "directory":
            continue
        if kind != "file":
            raise AnswerError("an entry is neither a file nor a directory")
        path, size = typed(entry.get("path"), str, "'path'"), typed(entry.get("size"), int, "'size'")
        oid, lfs = typed(entry.get("oid"), str, "'oid'"), entry.get("lfs")
        check_sha1(oid)
        sha256 = None
        if lfs is not None:
            pointer = typed(lfs, dict, "'lfs'")
            sha256 = Digest(typed(pointer.get("oid"), str, "'lfs.oid'")).hex
            if typed(pointer.get("size"), int, "'lfs.size'") != size:
                raise IntegrityError(f"the hub sent two sizes for one file: {path[:80]!a}")
        yield RemoteFile(
            path=path,
            size=size,
            sha256=sha256,
            git_sha1=None if sha256 else oid,
            location=model.resolve(commit, path),
        )


def _next(answer: Answer) -> str | None:
    for target, parameters in _LINK.findall(answer.headers.get("link", "")[:8192]):
        if re.search(r';\s*rel="?next"?(?:;|\s|$)', parameters):
            return str(target)
    return None


def _license(info: dict[str, Json]) -> str | None:
    card, tags = info.get("cardData"), info.get("tags")
    found = card.get("license") if isinstance(card, dict) else None
    named = card.get("license_name") if isinstance(card, dict) else None
    if found == "other" and isinstance(named, str):
        found = named
    if isinstance(found, list):
        found = " OR ".join(item for item in found if isinstance(item, str) and _LICENSE.fullmatch(item))
        return found or None
    if found is None and isinstance(tags, list):
        marked = [tag for tag in tags if isinstance(tag, str) and tag.startswith("license:")]
        found = marked[0].removeprefix("license:") if marked else None
    return found if isinstance(found, str) and _LICENSE.fullmatch(found) else None
