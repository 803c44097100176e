"""What a person should know about an update of a model."""

from metalchat_store._template import snapshot_digests
from metalchat_store.blobs import Blobs
from metalchat_store.selection import short_name
from metalchat_store.snapshots import Snapshot


def update_notices(blobs: Blobs, before: Snapshot | None, after: Snapshot) -> tuple[str, ...]:
    """One line for a new commit, one for a changed chat template; nothing for a first pull."""
    if before is None or before.commit == after.commit:
        return ()
    name = short_name(after.repository)
    lines = [f"'{name}' moved from {before.commit[:7]} to {after.commit[:7]}"]
    old, new = snapshot_digests(blobs, before)[0], snapshot_digests(blobs, after)[0]
    if old != new:
        lines.append(template_notice(name, old, new))
    return tuple(lines)


def template_notice(name: str, old: str | None, new: str | None) -> str:
    """The line for a changed chat template, by the SHA-256 of both."""
    return f"the chat template of '{name}' changed (sha256 {_short(old)} → {_short(new)})"


def _short(digest: str | None) -> str:
    return "none" if digest is None else f"{digest[:8]}…"
