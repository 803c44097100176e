"""Who needs a piece of content."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from metalchat_store._layout import Layout
from metalchat_store.blobs import Stamp
from metalchat_store.digest import Digest
from metalchat_store.entries import Entries
from metalchat_store.errors import AmbiguousModel, NotFound
from metalchat_store.roots import Root, Roots
from metalchat_store.snapshots import Snapshots

_PREFIX = re.compile(r"[0-9a-f]{4,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """One reason for which a content stays: `path` of the model, dataset or space `id` at `commit` is this content.

    `current`: the model is at that commit now; otherwise it is an earlier state, which `gc` forgets unless one of
    `roots` is a lock of it. `roots` are what keeps the model itself from being evicted.
    """

    digest: Digest
    size: int
    id: str
    repository: str
    commit: str
    path: str
    current: bool
    roots: tuple[Root, ...]
    kind: str = "model"


def keepers(home: Path, text: str) -> tuple[Keeper, ...]:
    """Every reason for which content is kept: empty for content that `gc` will delete.

    `text` is a SHA-256 or its unique beginning, or the path of a file: a blob, a file of a model, dataset or space, or
    any other name of the same file. Raises `NotFound` if the store has nothing of the kind, `AmbiguousModel` for the
    beginning of several.
    """
    layouts = Layout.all(home)
    path = Path(text)
    with suppress(OSError, ValueError):
        if os.path.lexists(path):
            return _of_file(layouts, path)
    start = text.lower().removeprefix("sha256:")
    if _PREFIX.fullmatch(start) is None:
        raise NotFound(f"there is no file '{text}', and it is not the beginning of a sha256")
    found = _find(layouts, lambda digest, _stamp: digest.hex.startswith(start))
    digests = {keeper.digest for keeper in found}.union(*(_blobs(layout, start) for layout in layouts.values()))
    if not digests:
        raise NotFound(f"the store has no content with the sha256 {start}")
    if len(digests) > 1:
        listed = sorted(digest.hex[:12] for digest in digests)
        raise AmbiguousModel(f"'{start}' is the beginning of {len(digests)} contents: {', '.join(listed[:8])}")
    return found


def _of_file(layouts: Mapping[str, Layout], path: Path) -> tuple[Keeper, ...]:
    facts = path.lstat()
    inner = path.absolute()
    for layout in layouts.values():
        if inner.is_relative_to(layout.blobs):
            name = "".join(inner.relative_to(layout.blobs).parts)
            return _find(layouts, lambda digest, _stamp, name=name: digest.hex == name)
    stamp = Stamp.of(facts)
    inside = any(inner.is_relative_to(layout.models) for layout in layouts.values())
    found = _find(layouts, lambda _digest, known: known == stamp)
    if not found:
        raise NotFound(f"'{path}' is {'no file that a pull brought' if inside else 'not in the store'}")
    return found


def _find(layouts: Mapping[str, Layout], matches: Callable[[Digest, Stamp | None], bool]) -> tuple[Keeper, ...]:
    return tuple(keeper for kind, layout in layouts.items() for keeper in _of_kind(kind, layout, matches))


def _of_kind(kind: str, layout: Layout, matches: Callable[[Digest, Stamp | None], bool]) -> Iterator[Keeper]:
    roots: tuple[Root, ...] | None = None
    entries = Entries(layout)
    for snapshot in Snapshots(layout).all():
        for file in snapshot.files:
            if not matches(file.digest, file.stamp):
                continue
            roots = Roots(layout).all() if roots is None else roots
            commit = None
            with suppress(FileNotFoundError):
                commit = entries.read(snapshot.id).commit
            yield Keeper(
                digest=file.digest,
                size=file.size,
                id=snapshot.id,
                repository=snapshot.repository,
                commit=snapshot.commit,
                path=file.path,
                current=commit == snapshot.commit,
                roots=tuple(
                    root for root in roots if root.id == snapshot.id and root.commit in (None, snapshot.commit)
                ),
                kind=kind,
            )


def _blobs(layout: Layout, start: str) -> set[Digest]:
    """Content on the disk whose digest begins so."""
    shard = layout.blobs / start[:2]
    try:
        names = os.listdir(shard)  # noqa: PTH208 - names alone
    except FileNotFoundError:
        return set()
    return {Digest(start[:2] + name) for name in names if (start[:2] + name).startswith(start) and len(name) == 62}
