"""What a person should know about an update of a model."""

import hashlib
from pathlib import Path

from metalchat_store._files import read_file
from metalchat_store.blobs import Blobs
from metalchat_store.detect import read_json
from metalchat_store.errors import NotAModel
from metalchat_store.selection import short_name
from metalchat_store.snapshots import Snapshot

_LIMIT = 16 << 20


def update_notices(blobs: Blobs, before: Snapshot | None, after: Snapshot) -> tuple[str, ...]:
    """One line for a new commit, one for a changed chat template; nothing for a first pull."""
    if before is None or before.commit == after.commit:
        return ()
    name = short_name(after.repository)
    lines = [f"'{name}' moved from {before.commit[:7]} to {after.commit[:7]}"]
    old, new = _template(blobs, before), _template(blobs, after)
    if old != new:
        lines.append(f"the chat template of '{name}' changed (sha256 {_short(old)} → {_short(new)})")
    return tuple(lines)


def _template(blobs: Blobs, snapshot: Snapshot) -> str | None:
    """The SHA-256 of the template's text; None if there is none."""
    paths = {file.path: blobs.path(file.digest) for file in snapshot.files}
    try:
        if "chat_template.jinja" in paths:
            return hashlib.sha256(read_file(paths["chat_template.jinja"], _LIMIT)).hexdigest()
        template = _inline(paths, "chat_template.json") or _inline(paths, "tokenizer_config.json")
    except (OSError, NotAModel):
        return None
    return None if template is None else hashlib.sha256(repr(template).encode()).hexdigest()


def _inline(paths: dict[str, Path], name: str) -> object:
    return read_json(paths[name], name).get("chat_template") if name in paths else None


def _short(digest: str | None) -> str:
    return "none" if digest is None else f"{digest[:8]}…"
