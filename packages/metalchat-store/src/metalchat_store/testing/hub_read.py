"""The routes of a hub that read: who am I, models, trees, refs, commits and where a file's bytes are."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from metalchat_store.testing.hub_state import Content, HubState, Repo, Token, git_sha1, sha256
from metalchat_store.testing.hub_wire import Recorded, Reply

_WRONG = "Invalid credentials in Authorization header"
_NOBODY = "Invalid username or password."
_DATE = "2026-01-01T00:00:00.000Z"
_KINDS = ("models", "datasets", "spaces")


class Problem(Exception):
    """An answer other than success, with the hub's error code and text."""

    def __init__(self, status: int, message: str, code: str | None = None, commit: str | None = None) -> None:
        super().__init__(message)
        headers = [("X-Error-Message", message), ("Content-Type", "application/json")]
        headers += [("X-Error-Code", code)] if code else []
        headers += [("X-Repo-Commit", commit)] if commit else []
        self.reply = Reply(status=status, headers=headers, body=json.dumps({"error": message}).encode())


class ReadRoutes:
    """Answers from a `HubState`. `hub` and `cdn` give the base URLs of the two servers."""

    def __init__(self, state: HubState, hub: Callable[[], str], cdn: Callable[[], str]) -> None:
        self._state = state
        self._hub = hub
        self._cdn = cdn

    def answer(self, request: Recorded) -> Reply | None:
        """The reply, None if no route of this class matches. Raises `Problem`."""
        parts = [unquote(part) for part in request.path.split("/")[1:]]
        if request.method in ("GET", "HEAD") and parts == ["api", "whoami-v2"]:
            return self._whoami(request)
        if parts[:2] == ["api", "resolve-cache"] and len(parts) >= 7:
            repo = self._readable(request, parts[2], "/".join(parts[3:5]))
            return self._cached(request, repo, parts[5], "/".join(parts[6:]))
        if parts[0] == "api" and len(parts) >= 2 and parts[1] in _KINDS:
            return self._api(request, parts[1], parts[2:])
        kind = parts.pop(0) if parts[0] in _KINDS[1:] else "models"
        if request.method in ("GET", "HEAD") and len(parts) >= 5 and parts[2] == "resolve":
            return self._resolve(request, kind, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return None

    def _api(self, request: Recorded, kind: str, rest: list[str]) -> Reply | None:
        if not rest:
            return self._search(request, kind)
        name, route = "/".join(rest[:2]), rest[2] if len(rest) > 2 else ""
        repo = self._visible(request, kind, name)
        routes = {"": self._info, "revision": self._info, "tree": self._tree, "commits": self._commits}
        if request.method == "GET" and route in routes and len(rest) <= 5:
            return routes[route](request, repo, rest[3:])
        if request.method == "GET" and route == "refs":
            return self._refs(repo)
        if request.method == "POST" and route == "paths-info":
            return self._paths(request, repo, rest[3])
        if request.method == "GET" and route == "auth-check":
            self._granted(request, repo, write=rest[3:] == ["write"])
            return Reply()
        return None

    def token(self, request: Recorded) -> Token | None:
        """Who asks; a token that is not known is a `Problem`."""
        try:
            return self._state.user_of(request.header("Authorization"))
        except KeyError:
            raise Problem(401, _WRONG) from None

    def _visible(self, request: Recorded, kind: str, name: str) -> Repo:
        token = self.token(request)
        new = self._state.renamed.get((kind, name))
        if new is not None:
            problem = Problem(307, "Moved")
            problem.reply.headers.append(("Location", request.target.replace(name, new, 1)))
            raise problem
        repo = self._state.repos.get((kind, name))
        if repo is None or (repo.private and not _is_insider(repo, token)):
            if token is None:
                raise Problem(401, _NOBODY, "RepoNotFound")
            raise Problem(404, "Repository not found", "RepoNotFound")
        if repo.disabled:
            raise Problem(403, "Access to this resource is disabled.")
        return repo

    def _readable(self, request: Recorded, kind: str, name: str) -> Repo:
        repo = self._visible(request, kind, name)
        self._granted(request, repo, write=False)
        return repo

    def _granted(self, request: Recorded, repo: Repo, *, write: bool) -> None:
        token = self.token(request)
        restricted = f"Access to model {repo.id} is restricted"
        if repo.gated and token is None:
            text = f"{restricted}. You must have access to it and be authenticated to access it. Please log in."
            raise Problem(401, text, "GatedRepo")
        if repo.gated and not _is_insider(repo, token):
            where = f"Visit {self._hub()}/{repo.id} to ask for access."
            raise Problem(403, f"{restricted} and you are not in the authorized list. {where}", "GatedRepo")
        if write and token is None:
            raise Problem(401, _NOBODY)
        if write and token is not None and (token.role != "write" or repo.owner != token.user):
            raise Problem(403, "Forbidden: you must use a write token to do this operation.")

    def _commit(self, repo: Repo, revision: str) -> str:
        commit = repo.commit_of(revision)
        if commit is None:
            raise Problem(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def _whoami(self, request: Recorded) -> Reply:
        token = self.token(request)
        if token is None:
            raise Problem(401, _NOBODY)
        access = {"displayName": "test", "role": token.role, "createdAt": _DATE}
        return as_json(
            {"type": "user", "id": _object_id(token.user), "name": token.user, "fullname": token.user.title()}
            | {"email": f"{token.user}@example.test", "emailVerified": True, "canPay": False, "isPro": False}
            | {"periodEnd": None, "avatarUrl": "/avatars/x.svg", "orgs": []}
            | {"auth": {"type": "access_token", "accessToken": access}}
        )

    def _info(self, request: Recorded, repo: Repo, rest: list[str]) -> Reply:
        return as_json(self._model(repo, self._commit(repo, rest[0] if rest else "main"), request.query))

    def _model(self, repo: Repo, commit: str, query: dict[str, str]) -> dict[str, object]:
        siblings: list[dict[str, object]] = []
        for path, content in sorted(repo.commits[commit].items(), key=_by_path):
            sibling: dict[str, object] = {"rfilename": path}
            if query.get("blobs", "").lower() in ("true", "1"):
                sibling |= {"size": len(content.data)} | _identity(repo, path, content, "blobId", "sha256")
            siblings.append(sibling)
        licensed = {"license": repo.license} if repo.license else {}
        return {
            "_id": _object_id(repo.id),
            "id": repo.id,
            "modelId": repo.id,
            "private": repo.private,
            "gated": repo.gated,
            "disabled": repo.disabled,
            "sha": commit,
            "lastModified": repo.updated,
            "createdAt": _DATE,
            "author": repo.owner,
            "downloads": repo.downloads,
            "likes": 0,
            "tags": ["text-generation", *(f"license:{name}" for name in licensed.values())],
            "pipeline_tag": "text-generation",
            "siblings": siblings,
            "cardData": licensed,
            "usedStorage": sum(len(content.data) for content in repo.commits[commit].values()),
            "spaces": [],
        }

    def _search(self, request: Recorded, kind: str) -> Reply:
        query, token = request.query, self.token(request)
        found = [
            self._model(repo, self._commit(repo, "main"), query)
            for (its, name), repo in sorted(self._state.repos.items())
            if its == kind
            and (not repo.private or _is_insider(repo, token))
            and query.get("search", "").lower() in name.lower()
            and query.get("author", repo.owner) == repo.owner
        ]
        order = query.get("sort", "")
        if order in ("downloads", "lastModified"):

            def rank(model: dict[str, object]) -> str:
                return str(model[order]).zfill(20)

            found.sort(key=rank, reverse=query.get("direction") == "-1")
        expanded = parse_qs(urlsplit(request.target).query).get("expand", [])
        if expanded:
            found = [{key: model[key] for key in ("_id", "id", *expanded)} for model in found]
        return self._page(request, found)

    def _tree(self, request: Recorded, repo: Repo, rest: list[str]) -> Reply:
        commit = self._commit(repo, rest[0] if rest else "main")
        folder = rest[1] if len(rest) > 1 else ""
        entries = list(_entries(repo, commit))
        if folder:
            entries = [entry for entry in entries if str(entry["path"]).startswith(folder + "/")]
            if not entries:
                raise Problem(404, "Entry not found", "EntryNotFound", commit)
        if request.query.get("recursive", "").lower() not in ("true", "1"):
            depth = folder.count("/") + 1 if folder else 0
            entries = [entry for entry in entries if str(entry["path"]).count("/") == depth]
        if request.query.get("expand", "").lower() in ("true", "1"):
            last = {"id": commit, "title": "commit", "date": _DATE}
            entries = [entry | {"lastCommit": last} for entry in entries]
        reply = self._page(request, entries)
        reply.headers.append(("X-Repo-Commit", commit))
        return reply

    def _paths(self, request: Recorded, repo: Repo, revision: str) -> Reply:
        wanted = parse_qs(request.body.decode()).get("paths", [])
        entries = _entries(repo, self._commit(repo, revision))
        return as_json([entry for entry in entries if entry["path"] in wanted])

    def _refs(self, repo: Repo) -> Reply:
        def listed(prefix: str) -> list[dict[str, str]]:
            return [
                {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": commit}
                for ref, commit in repo.refs.items()
                if ref.startswith(prefix)
            ]

        requests = listed("refs/pr/")
        return as_json(
            {"branches": listed("refs/heads/"), "tags": listed("refs/tags/"), "converts": [], "pullRequests": requests}
        )

    def _commits(self, request: Recorded, repo: Repo, rest: list[str]) -> Reply:
        start = repo.history.index(self._commit(repo, rest[0] if rest else "main"))
        author = [{"user": repo.owner}]
        return self._page(
            request,
            [
                {"id": sha, "title": "commit", "message": "", "authors": author, "date": _DATE}
                for sha in repo.history[start:]
            ],
        )

    def _page(self, request: Recorded, items: list[dict[str, object]]) -> Reply:
        query = request.query
        size = min(_number(query, "limit", self._state.page_size, least=1), self._state.page_size)
        start = _number(query, "cursor", 0, least=0)
        reply = as_json(items[start : start + size])
        if start + size < len(items):
            following = urlencode(query | {"limit": size, "cursor": start + size})
            reply.headers.append(("Link", f'<{self._hub()}{request.path}?{following}>; rel="next"'))
        return reply

    def _resolve(self, request: Recorded, kind: str, name: str, revision: str, path: str) -> Reply:
        repo = self._readable(request, kind, name)
        commit = self._commit(repo, revision)
        content = repo.commits[commit].get(path)
        if content is None:
            raise Problem(404, "Entry not found", "EntryNotFound", commit)
        headers = [("X-Repo-Commit", commit), ("X-Linked-Size", str(len(content.data))), ("Accept-Ranges", "bytes")]
        if repo.large(path, len(content.data)):
            target, etag = self._cdn() + self._state.signed(content.sha256), f'"{content.sha256}"'
            headers += [("ETag", etag), ("X-Linked-Etag", etag), ("Location", target)]
            return Reply(status=302, headers=headers, body=f"Found. Redirecting to {target}".encode())
        etag = f'"{content.git_sha1}"'
        target = f"/api/resolve-cache/{kind}/{name}/{commit}/{quote(path)}"
        target += f"?{quote(request.path, safe='')}=&etag={quote(etag)}"
        headers += [("ETag", etag), ("Location", target)]
        return Reply(status=307, headers=headers, body=f"Temporary Redirect. Redirecting to {target}".encode())

    def _cached(self, request: Recorded, repo: Repo, commit: str, path: str) -> Reply:
        content = repo.commits.get(commit, {}).get(path)
        if content is None:
            raise Problem(404, "Entry not found", "EntryNotFound", commit)
        reply = ranged(request, content.data, f'"{content.git_sha1}"')
        reply.headers += [("X-Repo-Commit", commit), ("Cache-Control", "public, max-age=3600")]
        return reply


def ranged(request: Recorded, data: bytes, etag: str) -> Reply:
    """The bytes of a file, or the part that `Range` and `If-Range` ask for."""
    headers = [("ETag", etag), ("Accept-Ranges", "bytes"), ("Content-Type", "application/octet-stream")]
    asked = re.fullmatch(r"bytes=(?=-?\d)(\d*)-(\d*)", request.header("Range") or "")
    if asked is None or request.header("If-Range") not in (None, etag):
        return Reply(headers=headers, body=data)
    start, end = max(0, len(data) - int(asked[2] or 0)), len(data) - 1
    if asked[1]:
        start, end = int(asked[1]), min(int(asked[2] or len(data)), end)
    if start >= len(data) or end < start:
        return Reply(status=416, headers=[*headers, ("Content-Range", f"bytes */{len(data)}")])
    span = ("Content-Range", f"bytes {start}-{end}/{len(data)}")
    return Reply(status=206, headers=[*headers, span], body=data[start : end + 1])


def as_json(value: object, status: int = 200) -> Reply:
    """A reply with a JSON body."""
    headers = [("Content-Type", "application/json; charset=utf-8")]
    return Reply(status=status, headers=headers, body=json.dumps(value).encode())


def _number(query: Mapping[str, str], name: str, default: int, *, least: int) -> int:
    text = query.get(name) or str(default)
    if not re.fullmatch("[0-9]{1,18}", text) or int(text) < least:
        raise Problem(400, f"Invalid {name}")
    return int(text)


def _is_insider(repo: Repo, token: Token | None) -> bool:
    return token is not None and (token.user == repo.owner or token.user in repo.granted)


def _by_path(item: tuple[str, Content]) -> str:
    return item[0]


def _identity(repo: Repo, path: str, content: Content, blob: str, digest: str) -> dict[str, object]:
    if not repo.large(path, len(content.data)):
        return {blob: content.git_sha1}
    lfs = {digest: content.sha256, "size": len(content.data), "pointerSize": len(content.pointer)}
    return {blob: git_sha1(content.pointer), "lfs": lfs}


def _entries(repo: Repo, commit: str) -> Iterator[dict[str, object]]:
    folders: set[str] = set()
    for path, content in sorted(repo.commits[commit].items(), key=_by_path):
        parts = path.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            if folder not in folders:
                folders.add(folder)
                yield {"type": "directory", "oid": git_sha1(folder.encode()), "size": 0, "path": folder}
        identity = _identity(repo, path, content, "oid", "oid")
        yield {"type": "file", "size": len(content.data), "path": path} | identity


def _object_id(text: str) -> str:
    return sha256(text.encode())[:24]
