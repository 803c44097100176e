"""What a fake hub holds: repositories with their commits, large files, users and tokens."""

import hashlib
import hmac
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

LARGE = 1024
"""From this size on, a file is large (LFS), unless the repository says which files are."""

_ALWAYS_LARGE = (".safetensors", ".bin", ".gguf", ".pt", ".onnx")


@dataclass(frozen=True)
class Content:
    """The bytes of a file. Their identities are computed once."""

    data: bytes

    @cached_property
    def sha256(self) -> str:
        """What a large file is called."""
        return sha256(self.data)

    @cached_property
    def git_sha1(self) -> str:
        """What git calls a small file."""
        return git_sha1(self.data)

    @cached_property
    def pointer(self) -> bytes:
        """What git stores in place of a large file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()


@dataclass(kw_only=True)
class Repo:
    """One repository. `refs` maps full names (`refs/heads/main`) to commits, `commits` a commit to its files."""

    id: str
    kind: str = "models"
    private: bool = False
    gated: str | bool = False
    disabled: bool = False
    license: str | None = None
    large: Callable[[str, int], bool]
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Content]] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    granted: set[str] = field(default_factory=set)
    messages: dict[str, str] = field(default_factory=dict)
    sdk: str | None = None
    downloads: int = 0
    updated: str = "2026-01-01T00:00:00.000Z"

    @property
    def owner(self) -> str:
        """The user or organisation before the slash."""
        return self.id.partition("/")[0]

    def commit_of(self, revision: str) -> str | None:
        """The commit that a branch, tag, pull request or commit id names."""
        if revision in self.commits:
            return revision
        names = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        return next((self.refs[name] for name in names if name in self.refs), None)

    def add(self, files: Mapping[str, Content], ref: str) -> str:
        """A new commit that holds exactly `files`; `ref` then names it. Commit ids are made from their history."""
        digest = hashlib.sha1(f"{self.kind}/{self.id} {len(self.history)}".encode(), usedforsecurity=False)
        for path in sorted(files):
            digest.update(path.encode("utf-8", "surrogateescape") + b"\0" + files[path].git_sha1.encode())
        sha = digest.hexdigest()
        self.commits[sha] = dict(files)
        self.history.insert(0, sha)
        self.refs[ref] = sha
        return sha


@dataclass(frozen=True, kw_only=True)
class Token:
    """An access token: whose, and whether it may `read` or `write`."""

    user: str
    role: str = "read"


class HubState:
    """Everything that the routes of a fake hub answer from."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.repos: dict[tuple[str, str], Repo] = {}
        self.renamed: dict[tuple[str, str], str] = {}
        self.tokens: dict[str, Token] = {}
        self.blobs: dict[str, bytes] = {}
        self.ignored: set[str] = set()
        self.generation = 0
        self.page_size = 1000
        self.lifetime = 3600

    def add_repo(
        self,
        name: str,
        *,
        kind: str,
        files: Mapping[str, bytes],
        lfs: Collection[str] | None,
        private: bool,
        gated: str | bool,
        license_name: str | None,
    ) -> str:
        """A repository with one commit on `main`; its id."""

        def large(path: str, size: int) -> bool:
            return size >= LARGE or path.endswith(_ALWAYS_LARGE) if lfs is None else path in lfs

        repo = Repo(id=name, kind=kind, private=private, gated=gated, license=license_name, large=large)
        self.repos[kind, name] = repo
        return self.commit(repo, files, "refs/heads/main")

    def commit(self, repo: Repo, files: Mapping[str, bytes], ref: str) -> str:
        """A new commit, its large files stored under their digest."""
        contents = {path: Content(data) for path, data in files.items()}
        for path, content in contents.items():
            if repo.large(path, len(content.data)):
                self.blobs[content.sha256] = content.data
        return repo.add(contents, ref)

    def user_of(self, authorization: str | None) -> Token | None:
        """Who sent a request; `KeyError` if the token is not known."""
        if authorization is None:
            return None
        return self.tokens[authorization.removeprefix("Bearer ")]

    def sealed(self, key: str) -> str:
        """The path `/<key>` and the query under which the storage takes bytes for an hour."""
        expires = int(self.clock()) + self.lifetime
        return f"/{key}?Expires={expires}&Signature={self._signature(key, expires)}&Key-Pair-Id=FAKE"

    def signed(self, digest: str) -> str:
        """The path and query under which the CDN gives out a large file for an hour, to whoever has them."""
        expires = int(self.clock()) + self.lifetime
        return f"/blob/{digest}?Expires={expires}&Signature={self._signature(digest, expires)}&Key-Pair-Id=FAKE"

    def admits(self, digest: str, query: Mapping[str, str]) -> bool:
        """Whether a signature is right and has not expired."""
        expires = query.get("Expires", "")
        if not expires.isascii() or not expires.isdecimal() or int(expires) < self.clock():
            return False
        return hmac.compare_digest(query.get("Signature", ""), self._signature(digest, int(expires)))

    def _signature(self, digest: str, expires: int) -> str:
        text = f"{digest} {expires} {self.generation}"
        return hmac.new(b"fake", text.encode(), hashlib.sha256).hexdigest()


def sha256(data: bytes) -> str:
    """The digest of a large file."""
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    """The id that git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
