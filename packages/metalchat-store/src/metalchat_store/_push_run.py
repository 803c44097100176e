"""One push: read, offer, show, send what is missing, and make one commit of it."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from metalchat_store._backoff import Backoff
from metalchat_store._download import remote_errors
from metalchat_store._push_folder import Wanted, collect
from metalchat_store.errors import AccessDenied, InvalidPush, NetworkError, PushConflict, RepositoryNotFound
from metalchat_store.push_types import PlannedFile, Pushed, PushPlan, PushProgress
from metalchat_store.pushes import Committed, Destination, How, LocalFile, Offer, Pushes
from metalchat_store.remote import RemoteContext
from metalchat_store.transfer import Waiting

T = TypeVar("T")

_TOGETHER = 4
_SETTLED = ("unchanged", "ignored")


class Pushing:
    """A push of some files to an opened remote."""

    def __init__(
        self,
        remote: Pushes,
        destination: Destination,
        wanted: Wanted,
        context: RemoteContext,
        waiting: Waiting,
        *,
        create: bool,
        progress: PushProgress | None,
    ) -> None:
        self._remote = remote
        self._destination = destination
        self._wanted = wanted
        self._context = context
        self._waiting = waiting
        self._create = create
        self._progress = progress
        self._guard = threading.Lock()
        self._files: tuple[LocalFile, ...] = ()
        self._passed_over: tuple[str, ...] = ()
        self._sent = 0

    def plan(self) -> PushPlan:
        """Read the files and ask the remote what it makes of them."""
        return self._plan(self._first_offer())

    def run(self, message: str | None) -> Pushed:
        """Plan, create, send, commit."""
        offer = self._first_offer()
        if self._progress is not None:
            self._progress.plan(self._plan(offer))
        created = False
        if offer is None:
            where = self._destination.repository
            created = self._again(where, lambda: self._remote.create(self._destination, context=self._context))
            offer = self._offer()
        plan = self._plan(offer)
        if not plan.changes:
            return self._pushed(plan, self._found(offer), created=created, already=True)
        self._send(offer)
        count = len(plan.changes)
        committed = self._commit(offer, message or f"Push {count} file{'s' if count > 1 else ''}")
        return self._pushed(plan, committed, created=created, already=False)

    def _first_offer(self) -> Offer | None:
        """None if the repository is still to be created."""
        where = self._destination.repository
        value = self._context.authorize(where)
        if value is None:
            host = "/".join(where.split("/")[:3])
            raise AccessDenied(
                f"a push needs a credential that may write: metalchat credential add --write --host {host}"
            )
        own = value.rpartition(" ")[2].encode()
        found = collect(self._wanted, own=own, seen=self._seen)
        self._files, self._passed_over = found.files, found.passed_over
        try:
            return self._offer()
        except RepositoryNotFound as error:
            branch = self._destination.revision or where.partition("@")[2]
            if self._create and branch not in ("", "main"):
                raise InvalidPush("a new repository has its default branch only: push without --revision") from error
            if self._create:
                return None
            raise RepositoryNotFound(f"{error}. To make a new repository, use --create") from error

    def _offer(self) -> Offer:
        where = self._destination.repository
        offer = self._again(where, lambda: self._remote.offer(self._destination, self._files, context=self._context))
        if [item.path for item in offer.files] != [file.path for file in self._files]:
            raise NetworkError(f"{where} did not answer for the files that it was offered")
        return offer

    def _plan(self, offer: Offer | None) -> PushPlan:
        ways: Sequence[How | None] = [None] * len(self._files) if offer is None else [item.how for item in offer.files]
        return PushPlan(
            repository=self._destination.repository,
            kind=self._context.kind,
            commit=None if offer is None else offer.commit,
            files=tuple(
                PlannedFile(path=file.path, size=file.size, sha256=file.sha256, how=how)
                for file, how in zip(self._files, ways, strict=True)
            ),
            passed_over=self._passed_over,
        )

    def _send(self, offer: Offer) -> None:
        """Send the content of large files, each content once. The first failure ends all."""
        from concurrent.futures import ThreadPoolExecutor, as_completed

        large = {file.sha256: file for file in self._such(offer, "large")}
        with ThreadPoolExecutor(_TOGETHER, thread_name_prefix="metalchat-push") as pool:
            futures = [pool.submit(self._send_one, file) for file in large.values()]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self._waiting.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _send_one(self, file: LocalFile) -> None:
        backoff, before = self._backoff(), 0

        def seen(done: int) -> None:
            nonlocal before
            self._waiting.check()
            backoff.progressed(max(0, done - before))
            before = done
            self._seen(file.path, done, file.size)

        def send() -> int:
            return self._remote.send(self._destination, file, context=self._context, seen=seen)

        count = self._again(f"'{file.path}'", send, backoff)
        with self._guard:
            self._sent += count

    def _commit(self, offer: Offer, message: str) -> Committed:
        """Make the commit, once. When the answer is lost, what the repository has then tells whether it was made.

        A commit that came in between is built upon, once, unless it is about one of the same files.
        """
        backoff, moved = self._backoff(), False
        while True:
            files = [file for file, item in zip(self._files, offer.files, strict=True) if item.how not in _SETTLED]
            try:
                with remote_errors(self._destination.repository):
                    committed = self._remote.commit(
                        self._destination, offer, files, message=message, context=self._context
                    )
                break
            except NetworkError as error:
                if self._destination.pull_request and error.transient:
                    raise NetworkError(
                        f"{error}. Whether the pull request was opened is not known: look before pushing again"
                    ) from error
                backoff.failed("the commit", error)
                conflict = PushConflict(f"{self._destination.repository} changed during the push: push again")
            except PushConflict as error:
                if moved:
                    raise
                conflict, moved = error, True
            again = self._offer()
            if all(item.how in _SETTLED for item in again.files):
                committed = self._found(again)
                break
            if [item.current for item in again.files] != [item.current for item in offer.files]:
                raise conflict
            if again.commit != offer.commit:
                offer = again
        self._sent += sum(file.size for file in self._such(offer, "regular"))
        return committed

    def _found(self, offer: Offer) -> Committed:
        """The commit that has every file already."""
        page = self._destination.repository.partition("@")[0].rstrip("/")
        return Committed(commit=offer.commit, url=f"{page}/commit/{offer.commit}")

    def _such(self, offer: Offer, how: How) -> list[LocalFile]:
        return [file for file, item in zip(self._files, offer.files, strict=True) if item.how == how]

    def _pushed(self, plan: PushPlan, committed: Committed, *, created: bool, already: bool) -> Pushed:
        return Pushed(
            plan=plan,
            commit=committed.commit,
            url=committed.url,
            sent_bytes=self._sent,
            skipped=tuple(file.path for file in plan.files if file.how == "unchanged"),
            already=already,
            created=created,
            pull_request=committed.pull_request,
        )

    def _again(self, what: str, call: Callable[[], T], backoff: Backoff | None = None) -> T:
        backoff = self._backoff() if backoff is None else backoff
        while True:
            try:
                with remote_errors(self._destination.repository):
                    return call()
            except NetworkError as error:
                backoff.failed(what, error)

    def _backoff(self) -> Backoff:
        return Backoff(sleep=self._waiting.pause, message=self._context.notice)

    def _seen(self, path: str, done: int, total: int | None) -> None:
        if self._progress is not None:
            with self._guard:
                self._progress.file(path, done, total)
