"""Files of a repository in a folder of the user's own: fetched as every pull fetches, and shown only when whole."""

import errno
import hashlib
import os
import shutil
import stat
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from metalchat_store._adopt import adopt
from metalchat_store._bring import brought
from metalchat_store._fetching import Fetching, Means, fetching
from metalchat_store._files import (
    disk_errors,
    hash_file,
    is_running,
    make_folder,
    no_space,
    open_regular,
    owner,
    private_name,
    remove,
    sync_file,
    sync_folder,
)
from metalchat_store._gather import Gatherer
from metalchat_store._layout import Layout
from metalchat_store._release import release
from metalchat_store.blobs import Blobs
from metalchat_store.errors import InvalidRepository, Refused
from metalchat_store.filters import Filter
from metalchat_store.names import local_path
from metalchat_store.remote import Adopts, Authorizer, Listing, RemoteFile, Unpacks
from metalchat_store.selection import select, short_name
from metalchat_store.snapshots import Snapshots
from metalchat_store.sources import Remotes
from metalchat_store.types import Progress

_MARK = ".metalchat"  # no repository may have such a name, and no push takes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """The result of a copy. `files` are in the folder now, `skipped` were there before, the same."""

    path: Path
    commit: str
    files: tuple[str, ...]
    skipped: tuple[str, ...]
    fetched_bytes: int


