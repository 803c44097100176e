"""One conversation with a remote: what every method of the store that asks one needs."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from metalchat_store._backoff import Backoff
from metalchat_store._layout import Layout
from metalchat_store._progress import OneAtATime
from metalchat_store.errors import InvalidRepository
from metalchat_store.remote import Authorizer, Listing, Remote, RemoteContext
from metalchat_store.sources import Source, ask, opened, parse_source
from metalchat_store.transfer import Waiting
from metalchat_store.types import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """An open remote with everything that belongs to its use."""

    layout: Layout
    source: Source
    revision: str | None
    remote: Remote
    context: RemoteContext
    waiting: Waiting
    progress: Progress | None

    def listing(self) -> Listing:
        """What the remote lists, asked for again as long as the back-off allows."""
        backoff = Backoff(sleep=self.waiting.pause, message=self.context.notice)
        return ask(self.remote, self.source, self.revision, self.context, backoff)

    def seen(self, path: str, done: int, total: int | None) -> None:
        """Tell the listener, if there is one."""
        if self.progress is not None:
            self.progress.file(path, done, total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a store was made with, as far as remotes are concerned."""

    environ: Mapping[str, str]
    remotes: Mapping[str, Callable[[], Remote]]
    sleep: Callable[[float], None] | None
    clock: Callable[[], float]
    client: object | None


@contextmanager
def fetching(
    layout: Layout,
    means: Means,
    repository: str,
    *,
    revision: str | None = None,
    authorize: Authorizer | None = None,
    progress: Progress | None = None,
    kind: str = "model",
) -> Iterator[Fetching]:
    """Open the remote that serves `repository`, a `kind` such as `model`; it is closed at the end.

    Raises `InvalidRepository`, `RemoteNotFound`, `RemoteConflict`, `IncompatibleRemote`.
    """
    source = parse_source(repository)
    if source.version is not None and (revision or source.version).partition("-sha256-")[0] != source.version:
        raise InvalidRepository("the address names a version, the option another revision: give one of them")
    told = None if progress is None else OneAtATime(progress)
    context = RemoteContext(
        authorize=_nobody if authorize is None else authorize,
        environ=means.environ,
        client=means.client,
        notice=_silent if told is None else told.message,
        clock=means.clock,
        kind=kind,
    )
    with opened(source, means.remotes, means.environ, kind=kind) as remote:
        yield Fetching(
            layout=layout,
            source=source,
            revision=source.version if revision is None else revision,
            remote=remote,
            context=context,
            waiting=Waiting(clock=means.clock, sleep=means.sleep, stop=threading.Event()),
            progress=told,
        )


def _nobody(_url: str) -> str | None:
    return None


def _silent(_text: str) -> None:
    return None
