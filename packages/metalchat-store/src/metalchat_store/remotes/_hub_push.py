"""The write side of a hub's API for one repository: what it wants, what it has, and the commit."""

import base64
import json
import re
from collections.abc import Callable, Iterator, Sequence

from metalchat_store._answers import AnswerError, Json, typed
from metalchat_store._http import Answer, Http, Sending
from metalchat_store.digest import check_sha1
from metalchat_store.errors import InvalidPush, InvalidRepository, NetworkError, PushConflict, Refused
from metalchat_store.pushes import Committed, Destination, How, LocalFile, Offer, Offered
from metalchat_store.remote import RemoteContext
from metalchat_store.remotes._hub_address import check_revision, parse_repository
from metalchat_store.remotes._hub_listing import HubApi
from metalchat_store.remotes._hub_refusals import write_refusal
from metalchat_store.remotes._hub_upload import LFS, PATIENCE, Action, Upload, read_batch

_SERVICE = "a Hugging Face hub"
_TOGETHER = 256  # files a request
_JSON = {"Content-Type": "application/json"}
_NDJSON = {"Content-Type": "application/x-ndjson"}
_ANSWER_LIMIT = 16 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CURRENT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class HubPush:
    """One push; what was asked and sent is remembered, so that a call after a failure repeats nothing."""

    def __init__(self, http: Http, destination: Destination, context: RemoteContext) -> None:
        self._http = http
        self._destination = destination
        self._authorize = context.authorize
        self._repository = parse_repository(destination.repository, context.kind)
        named, given = self._repository.revision, destination.revision
        if given is not None and named not in (None, given):
            raise InvalidRepository(f"the address names the revision '{named}', the option '{given[:60]}': give one")
        self._branch = check_revision(given or named or "main")
        if _COMMIT.fullmatch(self._branch):
            raise InvalidPush("--revision names a commit, which nothing can be added to: name a branch")
        self._uploads: dict[str, Upload] = {}

    def offer(self, files: Sequence[LocalFile]) -> Offer:
        """What the hub wants of each file; large content that it has is found, for the rest an upload is prepared.

        `Refused` where the repository is to be private, is there, and is not.
        """
        commits: set[str] = set()
        offered: list[Offered] = []
        for some in _slices(files):
            commit, answers = self._preupload(some)
            commits.add(commit)
            offered += answers
        if len(commits) != 1:
            raise PushConflict(f"'{self._repository.name}' changed while files were offered to it: push again")
        if self._destination.private:
            self._check_private()
        wanted = {file.sha256: file for file, item in zip(files, offered, strict=True) if item.how == "large"}
        actions: dict[str, Action | None] = {}
        for part in _slices(list(wanted.values())):
            actions |= self._batch(part)
        self._uploads = {
            digest: self._upload(wanted[digest], action) for digest, action in actions.items() if action is not None
        }
        return Offer(commit=commits.pop(), files=tuple(self._settled(files, offered)))

    def create(self) -> bool:
        """Create the repository; False if there is one of that name."""
        owner, _, name = self._repository.name.rpartition("/")
        wanted: dict[str, object] = {"name": name, "organization": owner or None}
        if self._repository.kind != "model":
            wanted["type"] = self._repository.kind
        if self._destination.private:
            wanted["visibility"] = "private"
        if self._destination.sdk is not None:
            wanted["sdk"] = self._destination.sdk
        answer = self._post(f"{self._repository.origin.url}/api/repos/create", wanted)
        if answer.status == 409:
            if b"another conflicting operation" in answer.data:
                raise NetworkError(f"{self._repository.origin.shown} is busy with that repository", transient=True)
            return False
        self._expect(answer, f"the request for a new {self._repository.kind}")
        return True

    def send(self, file: LocalFile, seen: Callable[[int], None]) -> int:
        """Send the content of a file that was offered; the bytes that were sent for it in all."""
        if file.sha256 not in self._uploads:
            self._uploads[file.sha256] = self._upload(file, None)
        return self._uploads[file.sha256].run(seen)

    def commit(self, offer: Offer, files: Sequence[LocalFile], message: str) -> Committed:
        """One commit: small files as they are, large ones by their digest."""
        how = {item.path: item.how for item in offer.files}
        summary, _, description = message.partition("\n")
        value = {"summary": summary, "description": description.strip(), "parentCommit": offer.commit}
        head = _line({"key": "header", "value": value})
        lines = [_Regular(file) if how[file.path] == "regular" else _large(file) for file in files]
        url = self._repository.api("commit", self._branch) + self._proposal()
        answer = self._http.submit(
            "POST",
            url,
            home=self._repository.origin,
            authorize=self._authorize,
            body=Sending(chunks=_chunks([head, *lines]), length=sum(len(line) for line in [head, *lines])),
            headers=_NDJSON,
            patience=PATIENCE,
        )
        self._expect(answer, "the commit")
        return self._committed(answer)

    def _check_private(self) -> None:
        if not HubApi(self._http, self._repository, self._authorize).private(self._branch):
            where = f"'{self._repository.name}' at {self._repository.origin.shown}"
            raise Refused(
                f"{where} is there already, and everybody sees it: leave out --private, or push to another name"
            )

    def _preupload(self, files: Sequence[LocalFile]) -> tuple[str, list[Offered]]:
        asked = [
            {"path": file.path, "sample": base64.b64encode(file.sample).decode(), "size": file.size} for file in files
        ]
        url = self._repository.api("preupload", self._branch) + self._proposal()
        answer = self._post(url, {"files": asked})
        self._expect(answer, "the list of files")
        try:
            record = typed(answer.json(_SERVICE), dict, "the answer")
            commit = check_sha1(typed(record.get("commitOid"), str, "'commitOid'"))
            found = dict(_wish(item) for item in typed(record.get("files"), list, "'files'"))
            if found.keys() != {file.path for file in files}:
                raise AnswerError("'files' are others than those that were asked about")
        except AnswerError as error:
            raise answer.unlike(_SERVICE, str(error)) from error
        return commit, [_offered(file, *found[file.path]) for file in files]

    def _batch(self, files: Sequence[LocalFile]) -> dict[str, Action | None]:
        wanted: dict[str, object] = {
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": [{"oid": file.sha256, "size": file.size} for file in files],
            "hash_algo": "sha256",
        }
        if not self._destination.pull_request:
            wanted["ref"] = {"name": self._branch}
        answer = self._post(f"{self._repository.url}.git/info/lfs/objects/batch", wanted, LFS)
        self._expect(answer, "the list of large files")
        return read_batch(answer, self._repository, {file.sha256: file for file in files})

    def _upload(self, file: LocalFile, action: Action | None) -> Upload:
        return Upload(
            self._http,
            self._repository,
            self._authorize,
            file,
            action=action,
            ask=lambda: self._batch([file])[file.sha256],
        )

    def _settled(self, files: Sequence[LocalFile], offered: Sequence[Offered]) -> Iterator[Offered]:
        for file, item in zip(files, offered, strict=True):
            if item.how == "large" and file.sha256 not in self._uploads:
                yield Offered(path=item.path, how="present", current=item.current)
            else:
                yield item

    def _proposal(self) -> str:
        return "?create_pr=1" if self._destination.pull_request else ""

    def _post(self, url: str, value: dict[str, object], headers: dict[str, str] = _JSON) -> Answer:
        return self._http.submit(
            "POST",
            url,
            home=self._repository.origin,
            authorize=self._authorize,
            body=json.dumps(value).encode(),
            headers=headers,
            limit=_ANSWER_LIMIT,
        )

    def _expect(self, answer: Answer, what: str) -> None:
        if not 200 <= answer.status < 300:
            raise write_refusal(answer, self._repository, what=what)

    def _committed(self, answer: Answer) -> Committed:
        try:
            record = typed(answer.json(_SERVICE), dict, "the answer")
            commit = check_sha1(typed(record.get("commitOid"), str, "'commitOid'"))
            page = record.get("pullRequestUrl")
        except AnswerError as error:
            raise answer.unlike(_SERVICE, str(error)) from error
        proposal = None
        if self._destination.pull_request:
            ours = re.escape(self._repository.url) + r"/discussions/[0-9]{1,9}"
            proposal = (
                page if isinstance(page, str) and re.fullmatch(ours, page) else f"{self._repository.url}/discussions"
            )
        return Committed(commit=commit, url=f"{self._repository.url}/commit/{commit}", pull_request=proposal)