def copy_repository(
    home: Path,
    repository: str,
    to: Path,
    *,
    kind: str = "model",
    files: Sequence[str] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    revision: str | None = None,
    force: bool = False,
    authorize: Authorizer | None = None,
    progress: Progress | None = None,
    environ: Mapping[str, str] | None = None,
    remotes: Remotes | None = None,
    sleep: Callable[[float], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    client: object | None = None,
) -> Copied:
    """Fetch files of a repository into the folder `to`: ordinary files, which the store does not keep.

    `files` are names, `include` and `exclude` patterns. Without them it is all files of a dataset or a space, and of a
    model what a pull would fetch. What `home` has already is not fetched, and a copy that was interrupted goes on where
    it stopped. A file that is there and differs is `Refused`, before anything is fetched, unless `force` replaces it.

    Raises as `Store.pull` does.
    """
    means = Means(
        environ=os.environ if environ is None else environ,
        remotes={} if remotes is None else remotes,
        sleep=sleep,
        clock=clock,
        client=client,
    )
    layout = Layout.of(home, kind)
    wanted = Filter(files=files, include=include, exclude=exclude)
    with (
        fetching(
            layout, means, repository, revision=revision, authorize=authorize, progress=progress, kind=kind
        ) as opened,
        disk_errors(to),
    ):
        return _Copy(layout, opened, to.absolute(), wanted, force=force).run()


class _Copy:
    """One copy from one remote."""

    def __init__(self, layout: Layout, fetching: Fetching, to: Path, wanted: Filter, *, force: bool) -> None:
        self._layout = layout
        self._fetching = fetching
        self._to = to
        self._wanted = wanted
        self._force = force
        self._blobs = Blobs(layout.blobs)

    def run(self) -> Copied:
        """List, compare, fetch, show."""
        if isinstance(self._fetching.remote, Unpacks):
            raise InvalidRepository(
                "files of an archive, or made of others on arrival, cannot be copied: pull without --to"
            )
        listing = self._fetching.listing()
        chosen = self._choose(listing)
        missing = [file for file in chosen if not self._has(file)]
        self._layout.prepare()
        self._make_sure_of_space(missing)
        with brought(self._layout, self._fetching, listing, chosen, missing) as gatherer:
            try:
                self._show_all(missing, gatherer)
            except FileNotFoundError:  # another process removed what this one counted on
                rest = [file for file in missing if not self._has(file)]
                gatherer.forget_lost()
                gatherer.gather(rest)
                self._show_all(rest, gatherer)
            release(self._layout, (stored.digest for stored in gatherer.stored.values()))
        done = {file.path for file in missing}
        return Copied(
            path=self._to,
            commit=listing.commit,
            files=tuple(file.path for file in missing),
            skipped=tuple(file.path for file in chosen if file.path not in done),
            fetched_bytes=gatherer.fetched,
        )

    def _choose(self, listing: Listing) -> tuple[RemoteFile, ...]:
        source = self._fetching.source
        if self._wanted or self._fetching.context.kind != "model":
            names = frozenset(
                self._wanted.choose((file.path for file in listing.files), where=short_name(source.repository))
            )
        else:
            names = frozenset(select(source.repository, listing.files, source.gguf).names)
        return tuple(file for file in listing.files if file.path in names)

    def _has(self, file: RemoteFile) -> bool:
        """Whether the folder has the file already. `Refused` for another one of that name."""
        target = local_path(self._to, file.path)
        for folder in target.relative_to(self._to).parents[-2::-1]:
            with suppress(FileNotFoundError):
                mode = (self._to / folder).lstat().st_mode
                if not stat.S_ISDIR(mode):
                    raise Refused(f"'{self._to / folder}' is not a folder, which {file.path!a} needs: move it away")
        try:
            facts = target.lstat()
        except FileNotFoundError:
            return False
        if stat.S_ISREG(facts.st_mode) and facts.st_size == file.size and _is(target, file):
            return True
        if stat.S_ISDIR(facts.st_mode):
            raise Refused(f"'{target}' is a folder, where a file of that name is to be put: move it away")
        if not self._force:
            raise Refused(f"'{target}' exists and differs from what would replace it: use --force, or another --to")
        return False

    def _make_sure_of_space(self, missing: Sequence[RemoteFile]) -> None:
        """On the disk of the folder, if it is another one: a pull looks after that of the store."""
        place = next(path for path in (self._to, *self._to.parents) if path.exists())
        if _disk(place) == _disk(self._layout.home):
            return
        needed = sum(file.size or 0 for file in missing)
        for file in missing:
            with suppress(FileNotFoundError):
                needed -= local_path(self._to, file.path).lstat().st_size
        if needed > shutil.disk_usage(place).free:
            raise no_space(place, needed)

    def _show_all(self, files: Sequence[RemoteFile], gatherer: Gatherer) -> None:
        """Put the files into the folder. Content that the store has no other use for is moved, else it is copied."""
        self._to.mkdir(parents=True, exist_ok=True)
        mask = _umask()
        snapshots = Snapshots(self._layout).all()
        kept = {file.digest for snapshot in snapshots for file in snapshot.files}
        left = Counter(gatherer.stored[file.path].digest for file in files)
        for file in files:
            digest = gatherer.stored[file.path].digest
            left[digest] -= 1
            last = not left[digest] and digest not in kept and not isinstance(self._fetching.remote, Adopts)
            _show(self._blobs.path(digest), self._to, local_path(self._to, file.path), mode=0o666 & ~mask, move=last)


def _disk(path: Path) -> int:
    return path.stat().st_dev


def _umask() -> int:
    mask = os.umask(0o077)  # there is no other way to ask, and what another thread makes meanwhile is private
    os.umask(mask)
    return mask


def _show(blob: Path, root: Path, target: Path, *, mode: int, move: bool) -> None:
    """Give content its name in one step, as an ordinary file of the user's."""
    for folder in target.relative_to(root).parents[-2::-1]:
        make_folder(root / folder, mode=0o777)
    _sweep(target.parent)
    temporary = target.parent / private_name(_MARK, "tmp")
    try:
        if not (move and _moved(blob, temporary)):
            adopt(blob, temporary, links=False)
        descriptor = open_regular(temporary)
        try:
            os.fchmod(descriptor, mode)
            sync_file(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)  # noqa: PTH105 - the fault tests count calls of os
    finally:
        remove(temporary)
    sync_folder(target.parent)


def _moved(blob: Path, temporary: Path) -> bool:
    if blob.lstat().st_nlink > 1:  # a dataset or a model has it too, and what is shown will be writable
        return False
    try:
        os.rename(blob, temporary)  # noqa: PTH104 - the fault tests count calls of os
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def _sweep(folder: Path) -> None:
    """Delete what copies that were killed have left in a folder."""
    for name in os.listdir(folder):  # noqa: PTH208 - names alone
        if name.startswith(f"{_MARK}~"):
            pid = owner(name)
            if pid is not None and not is_running(pid):
                remove(folder / name)


def _is(path: Path, file: RemoteFile) -> bool:
    """Whether a file has the listed content; False where the listing does not tell."""
    sha256 = hashlib.sha256()
    git = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    descriptor = open_regular(path)
    try:
        hash_file(descriptor, os.fstat(descriptor).st_size, (sha256, git), lambda _done: None)
    finally:
        os.close(descriptor)
    if file.sha256 is not None:
        return sha256.hexdigest() == file.sha256
    return file.git_sha1 is not None and git.hexdigest() == file.git_sha1
