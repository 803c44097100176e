"""The content of one large file on its way to where a hub keeps it: in one piece or in parts, and then confirmed."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from metalchat_store._address import AddressError, origin_of
from metalchat_store._answers import AnswerError, Json, typed
from metalchat_store._http import Answer, Http, Sending, busy
from metalchat_store.digest import Digest
from metalchat_store.errors import NetworkError
from metalchat_store.pushes import LocalFile
from metalchat_store.remote import Authorizer
from metalchat_store.remotes._hub_address import HubRepository
from metalchat_store.remotes._hub_refusals import quoted, write_refusal

LFS = {"Accept": "application/vnd.git-lfs+json", "Content-Type": "application/vnd.git-lfs+json"}
PATIENCE = 300.0
_SERVICE = "a Hugging Face hub"
_MAX_PARTS = 10_000
_STALE = (400, 401, 403, 404, 410)
_ETAG = re.compile(r"[\x21-\x7e]{1,256}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What a hub says to do with one content: where its bytes go, and who is told afterwards.

    With `parts` (their addresses, each of `chunk` bytes but the last), `upload` is where they are put together.
    """

    upload: str
    verify: str | None
    parts: tuple[str, ...] = ()
    chunk: int = 0


class Upload:
    """The state of one upload, which survives failed requests. `ask` gives a fresh action, None if there is no need."""

    def __init__(
        self,
        http: Http,
        repository: HubRepository,
        authorize: Authorizer,
        file: LocalFile,
        *,
        action: Action | None,
        ask: Callable[[], Action | None],
    ) -> None:
        self._http = http
        self._repository = repository
        self._authorize = authorize
        self._file = file
        self._action = action
        self._ask = ask
        self._etags: list[str] = []
        self._session = ""
        self._confirm: str | None = None
        self._arrived = False
        self._sent = 0

    def run(self, seen: Callable[[int], None]) -> int:
        """Send what is missing; all bytes that were sent. Raises `NetworkError`, and may be called again then."""
        if not self._arrived:
            action = self._action or self._ask()
            if action is None:
                return self._sent
            if action.upload != self._session:
                self._etags.clear()
            self._action, self._session, self._confirm = action, action.upload, action.verify
            if action.parts:
                self._send_parts(action, seen)
            else:
                self._action = None  # a failure leaves open whether the bytes arrived: the next run asks
                self._put(action.upload, 0, self._file.size, seen)
            self._arrived = True
        if self._confirm is not None:
            self._verify(self._confirm)
        return self._sent

    def _send_parts(self, action: Action, seen: Callable[[int], None]) -> None:
        for number in range(len(self._etags), len(action.parts)):
            start = number * action.chunk
            answer = self._put(action.parts[number], start, min(action.chunk, self._file.size - start), seen)
            etag = answer.headers.get("etag", "")
            if _ETAG.fullmatch(etag) is None:
                raise NetworkError(f"{answer.origin.shown} did not confirm a part of {self._file.path!a}")
            self._etags.append(etag)
        parts = [{"partNumber": number, "etag": etag} for number, etag in enumerate(self._etags, 1)]
        body = json.dumps({"oid": self._file.sha256, "parts": parts}).encode()
        self._judge(self._submit("POST", action.upload, body, LFS, _nobody))

    def _put(self, url: str, start: int, length: int, seen: Callable[[int], None]) -> Answer:
        def chunks() -> Iterator[bytes]:
            done = start
            for block in self._file.read(start, length):
                yield block
                done += len(block)
                seen(done)

        headers = {"Content-Type": "application/octet-stream"}
        answer = self._submit("PUT", url, Sending(chunks=chunks(), length=length), headers, _nobody)
        self._judge(answer)
        self._sent += length
        return answer

    def _submit(
        self, method: str, url: str, body: bytes | Sending, headers: Mapping[str, str], authorize: Authorizer
    ) -> Answer:
        return self._http.submit(
            method,
            url,
            home=self._repository.origin,
            authorize=authorize,
            body=body,
            headers=headers,
            patience=PATIENCE,
        )

    def _judge(self, answer: Answer) -> None:
        """`NetworkError` unless it is a success. What looks like an expired address is asked for anew."""
        if 200 <= answer.status < 300:
            return
        if answer.redirects:
            raise NetworkError(f"{answer.origin.shown} redirects what is sent to it, which is not followed")
        later = busy(answer)
        if later is not None:
            raise later
        if answer.status in _STALE:
            self._action = None
        raise NetworkError(
            f"{answer.origin.shown} does not take {self._file.path!a} ({answer.status})",
            transient=answer.status in _STALE,
        )

    def _verify(self, url: str) -> None:
        body = json.dumps({"oid": self._file.sha256, "size": self._file.size}).encode()
        answer = self._submit("POST", url, body, LFS, self._authorize)
        if answer.status == 404:
            raise NetworkError(f"{answer.origin.shown} did not get all of {self._file.path!a}: push again")
        if not 200 <= answer.status < 300:
            raise write_refusal(answer, self._repository, what=f"the confirmation of {self._file.path!a}")


