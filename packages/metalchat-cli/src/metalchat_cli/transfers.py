"""Pushing to repositories, and pulling files of them into a directory: what models, datasets and spaces share."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from metalchat_cli import access, errors, progress, sizes, terminal
from metalchat_cli.home import home

if TYPE_CHECKING:
    from metalchat_store import Progress, PushPlan

Names = Annotated[list[str], Parameter(negative=())]
_SHOWN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class PullChoices:
    """What is pulled, and where to.

    Parameters
    ----------
    to
        Put the files into this directory; metalchat then keeps none of its own.
    file
        A file to pull, by its name in the repository. May be repeated.
    include
        Pull what matches this pattern, in which * matches / too. May be repeated.
    exclude
        Leave out what matches this pattern. May be repeated.
    revision
        A branch, tag or commit; the repository's default otherwise.
    force
        Replace files in the directory that differ.
    """

    to: Path | None = None
    file: Names = field(default_factory=list)
    include: Names = field(default_factory=list)
    exclude: Names = field(default_factory=list)
    revision: str | None = None
    force: bool = False

    def check(self) -> None:
        """Raises Usage for --force where nothing could be replaced."""
        if self.force and self.to is None:
            raise errors.Usage("--force replaces files in a directory: add --to DIRECTORY")

    @property
    def partial(self) -> bool:
        """Whether not everything is wanted."""
        return bool(self.file or self.include or self.exclude)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushChoices:
    """What is pushed, and how.

    Parameters
    ----------
    create
        Make the repository if there is none.
    private
        Make it one that only you see.
    message
        The message of the commit.
    revision
        The branch to push to; the repository's default otherwise.
    pull_request
        Propose the commit instead of making it.
    include
        Push what matches this pattern, in which * matches / too. May be repeated.
    exclude
        Leave out what matches this pattern. May be repeated.
    to
        The folder of the repository to put the files in.
    dry_run
        Only say what would be pushed.
    json
        Print JSON.
    """

    create: bool = False
    private: bool = False
    message: str | None = None
    revision: str | None = None
    pull_request: bool = False
    include: Names = field(default_factory=list)
    exclude: Names = field(default_factory=list)
    to: str = ""
    dry_run: bool = False
    json: bool = False


NO_PULL_CHOICES = PullChoices()
NO_PUSH_CHOICES = PushChoices()


def copy(kind: str, repository: str, to: Path, choices: PullChoices) -> None:
    """Pull files of a repository into a directory."""
    from metalchat_store import copy_repository

    announce(repository)
    with access.granted() as granted, progress.shown() as shown:
        copied = copy_repository(
            home(),
            repository,
            to.expanduser(),
            kind=kind,
            files=choices.file,
            include=choices.include,
            exclude=choices.exclude,
            revision=choices.revision,
            force=choices.force,
            authorize=granted.authorization,
            progress=shown,
        )
    there = f", {len(copied.skipped)} there already" if copied.skipped else ""
    terminal.line(f"{sizes.count_text(len(copied.files), 'file')}{there}: {terminal.safe_name(str(copied.path))}")
    terminal.line(f"Commit: {copied.commit}")


def announce(repository: str) -> None:
    """Say what is pulled from, unless it is no address: what is none may hold a login and must not be shown."""
    from metalchat_store.sources import parse_source

    parse_source(repository)
    terminal.line(f"Pulling from '{terminal.safe_name(repository)}'...")
    terminal.flush()


def push(kind: str, path: Path, repository: str, choices: PushChoices, sdk: str | None = None) -> None:
    """Push a file or a directory, after saying what that means."""
    from metalchat_store import plan_push
    from metalchat_store import push as send

    with access.granted(write=True) as granted, progress.shown() as shown:
        options: dict[str, Any] = {
            "kind": kind,
            "authorize": granted.authorization,
            "revision": choices.revision,
            "create": choices.create,
            "private": choices.private,
            "sdk": sdk,
            "pull_request": choices.pull_request,
            "to": choices.to,
            "include": choices.include,
            "exclude": choices.exclude,
        }
        if choices.dry_run:
            plan = plan_push(path.expanduser(), repository, progress=_Told(shown, None), **options)
            if choices.json:
                terminal.json_line(_record(plan))
            else:
                _show(plan)
            return
        told = _Told(shown, None if choices.json else _show)
        pushed = send(path.expanduser(), repository, message=choices.message, progress=told, **options)
    if choices.json:
        outcome = {"commit": pushed.commit, "url": pushed.url, "already": pushed.already, "created": pushed.created}
        rest = {"sent_bytes": pushed.sent_bytes, "pull_request": pushed.pull_request}
        terminal.json_line(_record(pushed.plan) | outcome | rest)
    elif pushed.already:
        terminal.line("Nothing to push: the repository has every file.")
    else:
        terminal.line(f"Pushed {sizes.size_text(pushed.sent_bytes)}.")
        terminal.line(f"Pull request: {pushed.pull_request}" if pushed.pull_request else f"Commit: {pushed.url}")


class _Told:
    """A push's reports: the plan to `show`, the rest to the bars."""

    def __init__(self, shown: "Progress", show: Any) -> None:
        self._shown = shown
        self._show = show

    def plan(self, plan: "PushPlan") -> None:
        if self._show is not None:
            self._show(plan)

    def file(self, path: str, done: int, total: int | None) -> None:
        self._shown.file(path, done, total)

    def message(self, text: str) -> None:
        self._shown.message(text)


def _show(plan: "PushPlan") -> None:
    if plan.creates:
        terminal.line(f"A new {plan.kind}: {terminal.safe_name(plan.repository)}")
    for file in plan.changes[:_SHOWN]:
        terminal.row("there" if file.how == "present" else "send ", f"{sizes.size_text(file.size):>9}", file.path)
    if len(plan.changes) > _SHOWN:
        terminal.line(f"and {sizes.count_text(len(plan.changes) - _SHOWN, 'more file')}")
    ignored = [file.path for file in plan.files if file.how == "ignored"]
    if ignored:
        terminal.note(f"The repository ignores: {terminal.safe_name(', '.join(ignored))}")
    if plan.passed_over:
        terminal.note(f"Never pushed: {terminal.safe_name(', '.join(plan.passed_over))}")
    terminal.line(
        f"{len(plan.changes)} of {sizes.count_text(len(plan.files), 'file')} to push: "
        f"{sizes.size_text(plan.send_bytes)} to send, {sizes.size_text(plan.present_bytes)} there already"
    )
    terminal.flush()


def _record(plan: "PushPlan") -> dict[str, Any]:
    return {
        "repository": plan.repository,
        "kind": plan.kind,
        "creates": plan.creates,
        "send_bytes": plan.send_bytes,
        "present_bytes": plan.present_bytes,
        "passed_over": list(plan.passed_over),
        "files": [
            {"path": file.path, "size": file.size, "sha256": file.sha256, "how": file.how} for file in plan.files
        ],
    }
