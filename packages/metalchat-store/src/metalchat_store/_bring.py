"""Listed files into the blobs of a layout: what copies, datasets and spaces have in common."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from metalchat_store import _partials
from metalchat_store._fetching import Fetching
from metalchat_store._files import no_space
from metalchat_store._gather import Gatherer
from metalchat_store._known import Known
from metalchat_store._layout import Layout
from metalchat_store._release import release
from metalchat_store.blobs import Blobs
from metalchat_store.errors import UntrustedData
from metalchat_store.remote import Adopts, Listing, RemoteFile
from metalchat_store.transfer import Stored, key_of
from metalchat_store.types import Plan


@contextmanager
def brought(
    layout: Layout, fetching: Fetching, listing: Listing, chosen: Sequence[RemoteFile], missing: Sequence[RemoteFile]
) -> Iterator[Gatherer]:
    """The `missing` files among the blobs, after the plan was shown; `chosen` are all that the plan is about.

    Raises `DiskError` before the first byte if they do not fit. What nothing refers to at the end is deleted again
    when the content was not what was promised; afterwards leftovers of other processes are.
    """
    known = Known.of(layout, fetching.remote, listing)
    present = dict(_present(missing, known, Blobs.of(layout)))
    plan = _plan(fetching, listing, chosen, [file for file in missing if file.path not in present])
    _make_sure_of_space(layout, listing, missing, present, plan.download_bytes or 0)
    if fetching.progress is not None:
        fetching.progress.plan(plan)
    with Gatherer(
        layout=layout,
        remote=fetching.remote,
        listing=listing,
        context=fetching.context,
        waiting=fetching.waiting,
        known=known,
        present=present,
        seen=fetching.seen,
    ) as gatherer:
        try:
            gatherer.gather(missing)
        except UntrustedData:
            release(layout, (stored.digest for stored in gatherer.stored.values()))
            raise
        yield gatherer
    _partials.tidy(layout, frozenset(key_of(listing, file) for file in chosen))


def _present(missing: Iterable[RemoteFile], known: Known, blobs: Blobs) -> Iterator[tuple[str, Stored]]:
    for file in missing:
        have = known.stored(file, blobs)
        if have is not None:
            yield file.path, Stored(digest=have[0], stamp=have[1])


def _plan(fetching: Fetching, listing: Listing, chosen: Sequence[RemoteFile], missing: Sequence[RemoteFile]) -> Plan:
    total: int | None = 0
    for file in () if isinstance(fetching.remote, Adopts) else missing:
        total = None if total is None or file.size is None else total + file.size
    return Plan(
        repository=fetching.source.repository,
        commit=listing.commit,
        files=tuple(chosen),
        download_bytes=total,
        license=listing.license,
    )


def _make_sure_of_space(
    layout: Layout, listing: Listing, missing: Sequence[RemoteFile], present: Mapping[str, Stored], needed: int
) -> None:
    for file in missing:
        if file.path not in present:
            needed -= min(_partials.activity(layout, key_of(listing, file))[0], file.size or 0)
    needed = max(0, needed + needed // 100)
    if needed > shutil.disk_usage(layout.home).free:
        raise no_space(layout.home, needed)
