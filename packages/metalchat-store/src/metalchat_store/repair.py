"""Damage undone: what is not the recorded content is set aside and brought again, and nothing else."""

import os
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metalchat_store import _partials
from metalchat_store._fetching import Fetching
from metalchat_store._files import make_folder, private_name
from metalchat_store._gather import Gatherer
from metalchat_store._heal import heal_files
from metalchat_store._known import Known
from metalchat_store._layout import Layout
from metalchat_store._release import release
from metalchat_store.blobs import Blobs, Stamp
from metalchat_store.detect import config_architecture, gguf_architecture, partitioning
from metalchat_store.digest import Digest
from metalchat_store.errors import Corrupted, DiskError, IntegrityError, UntrustedData
from metalchat_store.remote import RemoteFile, Unpacks
from metalchat_store.selection import select
from metalchat_store.snapshots import Snapshot, SnapshotFile
from metalchat_store.sources import parse_source
from metalchat_store.transfer import key_of
from metalchat_store.types import Entry, Verification

if TYPE_CHECKING:
    from metalchat_manifest import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """The result of a repair.

    `verification` is that of the files afterwards. `files` names what was replaced; `fetched_bytes` came over the
    remote; `quarantined` bytes of damaged content wait in `quarantine` for the next `gc`.
    """

    entry: Entry
    verification: Verification
    files: tuple[str, ...] = ()
    fetched_bytes: int = 0
    quarantined: int = 0


def set_aside(layout: Layout, snapshot: Snapshot, folder: Path) -> tuple[tuple[SnapshotFile, ...], int]:
    """Move damaged blobs of a model into quarantine, and name whole ones again.

    Returns one file of the snapshot for every content that the store does not have any more, and the bytes moved.
    A blob is hashed unless it is a file that `snapshot` has a stamp for.
    """
    blobs = Blobs(layout.blobs)
    moved = 0
    contents = {file.digest: file for file in snapshot.files}
    stamps = {file.stamp for file in snapshot.files}
    for digest in contents:
        path = blobs.path(digest)
        if os.path.lexists(path) and not _is_whole(blobs, digest, stamps):
            make_folder(layout.quarantine)
            size = path.lstat().st_size
            with suppress(FileNotFoundError):  # another repair was faster
                os.rename(path, layout.quarantine / private_name(digest.hex, "bad"))  # noqa: PTH104 - counted in tests
                moved += size
    heal_files(layout, folder, snapshot.files)
    return tuple(file for digest, file in contents.items() if not os.path.lexists(blobs.path(digest))), moved


def bring(fetching: Fetching, snapshot: Snapshot, missing: Iterable[SnapshotFile]) -> int:
    """Fetch files of a snapshot into the blobs; returns how many bytes came.

    Raises what a pull raises, and `IntegrityError` if the source has other content now.
    """
    listing = fetching.listing()
    wanted = {file.path: file.digest for file in missing}
    with Gatherer(
        layout=fetching.layout,
        remote=fetching.remote,
        listing=listing,
        context=fetching.context,
        waiting=fetching.waiting,
        known=Known(()),
        present={},
        seen=fetching.seen,
    ) as gatherer:
        if isinstance(fetching.remote, Unpacks):
            gatherer.claim()
            members = gatherer.members(fetching.remote)
            _check_listed(snapshot, wanted, dict.fromkeys(members))
            gatherer.unpack(members[path] for path in wanted)
        else:
            listed = {file.path: file for file in listing.files}
            _check_listed(snapshot, wanted, {path: file.sha256 for path, file in listed.items()})
            gatherer.gather(listed[path] for path in wanted)
        others = [path for path, digest in wanted.items() if gatherer.stored[path].digest != digest]
        if others:
            release(fetching.layout, (gatherer.stored[path].digest for path in others))
            raise _changed(others[0], snapshot)
    _partials.tidy(fetching.layout, frozenset(key_of(listing, file) for file in listing.files))
    return gatherer.fetched


def spec_of(layout: Layout, snapshot: Snapshot) -> "ModelSpec":
    """The specification of a model, found again in its own content; `Corrupted` if its id does not come of it."""
    from metalchat_manifest import ManifestError, ModelSpec

    blobs = Blobs(layout.blobs)
    paths = {file.path: blobs.path(file.digest) for file in snapshot.files}
    try:
        chosen = select(
            snapshot.repository,
            (RemoteFile(path=file.path, size=file.size) for file in snapshot.files),
            parse_source(snapshot.repository).gguf,
        )
        if chosen.variant == "gguf":
            architecture = gguf_architecture(paths[chosen.weights[0]], chosen.weights[0])
        else:
            architecture = config_architecture(paths["config.json"]) if "config.json" in paths else "llama3"
        spec = ModelSpec(
            repository=snapshot.repository,
            architecture=architecture,
            partitioning=partitioning(chosen),
            variant=chosen.variant,
        )
    except (UntrustedData, ManifestError) as error:
        raise _unknown(snapshot.id) from error
    if spec.id != snapshot.id:
        raise _unknown(snapshot.id)
    return spec


def _unknown(id: str) -> Corrupted:
    return Corrupted(f"model '{id}' does not say any more which model it is. Remove it and pull it again")


def _is_whole(blobs: Blobs, digest: Digest, known: Set[Stamp | None]) -> bool:
    try:
        return blobs.stamp(digest) in known or blobs.hash(digest) == digest
    except (OSError, DiskError):
        return False


def _check_listed(snapshot: Snapshot, wanted: Mapping[str, Digest], listed: Mapping[str, str | None]) -> None:
    """`IntegrityError` before the first byte if the listing shows that the content is not there any more."""
    for path, digest in wanted.items():
        if path not in listed or listed[path] not in (None, digest.hex):
            raise _changed(path, snapshot)


def _changed(path: str, snapshot: Snapshot) -> IntegrityError:
    return IntegrityError(
        f"'{path}' is not at '{snapshot.repository}' any more as it was pulled, so it cannot be repaired. Pull it again"
    )
