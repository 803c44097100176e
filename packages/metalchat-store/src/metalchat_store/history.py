"""The states that a model had before: going back to one takes no network and no copy."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from metalchat_store._heal import heal
from metalchat_store._layout import Layout
from metalchat_store._publish import publish
from metalchat_store.blobs import Blobs, Stamp
from metalchat_store.errors import Corrupted, NotFound
from metalchat_store.selection import short_name
from metalchat_store.snapshots import Snapshot, Snapshots

if TYPE_CHECKING:
    from metalchat_manifest import ModelSpec


def earlier(snapshots: Snapshots, current: Snapshot, commit: str | None) -> Snapshot:
    """The snapshot to go back to: the one before, or that of a commit or the unique beginning of one.

    Raises `NotFound` if the store does not have it.
    """
    name = short_name(current.repository)
    others = {snapshot.commit: snapshot for snapshot in snapshots.of(current.id) if snapshot.commit != current.commit}
    if commit is None:
        wanted = [others[current.previous]] if current.previous in others else []
        missing = f"'{name}' has no earlier state in the store"
    else:
        wanted = [snapshot for known, snapshot in sorted(others.items()) if known.startswith(commit)]
        missing = f"the store has no other state {commit[:40]} of '{name}'"
    if len(wanted) != 1:
        have = ", ".join(sorted(known[:12] for known in others)) or "none"
        raise NotFound(f"{missing} (it has {have}). 'metalchat model pull URL --revision COMMIT' fetches one")
    return wanted[0]


def switch(layout: Layout, spec: "ModelSpec", target: Snapshot, current: Snapshot | None) -> Snapshot:
    """Make an entry what `target` says; the state that it leaves stays in the store. The entry's lock is held.

    Raises `Corrupted`, and changes nothing, unless every file is here and whole.
    """
    if current is not None:
        heal(layout, layout.models / target.id, current)
    stamped = target.with_stamps(whole(layout, target))
    Snapshots(layout).write(stamped)
    publish(layout, spec, stamped, before=current)
    return stamped


def whole(layout: Layout, snapshot: Snapshot) -> Mapping[str, Stamp | None]:
    """The stamps of the blobs of a snapshot; `Corrupted` if one is missing or damaged. Unmoved ones are not hashed."""
    blobs = Blobs(layout.blobs)
    stamps: dict[str, Stamp | None] = {}
    for file in snapshot.files:
        stamp = blobs.stamp(file.digest)
        if stamp is None or stamp.size != file.size or (stamp != file.stamp and blobs.hash(file.digest) != file.digest):
            raise Corrupted(
                f"'{file.path}' of {snapshot.commit[:12]} is {'missing' if stamp is None else 'damaged'}. "
                f"'metalchat model pull {snapshot.repository} --revision {snapshot.commit}' brings it back",
                files=(file.path,),
            )
        stamps[file.path] = stamp
    return stamps
