"""What every part of the store works with: where it is, and how it reaches remotes."""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from metalchat_store._layout import Layout
from metalchat_store.entries import Entries

if TYPE_CHECKING:
    from metalchat_store._fetching import Fetching, Means
    from metalchat_store.remote import Authorizer, Remote
    from metalchat_store.types import Entry, Progress


class Base:
    """The models below `home` ($METALCHAT_HOME).

    `environ` stands for the environment variables (default: those of the process). `remotes` maps URL schemes to
    factories that take the place of installed remotes. `sleep`, `clock`, `now` and `client` are for tests.
    """

    def __init__(
        self,
        home: Path,
        *,
        environ: Mapping[str, str] | None = None,
        remotes: "Mapping[str, Callable[[], Remote]] | None" = None,
        sleep: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        client: object | None = None,
    ) -> None:
        self.home = Path(home)
        self._environ = os.environ if environ is None else environ
        self._remotes = {} if remotes is None else remotes
        self._sleep = sleep
        self._clock = clock
        self._now = now
        self._client = client
        self._layout = Layout(self.home)
        self._entries = Entries(self._layout)

    def _fetching(
        self,
        repository: str,
        *,
        revision: str | None = None,
        authorize: "Authorizer | None" = None,
        progress: "Progress | None" = None,
    ) -> "AbstractContextManager[Fetching]":
        from metalchat_store._fetching import fetching

        return fetching(
            self._layout, self._means(), repository, revision=revision, authorize=authorize, progress=progress
        )

    def _means(self) -> "Means":
        from metalchat_store._fetching import Means

        return Means(
            environ=self._environ, remotes=self._remotes, sleep=self._sleep, clock=self._clock, client=self._client
        )

    def _held(self, entry: "Entry") -> str | None:
        """Why an entry must stay at its commit; None if it need not."""
        from metalchat_store.roots import Roots

        for root in Roots(self._layout).of(entry.id):
            if root.kind == "pin" or (root.kind == "lock" and root.commit == entry.commit):
                return str(root)
        return None

    def _changing(self, id: str, layout: Layout | None = None) -> AbstractContextManager[None]:
        """Hold the lock of an entry, a model's unless `layout` says otherwise."""
        from metalchat_store._locks import entry_lock

        return entry_lock(layout or self._layout, id, _silent, self._clock, self._sleep or time.sleep)


def _silent(_text: str) -> None:
    return None
