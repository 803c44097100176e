"""The routes of a hub that write: new repositories, what is offered, large files in pieces, commits and proposals."""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlencode

from metalchat_store.testing.hub_read import Problem, ReadRoutes, as_json
from metalchat_store.testing.hub_state import Content, HubState, Repo, Token, sha256
from metalchat_store.testing.hub_wire import Recorded, Reply

SDKS = ("docker", "gradio", "static", "streamlit")
_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
_BEHIND = "A commit has happened since. Please refresh and try again."
_NO_WRITE = "Forbidden: you must use a write token to do this operation."
_MOST = 256  # files a request


@dataclass(kw_only=True)
class _Session:
    """One upload in parts, as it was granted by one LFS batch."""

    digest: str
    count: int
    parts: dict[int, bytes] = field(default_factory=dict)


class WriteRoutes(ReadRoutes):
    """The routes of `ReadRoutes`, and those that a push needs.

    Files of more than `chunk_size` bytes are uploaded in parts; `regular_limit` is how large a file in a commit may
    be; `verifies` says whether an upload has to be confirmed. `received` holds what was uploaded and not confirmed.
    """

    def __init__(self, state: HubState, hub: Callable[[], str], cdn: Callable[[], str]) -> None:
        super().__init__(state, hub, cdn)
        self.chunk_size = 16 << 20
        self.regular_limit = 10_000_000
        self.verifies = True
        self.received: dict[str, bytes] = {}
        self._sessions: dict[str, _Session] = {}

    def serve(self, request: Recorded) -> Reply | None:
        """The reply, None if no route matches. Raises `Problem`."""
        if request.method == "POST":
            parts = [unquote(part) for part in request.path.split("/")[1:]]
            if parts == ["api", "repos", "create"]:
                return self._create(request)
            if parts == ["api", "validate-yaml"]:
                return as_json({"errors": [], "warnings": []})
            if parts == ["api", "complete_multipart"]:
                return self._complete(request)
            if parts[0] == "api" and len(parts) == 6 and parts[4] in ("preupload", "commit"):
                repo = self._writable(request, parts[1], "/".join(parts[2:4]))
                return (self._preupload if parts[4] == "preupload" else self._push)(request, repo, parts[5])
            if parts[-4:-1] == ["info", "lfs", "objects"]:
                kind = parts.pop(0) if parts[0] in ("datasets", "spaces") else "models"
                repo = self._writable(request, kind, "/".join(parts[:-4]).removesuffix(".git"), proposes=True)
                return {"batch": self._batch, "verify": self._verify}[parts[-1]](request, repo)
        return self.answer(request)

    def store(self, request: Recorded) -> Reply:
        """What the storage does with a PUT to a signed address: the bytes are taken as they are."""
        key = request.path.removeprefix("/")
        if not self._state.admits(key, request.query):
            return Reply(status=403, headers=[("Content-Type", "application/xml")], body=b"<Error>expired</Error>")
        kind, _, rest = key.partition("/")
        if kind == "upload":
            self.received[rest] = request.body
            if not self.verifies:
                self._keep(rest)
        else:
            session, _, number = rest.partition("/")
            self._sessions[session].parts[int(number)] = request.body
        return Reply(headers=[("ETag", _etag(request.body))])

    def _writable(self, request: Recorded, kind: str, name: str, *, proposes: bool = False) -> Repo:
        repo = self._visible(request, kind, name)
        if proposes or request.query.get("create_pr"):
            token = self._writer(request)
            if repo.private and token.user not in (repo.owner, *repo.granted):
                raise Problem(403, _NO_WRITE)
            return repo
        self._granted(request, repo, write=True)
        return repo

    def _writer(self, request: Recorded) -> Token:
        token = self.token(request)
        if token is None:
            raise Problem(401, "Invalid username or password.")
        if token.role != "write":
            raise Problem(403, _NO_WRITE)
        return token

    def _create(self, request: Recorded) -> Reply:
        token, wanted = self._writer(request), _json(request)
        owner, kind = wanted.get("organization") or token.user, wanted.get("type") or "model"
        name = f"{owner}/{wanted.get('name')}"
        if owner != token.user:
            raise Problem(403, f"You don't have the rights to create a {kind} under the namespace {owner!r}")
        if kind == "space" and wanted.get("sdk") not in SDKS:
            raise Problem(400, "Invalid 'sdk'")
        page = f"{self._hub()}/{'' if kind == 'model' else f'{kind}s/'}{name}"
        if (f"{kind}s", name) in self._state.repos:
            error = {"error": f"You already created this {kind} repo", "url": page}
            return as_json(error, 409)
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self._state.add_repo(
            name,
            kind=f"{kind}s",
            files={".gitattributes": _ATTRIBUTES},
            lfs=None,
            private=private,
            gated=False,
            license_name=None,
        )
        self._state.repos[f"{kind}s", name].sdk = wanted.get("sdk")
        return as_json({"url": page, "name": name, "id": sha256(name.encode())[:24]})

    def _preupload(self, request: Recorded, repo: Repo, revision: str) -> Reply:
        commit = self._commit(repo, revision)
        present = repo.commits[commit]
        answers: list[dict[str, object]] = []
        files = _json(request)["files"]
        if len(files) > _MOST:
            raise Problem(400, "too many files")
        for file in files:
            path, size, content = file["path"], file["size"], present.get(file["path"])
            base64.b64decode(file["sample"], validate=True)
            answer = {"path": path, "uploadMode": "regular", "shouldIgnore": path in self._state.ignored}
            if size and repo.large(path, size):
                answer["uploadMode"] = "lfs"
            if content is not None:
                stored_large = repo.large(path, len(content.data))
                answer["oid"] = content.sha256 if stored_large else content.git_sha1
            answers.append(answer)
        return as_json({"files": answers, "commitOid": commit})

    def _batch(self, request: Recorded, repo: Repo) -> Reply:
        asked = _json(request)
        if asked.get("operation") != "upload" or len(asked["objects"]) > _MOST:
            raise Problem(400, "not an upload")
        many = "multipart" in asked.get("transfers", [])
        objects = [self._grant(repo, item["oid"], item["size"], many=many) for item in asked["objects"]]
        return as_json({"transfer": "multipart" if many else "basic", "objects": objects})

    def _grant(self, repo: Repo, digest: str, size: int, *, many: bool) -> dict[str, object]:
        known: dict[str, object] = {"oid": digest, "size": size}
        if digest in self._state.blobs:
            return known
        upload: dict[str, object] = {"href": self._cdn() + self._state.sealed(f"upload/{digest}"), "header": {}}
        if many and size > self.chunk_size:
            session = f"s{len(self._sessions)}"
            count = -(-size // self.chunk_size)
            self._sessions[session] = _Session(digest=digest, count=count)
            query = urlencode({"uploadId": session, "oid": digest})
            parts = {
                f"{number:05}": self._cdn() + self._state.sealed(f"part/{session}/{number}")
                for number in range(1, count + 1)
            }
            header = {"chunk_size": str(self.chunk_size), **parts}
            upload = {"href": f"{self._hub()}/api/complete_multipart?{query}", "header": header}
        actions: dict[str, object] = {"upload": upload | {"expires_in": 900}}
        if self.verifies:
            folder = "" if repo.kind == "models" else f"{repo.kind}/"
            page = f"{self._hub()}/{folder}{repo.id}.git/info/lfs/objects/verify"
            actions["verify"] = {"href": page}
        return known | {"authenticated": True, "actions": actions}

    def _complete(self, request: Recorded) -> Reply:
        session = self._sessions.get(request.query.get("uploadId", ""))
        told = _json(request)
        if session is None or told.get("oid") != session.digest:
            raise Problem(404, "no such upload")
        etags = {part["partNumber"]: part["etag"] for part in told["parts"]}
        if etags != {number: _etag(session.parts.get(number, b"")) for number in range(1, session.count + 1)}:
            raise Problem(400, "the parts are not those that were sent")
        self.received[session.digest] = b"".join(session.parts[number] for number in sorted(session.parts))
        if not self.verifies:
            self._keep(session.digest)
        return as_json({})

    def _verify(self, request: Recorded, _repo: Repo) -> Reply:
        told = _json(request)
        if told["oid"] in self._state.blobs:
            return Reply()
        if len(self.received.get(told["oid"], b"")) != told["size"] or not self._keep(told["oid"]):
            raise Problem(404, "no such object")
        return Reply()

    def _keep(self, digest: str) -> bool:
        data = self.received.pop(digest)
        if sha256(data) != digest:
            return False
        self._state.blobs[digest] = data
        return True

    def _push(self, request: Recorded, repo: Repo, revision: str) -> Reply:
        lines = [json.loads(line) for line in request.body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        head = self._commit(repo, revision)
        if header.get("parentCommit") not in (None, head):
            raise Problem(412, _BEHIND)
        files = dict(repo.commits[head])
        for line in lines:
            self._apply(files, line["key"], line["value"])
        proposed = bool(request.query.get("create_pr"))
        number = 1 + sum(ref.startswith("refs/pr/") for ref in repo.refs)
        name = f"refs/pr/{number}" if proposed else _branch(repo, revision)
        commit = repo.add(files, name)
        repo.messages[commit] = header["summary"]
        folder = "" if repo.kind == "models" else f"{repo.kind}/"
        page = f"{self._hub()}/{folder}{repo.id}"
        answer = {"success": True, "commitOid": commit, "commitUrl": f"{page}/commit/{commit}", "hookOutput": ""}
        return as_json(answer | ({"pullRequestUrl": f"{page}/discussions/{number}"} if proposed else {}))

    def _apply(self, files: dict[str, Content], key: str, value: Mapping[str, str]) -> None:
        path = value.get("path", "")
        if key in ("file", "lfsFile") and re.search(r"(?:^|/)(?:\.\.?|\.git)?(?:/|$)", path):
            raise Problem(400, f"invalid path {path}")
        if key == "file":
            try:
                data = base64.b64decode(value["content"], validate=True)
            except binascii.Error:
                raise Problem(400, "invalid base64") from None
            if len(data) > self.regular_limit:
                raise Problem(413, f"'{path}' is larger than {self.regular_limit} bytes")
            files[path] = Content(data)
        elif key == "lfsFile":
            if value["oid"] not in self._state.blobs:
                raise Problem(400, "LFS pointer pointed to a file that does not exist")
            files[path] = Content(self._state.blobs[value["oid"]])
        elif key == "deletedFile" and files.pop(path, None) is None:
            raise Problem(404, "Entry not found", "EntryNotFound")
        elif key == "deletedFolder":
            for name in [name for name in files if name.startswith(f"{path.rstrip('/')}/")]:
                del files[name]


def _branch(repo: Repo, revision: str) -> str:
    name = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
    if name not in repo.refs:
        raise Problem(400, f"{revision} is not a branch")
    return name


def _json(request: Recorded) -> dict[str, Any]:
    return json.loads(request.body)


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
