"""What an update of a model would change, found out without fetching its weights."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from metalchat_store import _peek_gguf
from metalchat_store._download import remote_errors
from metalchat_store._fetching import Fetching
from metalchat_store._files import read_file
from metalchat_store._known import Known
from metalchat_store._notices import template_notice
from metalchat_store._peek import Peek
from metalchat_store._template import TEMPLATE_FILES, snapshot_digests, template_in
from metalchat_store.blobs import Blobs, Stamp, hash_path
from metalchat_store.errors import IntegrityError, StoreError
from metalchat_store.remote import Adopts, Listing, RemoteFile, Unpacks
from metalchat_store.selection import INDEX, WEIGHTS, limit_of, select, short_name
from metalchat_store.snapshots import Snapshot, SnapshotFile
from metalchat_store.types import Entry

Kind = Literal["weights", "template", "tokenizer", "licence", "readme", "other"]

_BUDGET = 64 << 20  # bytes of a GGUF file that may come until its template has
_LICENCE = re.compile(r"(?:licen[cs]e|copying|notice|use_policy)", re.IGNORECASE)
_README = re.compile(r"readme", re.IGNORECASE)
_TOKENIZER = frozenset(
    {
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One file that is not the same after an update; a size is None where the file is not there, or not known."""

    path: str
    kind: Kind
    what: Literal["added", "removed", "changed"]
    before: int | None
    after: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatePlan:
    """What an update of `entry` from commit `before` to `after` would change.

    `template` is the line about a changed chat template, None where it stays the same; one inside an archive is not
    looked at, and of an archive `changes` names only itself. `held` says why the update needs
    consent, None if it needs none. `download_bytes` is None where a size is unknown.
    """

    entry: Entry
    before: str | None
    after: str
    changes: tuple[Change, ...]
    download_bytes: int | None
    template: str | None = None
    held: str | None = None

    @property
    def up_to_date(self) -> bool:
        """Whether there is nothing to do."""
        return self.before == self.after


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """What the source of a model has: `commit`, or the `error` that came instead of an answer."""

    entry: Entry
    commit: str | None = None
    error: StoreError | None = None

    @property
    def outdated(self) -> bool:
        """Whether the source has another commit than the store."""
        return self.commit is not None and self.commit != self.entry.commit


def kind_of(path: str) -> Kind:
    """What a file of a model is for."""
    if path.endswith(WEIGHTS) or path == INDEX:
        return "weights"
    if path.startswith("chat_template."):
        return "template"
    if path in _TOKENIZER:
        return "tokenizer"
    if _LICENCE.match(path):
        return "licence"
    return "readme" if _README.match(path) else "other"


def plan_update(fetching: Fetching, entry: Entry, snapshot: Snapshot | None, held: str | None) -> UpdatePlan:
    """Ask the remote and compare. Only a changed template, a GGUF file's header, and files of this computer are read.

    Nothing is written.
    """
    listing = fetching.listing()
    whole = isinstance(fetching.remote, Unpacks)
    if whole:
        wanted = listing.files
    else:
        names = set(select(fetching.source.repository, listing.files, fetching.source.gguf).names)
        wanted = tuple(file for file in listing.files if file.path in names)
    changes: tuple[Change, ...] = ()
    template = None
    if listing.commit != entry.commit:
        if snapshot is not None and isinstance(fetching.remote, Adopts):
            wanted = tuple(_identified(fetching.remote, listing, wanted, _by_path(snapshot)))
        changes = tuple(_changes(wanted, {} if whole or snapshot is None else _by_path(snapshot)))
        if snapshot is not None and not whole:
            template = _template(fetching, listing, wanted, snapshot)
    return UpdatePlan(
        entry=entry,
        before=entry.commit,
        after=listing.commit,
        changes=changes,
        download_bytes=0 if listing.commit == entry.commit else _download(fetching, listing, wanted),
        template=template,
        held=held,
    )


def _by_path(snapshot: Snapshot) -> dict[str, SnapshotFile]:
    return {file.path: file for file in snapshot.files}


