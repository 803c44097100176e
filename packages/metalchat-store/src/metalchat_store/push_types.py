"""What a push hands to its caller: the plan before the first byte, the result, and how it goes in between."""

from dataclasses import dataclass
from typing import Protocol

from metalchat_store.pushes import How


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """One file of a push. `how` is that of `Offered`, None while the repository does not exist."""

    path: str
    size: int
    sha256: str
    how: How | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PushPlan:
    """What a push would do. `commit` is the one that it builds upon, None if the repository is to be created.

    `passed_over` names what lies in the folder and is never pushed.
    """

    repository: str
    kind: str
    commit: str | None
    files: tuple[PlannedFile, ...]
    passed_over: tuple[str, ...] = ()

    @property
    def creates(self) -> bool:
        """Whether the repository does not exist yet."""
        return self.commit is None

    @property
    def send_bytes(self) -> int:
        """Bytes of content that have to be sent, at most; content that is sent before the commit counts once."""
        large = {file.sha256: file.size for file in self.files if file.how in ("large", None)}
        return sum(large.values()) + sum(file.size for file in self.files if file.how == "regular")

    @property
    def present_bytes(self) -> int:
        """Bytes of the files whose content the remote has already."""
        return sum(file.size for file in self.files if file.how in ("present", "unchanged"))

    @property
    def changes(self) -> tuple[PlannedFile, ...]:
        """The files that will be part of the commit."""
        return tuple(file for file in self.files if file.how not in ("unchanged", "ignored"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """The result of a push.

    `already`: the repository had every file, and no commit was made. `sent_bytes` of content went over the network;
    `skipped` names the files that the repository had. `url` shows the commit, `pull_request` the page of the
    proposal, if that is what was made.
    """

    plan: PushPlan
    commit: str
    url: str
    sent_bytes: int
    skipped: tuple[str, ...]
    already: bool
    created: bool = False
    pull_request: str | None = None


class PushProgress(Protocol):
    """Told how a push goes; called from several threads, one call at a time."""

    def plan(self, plan: PushPlan) -> None:
        """Once, before the first byte of content is sent."""
        ...

    def file(self, path: str, done: int, total: int | None) -> None:
        """`done` of `total` bytes of a file were read, and later sent."""
        ...

    def message(self, text: str) -> None:
        """One line for the user: what is waited for or tried again."""
        ...
