"""Where the bytes of a store are."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from metalchat_store._layout import Layout
from metalchat_store.collect import Collected


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Bytes on the disk, each counted once, at the first of these places that has it.

    `blobs`: content. `entries`: what model folders have beside it. `partials`: what is on its way. `quarantine`:
    damaged content. `cache`: what engines keep between runs. `datasets` and `spaces`: what these have that no model
    has. `other`: everything else below the home.
    `models` is what all models together would take without sharing; `shared` of it is saved, since models share
    content with each other. `elsewhere` bytes of `blobs` have another name outside of the store and stay on the disk
    if they are deleted here. `reclaimable` is what `gc` would free now.
    """

    blobs: int
    blob_count: int
    entries: int
    entry_count: int
    partials: int
    quarantine: int
    cache: int
    other: int
    models: int
    shared: int
    elsewhere: int
    reclaimable: int
    datasets: int = 0
    dataset_count: int = 0
    spaces: int = 0
    space_count: int = 0

    @property
    def total(self) -> int:
        """All bytes below the home."""
        places = (self.blobs, self.entries, self.partials, self.quarantine, self.cache, self.datasets, self.spaces)
        return sum(places) + self.other


def measure(home: Path, reclaimable: Collected) -> Usage:
    """Walk over everything below the home once; no link is followed."""
    layout = Layout(home)
    datasets, spaces = (Layout.of(home, kind).models for kind in ("dataset", "space"))
    names: dict[tuple[int, int], int] = {}
    sizes: dict[str, int] = {}
    linked: dict[tuple[int, int], tuple[int, int]] = {}  # blobs with several names: how many, and the size
    count = models = distinct = 0
    ours = (layout.blobs.parent, layout.models, layout.partial, layout.quarantine, layout.cache)
    places = (*ours, datasets, spaces, home)
    seen_in_models: set[tuple[int, int]] = set()
    for place in places:
        skipped = {str(inner) for inner in places if inner != place} if place == home else set()
        total = 0
        for facts in _files(place, skipped):
            key = (facts.st_dev, facts.st_ino)
            if key not in names:
                total += facts.st_size
            names[key] = names.get(key, 0) + 1
            if place == layout.blobs.parent:
                count += 1
                if facts.st_nlink > 1:
                    linked[key] = (facts.st_nlink, facts.st_size)
            elif place == layout.models:
                models += facts.st_size
                if key not in seen_in_models:
                    seen_in_models.add(key)
                    distinct += facts.st_size
        sizes[str(place)] = total
    return Usage(
        blobs=sizes[str(layout.blobs.parent)],
        blob_count=count,
        entries=sizes[str(layout.models)],
        entry_count=_count(layout.models),
        partials=sizes[str(layout.partial)],
        quarantine=sizes[str(layout.quarantine)],
        cache=sizes[str(layout.cache)],
        datasets=sizes[str(datasets)],
        dataset_count=_count(datasets),
        spaces=sizes[str(spaces)],
        space_count=_count(spaces),
        other=sizes[str(home)],
        models=models,
        shared=models - distinct,
        elsewhere=sum(size for key, (nlink, size) in linked.items() if nlink > names[key]),
        reclaimable=reclaimable.bytes,
    )


def _files(folder: Path | str, skipped: set[str]) -> Iterator[os.stat_result]:
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
        for item in found:
            with suppress(FileNotFoundError):
                if not item.is_dir(follow_symlinks=False):
                    facts = item.stat(follow_symlinks=False)
                    if stat.S_ISREG(facts.st_mode):
                        yield facts
                elif item.path not in skipped:
                    yield from _files(item.path, skipped)


def _count(folder: Path) -> int:
    """The entries in a folder, the store of datasets or spaces, whose name begins with a dot, left out."""
    with suppress(FileNotFoundError), os.scandir(folder) as found:
        return sum(item.is_dir(follow_symlinks=False) and not item.name.startswith(".") for item in found)
    return 0