def _identified(
    remote: Adopts, listing: Listing, wanted: Iterable[RemoteFile], have: Mapping[str, SnapshotFile]
) -> Iterator[RemoteFile]:
    """The files, with a digest for those that may be the recorded ones; what did not move is not hashed."""
    for file in wanted:
        old = have.get(file.path)
        if old is None or old.size != file.size or file.sha256 is not None or file.git_sha1 is not None:
            yield file
            continue
        with remote_errors(listing.repository):
            path = remote.local(listing, file)
            digest = old.digest if Stamp.of(path.lstat()) == old.stamp else hash_path(path)
        yield replace(file, sha256=digest.hex)


def _changes(wanted: Iterable[RemoteFile], have: Mapping[str, SnapshotFile]) -> Iterable[Change]:
    names = set()
    for file in sorted(wanted, key=lambda file: file.path):
        names.add(file.path)
        old = have.get(file.path)
        if old is None:
            yield Change(path=file.path, kind=kind_of(file.path), what="added", before=None, after=file.size)
        elif not _same(file, old):
            yield Change(path=file.path, kind=kind_of(file.path), what="changed", before=old.size, after=file.size)
    for path, old in sorted(have.items()):
        if path not in names:
            yield Change(path=path, kind=kind_of(path), what="removed", before=old.size, after=None)


def _same(file: RemoteFile, old: SnapshotFile) -> bool:
    """Whether a listed file certainly is the recorded one."""
    if file.sha256 is not None:
        return file.sha256 == old.digest.hex
    return file.git_sha1 is not None and file.git_sha1 == old.git_sha1


def _download(fetching: Fetching, listing: Listing, wanted: Iterable[RemoteFile]) -> int | None:
    if isinstance(fetching.remote, Adopts):
        return 0
    known, blobs = Known.of(fetching.layout, fetching.remote, listing), Blobs.of(fetching.layout)
    total = 0
    for file in wanted:
        digest = known.digest(file)
        if digest is None or not blobs.seems_there(digest, file.size):
            if file.size is None:
                return None
            total += file.size
    return total


def _template(fetching: Fetching, listing: Listing, wanted: Iterable[RemoteFile], snapshot: Snapshot) -> str | None:
    """The line about a changed chat template; None if it is the same."""
    listed = {file.path: file for file in wanted if file.path in TEMPLATE_FILES or file.path.endswith(".gguf")}
    have = {path: file for path, file in _by_path(snapshot).items() if path in TEMPLATE_FILES or path.endswith(".gguf")}
    if listed.keys() == have.keys() and all(_same(file, have[path]) for path, file in listed.items()):
        return None
    old, new = snapshot_digests(Blobs(fetching.layout.blobs), snapshot)[0], None
    for name in TEMPLATE_FILES:
        if name in listed and new is None:
            new = template_in(name, _read(fetching, listing, listed[name]))
    weights = next((file for path, file in listed.items() if path.endswith(".gguf")), None)
    if new is None and weights is not None:
        peek = Peek(fetching, listing, budget=_BUDGET)
        new = _peek_gguf.look(peek, weights, lambda header: header.template is not None).template
    return None if old == new else template_notice(short_name(snapshot.repository), old, new)


def _read(fetching: Fetching, listing: Listing, file: RemoteFile) -> bytes:
    """A small file, verified, in memory."""
    limit = limit_of(file.path) or 0
    with remote_errors(f"'{file.path}'"):
        if isinstance(fetching.remote, Adopts):
            data = read_file(fetching.remote.local(listing, file), limit)
        else:
            data = b""
            with fetching.remote.read(listing, file, offset=0, context=fetching.context) as body:
                for chunk in body:
                    data += chunk
                    if len(data) > limit:
                        raise IntegrityError(
                            f"'{file.path}' is longer than the {limit:,} bytes that are allowed for it"
                        )
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    if file.sha256 not in (None, hashlib.sha256(data).hexdigest()) or file.git_sha1 not in (None, git):
        raise IntegrityError(f"'{file.path}' arrived damaged. Try again")
    return data
