"""What a folder holds that can be pushed: named, read once, and looked through for secrets."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metalchat_store._files import disk_errors
from metalchat_store._push_secrets import check_keeper
from metalchat_store._push_source import Identity, announce
from metalchat_store.errors import InvalidPush, NotFound, Refused, UntrustedData
from metalchat_store.filters import Filter
from metalchat_store.names import check_name, check_names
from metalchat_store.pushes import LocalFile
from metalchat_store.remote import MAX_FILES

IGNORED = frozenset(
    {".git", ".hg", ".svn", ".DS_Store", "Thumbs.db", ".cache", "__pycache__", ".ipynb_checkpoints"}
    | {"metalchat.toml", "metalchat.lock"}
)
"""Names of files and folders that are never pushed: other programs' state, caches, and what metalchat writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be pushed, and the folder of the repository where it goes."""

    path: Path
    to: str
    include: Sequence[str]
    exclude: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The files, and the names of what was passed over because it is never pushed."""

    files: tuple[LocalFile, ...]
    passed_over: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    path: Path
    identity: Identity


def collect(wanted: Wanted, *, own: bytes, seen: Callable[[str, int, int | None], None]) -> Collected:
    """All files of a folder, or the one file, under the names that they get below `wanted.to`.

    A link is taken for the file that it leads to inside the folder; one that leads elsewhere, or to a folder, is
    `Refused`, and so are access tokens. The one file may be a link to any. Raises `NotFound` if there is nothing.
    """
    path, prefix = wanted.path, _prefix(wanted.to)
    patterns = Filter(include=wanted.include, exclude=wanted.exclude)
    ignored: list[str] = []
    with disk_errors(path, reading=True):
        try:
            root = path.resolve(strict=True)
        except FileNotFoundError:
            raise NotFound(f"'{path}' does not exist") from None
        if stat.S_ISDIR(root.stat().st_mode):
            found = dict(_walk(root, root, "", patterns, ignored))
        else:
            found = dict([_look(root, path.name, root)] if patterns.accepts(path.name) else [])
    if not found:
        options = "matches --include and --exclude" if patterns else "can be pushed"
        raise NotFound(f"nothing in '{path}' {options}")
    if len(found) > MAX_FILES:
        raise InvalidPush(f"'{path}' has more than {MAX_FILES:,} files: push it in parts, with --include")
    names = {name: prefix + name for name in sorted(found)}
    _check(names.values())
    for name in names:
        check_keeper(name)
    files = []
    for name, full in names.items():
        item = found[name]

        def told(done: int, full: str = full, size: int = item.identity.size) -> None:
            seen(full, done, size)

        files.append(announce(full, item.path, item.identity, own=own, seen=told))
    return Collected(files=tuple(files), passed_over=tuple(sorted(ignored)))


def _prefix(to: str) -> str:
    try:
        return "".join(f"{segment}/" for segment in check_name(to.rstrip("/"))) if to else ""
    except UntrustedData as error:
        raise InvalidPush(f"{to[:80]!a} is not a folder of a repository: write --to a/b") from error


def _check(names: Iterable[str]) -> None:
    try:
        check_names(names)
    except UntrustedData as error:
        reason = str(error).rpartition(": ")[2]
        raise Refused(f"a file has a name that is not pushed: {reason}. Leave it out with --exclude") from error


def _walk(root: Path, folder: Path, prefix: str, wanted: Filter, ignored: list[str]) -> Iterator[tuple[str, _Found]]:
    with os.scandir(folder) as items:
        for item in sorted(items, key=lambda item: item.name):
            name = prefix + item.name
            if item.name in IGNORED:
                ignored.append(name)
            elif item.is_dir(follow_symlinks=False):
                yield from _walk(root, folder / item.name, f"{name}/", wanted, ignored)
            elif wanted.accepts(name):
                yield _look(folder / item.name, name, root)


def _look(path: Path, name: str, root: Path) -> tuple[str, _Found]:
    facts = path.lstat()
    if stat.S_ISLNK(facts.st_mode):
        try:
            path = path.resolve(strict=True)
            facts = path.lstat()
        except (OSError, RuntimeError) as error:
            raise Refused(f"{name!a} is a link that leads nowhere: leave it out with --exclude {name!a}") from error
        if not path.is_relative_to(root) or not stat.S_ISREG(facts.st_mode):
            raise Refused(
                f"{name!a} is a link that leads out of the folder, or to a folder: "
                f"put the file there, or leave it out with --exclude {name!a}"
            )
    if not stat.S_ISREG(facts.st_mode):
        raise Refused(f"{name!a} is not a file or a folder: leave it out with --exclude {name!a}")
    return name, _Found(path, Identity.of(facts))
