"""Models that lie on this computer already: `file:///home/me/model`, a folder or a single `.gguf` file.

A folder of Meta's checkpoints is converted instead (see `metalchat_store.remotes._meta_folder`).
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from metalchat_store._cache_huggingface import is_shared
from metalchat_store.errors import DiskError, IntegrityError, InvalidRepository, Refused, RepositoryNotFound
from metalchat_store.names import check_name
from metalchat_store.remote import Body, Listing, Remote, RemoteContext, RemoteFile
from metalchat_store.remotes._meta_releases import has_checkpoint

_DEPTH = 3
_BLOCK = 1 << 20
_CACHED = ("models--", "datasets--", "spaces--")


class FileRemote:
    """Lists a folder and hands out its files; the store clones, links or copies them.

    The commit is a fingerprint of names, sizes, times and inodes: it changes when a file does. Hidden files, links
    to folders, and names that no model may have are left out.
    """

    def serving(self, repository: str) -> Remote:
        """Itself, or what converts the checkpoints that the folder has."""
        root = _local_path(repository)
        with suppress(OSError):  # what is not there, or no folder, is told by `list`
            if has_checkpoint(os.listdir(root)):  # noqa: PTH208 - names alone
                from metalchat_store.remotes._meta_folder import MetaFolder

                return MetaFolder()
        return self

    def list(self, repository: str, *, revision: str | None, context: RemoteContext) -> Listing:
        """Every file of the folder, or the single file. A folder has no revisions."""
        if revision is not None:
            raise RepositoryNotFound(f"a folder has no revisions: pull '{repository}' without one")
        root = _local_path(repository)
        try:
            facts = root.stat()
            found = list(_walk(root, "", _DEPTH)) if stat.S_ISDIR(facts.st_mode) else [(root.name, root)]
            seen = [_look(name, path) for name, path in sorted(found)]
        except FileNotFoundError as error:
            raise RepositoryNotFound(f"'{root}' does not exist") from error
        except OSError as error:
            place, reason = error.filename or root, (error.strerror or type(error).__name__).lower()
            raise DiskError(f"cannot read {place}: {reason}") from error
        files = tuple(file for file, _ in seen)
        marks = "\0".join(f"{file.path}\0{mark}" for file, mark in seen)
        commit = hashlib.sha1(marks.encode(), usedforsecurity=False).hexdigest()
        return Listing(repository=repository, commit=commit, files=files)

    def local(self, listing: Listing, file: RemoteFile) -> Path:
        """The file itself, links resolved; `Refused` for one that leads out of the folder.

        The folder of one commit in a cache of Hugging Face libraries may link to all that its repository has, and to
        what the repositories share.
        """
        named, place = _local_path(listing.repository), Path(file.location)
        real, root = place.resolve(), named.resolve()
        if root.parent.name == "snapshots" and root.parent.parent.name.startswith(_CACHED):
            root = root.parent.parent
            if is_shared(real, root):
                return real
        if place != named and not real.is_relative_to(root):
            raise Refused(f"'{file.path}' is a link that leads out of the folder: put the file itself there")
        return real

    @contextmanager
    def read(
        self, listing: Listing, file: RemoteFile, *, offset: int, context: RemoteContext, validator: str | None = None
    ) -> Iterator[Body]:
        """The bytes of the file from `offset`, or from the start if it changed since."""
        with self.local(listing, file).open("rb") as source:
            now = _mark(os.fstat(source.fileno()))
            start = offset if validator == now else 0
            source.seek(start)
            yield Body(offset=start, chunks=iter(lambda: source.read(_BLOCK), b""), validator=now)


def _local_path(repository: str) -> Path:
    parts = urlsplit(repository)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise InvalidRepository("the address of a folder is file:///path/to/it, without host, '?' or '#'")
    text = unquote(parts.path, errors="surrogateescape")
    if not text.startswith("/") or "\0" in text:
        raise InvalidRepository("the address of a folder is file:///path/to/it, an absolute path")
    return Path(text)


def _walk(folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, Path]]:
    with os.scandir(folder) as found:
        for item in found:
            if item.name.startswith(".") or not _usable(item.name):
                continue
            if item.is_dir(follow_symlinks=False):
                if depth > 1:
                    yield from _walk(Path(item.path), f"{prefix}{item.name}/", depth - 1)
            elif item.is_file():
                yield f"{prefix}{item.name}", Path(item.path)


def _usable(name: str) -> bool:
    try:
        check_name(name)
    except IntegrityError:
        return False
    return True


def _look(name: str, path: Path) -> tuple[RemoteFile, str]:
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise RepositoryNotFound(f"'{path}' is not a file or a folder")
    return RemoteFile(path=name, size=facts.st_size, location=str(path)), _mark(facts)


def _mark(facts: os.stat_result) -> str:
    return f"{facts.st_size}-{facts.st_mtime_ns}-{facts.st_ino}"