class _Regular:
    """The line of a commit that holds a small file, read when it is sent."""

    def __init__(self, file: LocalFile) -> None:
        self._file = file
        self._start = b'{"key":"file","value":{"content":"'
        self._end = b'","path":' + json.dumps(file.path).encode() + b',"encoding":"base64"}}\n'

    def __len__(self) -> int:
        return len(self._start) + 4 * -(-self._file.size // 3) + len(self._end)

    def __iter__(self) -> Iterator[bytes]:
        yield self._start
        for block in self._file.read(0, self._file.size):
            yield base64.b64encode(block)
        yield self._end


def _chunks(lines: "Sequence[bytes | _Regular]") -> Iterator[bytes]:
    for line in lines:
        if isinstance(line, bytes):
            yield line
        else:
            yield from line


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _large(file: LocalFile) -> bytes:
    value = {"path": file.path, "algo": "sha256", "oid": file.sha256, "size": file.size}
    return _line({"key": "lfsFile", "value": value})


def _wish(item: Json) -> tuple[str, tuple[How, str | None]]:
    record = typed(item, dict, "a file")
    mode = typed(record.get("uploadMode"), str, "'uploadMode'")
    if mode not in ("lfs", "regular"):
        raise AnswerError("'uploadMode' is neither 'lfs' nor 'regular'")
    how: How = "large" if mode == "lfs" else "regular"
    if typed(record.get("shouldIgnore", False), bool, "'shouldIgnore'"):
        how = "ignored"
    current = record.get("oid")
    if current is not None and _CURRENT.fullmatch(typed(current, str, "'oid'")) is None:
        raise AnswerError("'oid' is not an identity")
    return typed(record.get("path"), str, "'path'"), (how, current if isinstance(current, str) else None)


def _offered(file: LocalFile, how: How, current: str | None) -> Offered:
    if how == "regular" and file.git_sha1 is None:
        raise NetworkError(f"{file.path!a} is too large to be part of a commit, where the hub wants it")
    if current is not None and current in (file.sha256, file.git_sha1):
        how = "unchanged" if how != "ignored" else how
    return Offered(path=file.path, how=how, current=current)


def _slices(files: Sequence[LocalFile]) -> Iterator[Sequence[LocalFile]]:
    for start in range(0, len(files), _TOGETHER):
        yield files[start : start + _TOGETHER]