def read_batch(answer: Answer, repository: HubRepository, wanted: Mapping[str, LocalFile]) -> dict[str, Action | None]:
    """What a hub's answer to an LFS batch says about each digest; None for content that it has."""
    try:
        objects = typed(typed(answer.json(_SERVICE), dict, "the answer").get("objects"), list, "'objects'")
        found = dict(_object(item, repository, wanted) for item in objects)
    except AnswerError as error:
        raise answer.unlike(_SERVICE, str(error)) from error
    if found.keys() != wanted.keys():
        raise answer.unlike(_SERVICE, "'objects' are others than those that were asked about")
    return found


def _object(item: Json, repository: HubRepository, wanted: Mapping[str, LocalFile]) -> tuple[str, Action | None]:
    record = typed(item, dict, "an object")
    digest = Digest(typed(record.get("oid"), str, "'oid'")).hex
    file = wanted.get(digest)
    if file is None or record.get("size", file.size) != file.size:
        raise AnswerError("it speaks of another file than it was asked about")
    error = record.get("error")
    if error is not None:
        problem = typed(error, dict, "'error'")
        words = problem.get("message")
        raise NetworkError(
            f"{repository.origin.shown} does not take {file.path!a}" + (quoted(words) if isinstance(words, str) else "")
        )
    actions = record.get("actions")
    upload = typed(actions, dict, "'actions'").get("upload") if actions is not None else None
    if upload is None:
        return digest, None
    verify = typed(actions, dict, "'actions'").get("verify")
    return digest, _action(typed(upload, dict, "'upload'"), verify, repository, file)


def _action(upload: dict[str, Json], verify: Json, repository: HubRepository, file: LocalFile) -> Action:
    href = _outside(typed(upload.get("href"), str, "'href'"), repository)
    confirm = None
    if verify is not None:
        confirm = _inside(typed(typed(verify, dict, "'verify'").get("href"), str, "'href'"), repository)
    header = upload.get("header")
    header = {} if header is None else typed(header, dict, "'header'")
    if "chunk_size" not in header:
        return Action(upload=href, verify=confirm)
    size = header["chunk_size"]
    text = str(size) if type(size) in (int, str) else ""
    if re.fullmatch(r"[1-9][0-9]{0,18}", text) is None:
        raise AnswerError("'chunk_size' is not a size")
    chunk = int(text)
    numbered = {int(key): value for key, value in header.items() if re.fullmatch(r"[0-9]{1,9}", key)}
    count = -(-file.size // chunk)
    if not 0 < count <= _MAX_PARTS or sorted(numbered) != list(range(1, count + 1)):
        raise AnswerError("the parts do not make up the file")
    parts = tuple(_outside(typed(numbered[number], str, "a part"), repository) for number in range(1, count + 1))
    return Action(upload=href, verify=confirm, parts=parts, chunk=chunk)


def _outside(url: str, repository: HubRepository) -> str:
    """An address that content is sent to, without a credential: any server, but never from https to http."""
    try:
        origin = origin_of(url)
    except AddressError as error:
        raise NetworkError(f"{repository.origin.shown} sent an upload address that is not used: {error}") from error
    if repository.origin.scheme == "https" and origin.scheme != "https":
        raise NetworkError(f"{repository.origin.shown} sent an upload address that leads from https to http")
    return url


def _inside(url: str, repository: HubRepository) -> str:
    """An address that gets the credential: the hub's own and no other."""
    try:
        origin = origin_of(url)
    except AddressError as error:
        raise NetworkError(f"{repository.origin.shown} sent a confirm address that is not used: {error}") from error
    if origin != repository.origin:
        raise NetworkError(f"the hub sent a confirm address on another server ({origin.shown}), which is not followed")
    return url


def _nobody(_url: str) -> str | None:
    return None
