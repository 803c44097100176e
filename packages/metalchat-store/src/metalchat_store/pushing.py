"""Pushing from a folder into a repository: `push`, and `plan_push` for what it would do."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict, Unpack

from metalchat_store._files import disk_errors
from metalchat_store._push_folder import Wanted
from metalchat_store._push_run import Pushing
from metalchat_store.errors import InvalidPush, InvalidRepository
from metalchat_store.push_types import Pushed, PushPlan, PushProgress
from metalchat_store.pushes import Destination, Pushes
from metalchat_store.remote import Authorizer, RemoteContext
from metalchat_store.sources import Remotes, opened, parse_source
from metalchat_store.transfer import Waiting

KINDS = ("model", "dataset", "space")
SDKS = ("docker", "gradio", "static", "streamlit")
_MAX_MESSAGE = 500


class PushOptions(TypedDict, total=False):
    """What `push` and `plan_push` may be told.

    `kind` is `model`, `dataset` or `space`, `revision` a branch. `create` makes the repository if there is none:
    `private`, and a space with that `sdk`. With `pull_request` the commit is proposed instead of made. `to` is the
    folder of the repository that the files go into; `include` and `exclude` are patterns of names, in which `*`
    matches `/` too. `environ` stands for the environment variables, `remotes` maps URL schemes to factories that take
    the place of installed remotes. `sleep`, `clock` and `client` are for tests.
    """

    kind: str
    revision: str | None
    create: bool
    private: bool
    sdk: str | None
    pull_request: bool
    to: str
    include: Sequence[str]
    exclude: Sequence[str]
    progress: PushProgress | None
    environ: Mapping[str, str]
    remotes: Remotes
    sleep: Callable[[float], None] | None
    clock: Callable[[], float]
    client: object | None


def push(
    path: Path,
    repository: str,
    *,
    authorize: Authorizer,
    message: str | None = None,
    **options: Unpack[PushOptions],
) -> Pushed:
    """Send a file, or a folder but for other programs' hidden state, and make one commit of it.

    `authorize` gives credentials that may write; `message` is that of the commit. Interrupted anywhere, the next push
    sends what is missing. Nothing is deleted in the repository.

    Raises `InvalidPush`, `InvalidRepository`, `NotFound`, `RepositoryNotFound`, `AccessDenied`, `NetworkError`,
    `IntegrityError` (a file changed), `Refused` (a secret, a link out of the folder), `PushConflict`, `DiskError`.
    """
    if message is not None and not 0 < len(message) <= _MAX_MESSAGE:
        raise InvalidPush(f"the message of a commit has 1 to {_MAX_MESSAGE} characters: change --message")
    with _prepared(path, repository, authorize, options) as pushing:
        return pushing.run(message)


def plan_push(path: Path, repository: str, *, authorize: Authorizer, **options: Unpack[PushOptions]) -> PushPlan:
    """What `push` would do. The remote is told names, sizes, digests and the first 512 bytes of each file.

    Raises as `push` does.
    """
    with _prepared(path, repository, authorize, options) as pushing:
        return pushing.plan()


@contextmanager
def _prepared(path: Path, repository: str, authorize: Authorizer, options: PushOptions) -> Iterator[Pushing]:
    kind, create, sdk = options.get("kind", "model"), options.get("create", False), options.get("sdk")
    _check(kind, create=create, private=options.get("private", False), sdk=sdk)
    environ = options.get("environ", os.environ)
    progress = options.get("progress")
    clock = options.get("clock", time.monotonic)
    with disk_errors(path, reading=True):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise InvalidPush(f"'{path}' does not exist") from None
    source = parse_source(repository)
    if source.gguf is not None or source.version is not None:
        raise InvalidRepository("files are pushed to a repository, not to one of its files or versions")
    context = RemoteContext(
        authorize=authorize,
        environ=environ,
        client=options.get("client"),
        notice=_silent if progress is None else progress.message,
        clock=clock,
        kind=kind,
    )
    destination = Destination(
        repository=source.address,
        revision=options.get("revision"),
        pull_request=options.get("pull_request", False),
        private=options.get("private", False),
        sdk=sdk,
    )
    wanted = Wanted(
        path=path, to=options.get("to", ""), include=options.get("include", ()), exclude=options.get("exclude", ())
    )
    with opened(source, options.get("remotes", {}), environ) as remote:
        if not isinstance(remote, Pushes):
            raise InvalidRepository(f"nothing can be pushed to '{source.scheme}:' addresses")
        yield Pushing(
            remote,
            destination,
            wanted,
            context,
            Waiting(clock=clock, sleep=options.get("sleep"), stop=threading.Event()),
            create=create,
            progress=progress,
        )


def _check(kind: str, *, create: bool, private: bool, sdk: str | None) -> None:
    if kind not in KINDS:
        raise InvalidPush(f"{kind[:40]!a} is no kind of repository: expected one of {', '.join(KINDS)}")
    if private and not create:
        raise InvalidPush("--private is about a new repository: add --create, or leave it out")
    if sdk is not None and (kind != "space" or not create):
        raise InvalidPush("--sdk is about a new space: add --create, or leave it out")
    if kind == "space" and create and sdk not in SDKS:
        raise InvalidPush(f"a new space needs --sdk with one of {', '.join(SDKS)}")


def _silent(_text: str) -> None:
    return None
