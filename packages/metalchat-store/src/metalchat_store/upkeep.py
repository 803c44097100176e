"""The housekeeping of a store: what it takes, what keeps it, what can go."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from metalchat_store._base import Base
from metalchat_store._files import disk_errors
from metalchat_store._layout import Layout
from metalchat_store.references import find
from metalchat_store.types import Entry

if TYPE_CHECKING:
    from metalchat_store.collect import Collected
    from metalchat_store.usage import Usage
    from metalchat_store.why import Keeper

GRACE = 3600.0
"""Seconds for which `gc` leaves alone what nothing refers to: it may belong to a pull in flight."""


class Upkeep(Base):
    """The part of the store that counts, keeps and deletes."""

    def gc(
        self, *, max_size: int | None = None, grace: float = GRACE, partials: bool = False, dry_run: bool = False
    ) -> "Collected":
        """Delete what nothing refers to: earlier states of models, content without a model, what pulls left behind.

        The same of datasets and spaces, which are neither counted in `max_size` nor evicted.

        Models stay, and so do states that a known `metalchat.lock` names. With `max_size`, in bytes of content, those
        that were not used for the longest time are evicted until the rest fits, except models that are pinned, locked,
        selected by a known manifest, or were used within `grace` seconds.
        Pulls may run meanwhile: what is younger than `grace` stays. What an interrupted pull would go on from, its
        whole files too, stays for a week, unless `partials`. Killed anywhere, nothing that is referred to is lost.
        `dry_run` only counts.
        """
        from metalchat_store.collect import Collected, Collector

        with disk_errors(self.home, reading=dry_run):
            if not dry_run:
                self._layout.prepare()
            done, unlinked = Collected(), Counter[int]()
            for kind, layout in Layout.all(self.home).items():
                collector = Collector(
                    layout,
                    now=self._now(),
                    grace=grace,
                    changing=partial(self._changing, layout=layout),
                    dry_run=dry_run,
                    partials=partials,
                    unlinked=unlinked,
                )
                done = done.plus(collector.run(max_size if kind == "model" else None))
            return done

    def usage(self) -> "Usage":
        """Where the bytes are, and how many `gc` would free."""
        from metalchat_store.usage import measure

        with disk_errors(self.home, reading=True):
            return measure(self.home, self.gc(dry_run=True))

    def why(self, text: str) -> "tuple[Keeper, ...]":
        """What keeps a content, given by a SHA-256, its unique beginning, or the path of a file that has it.

        Models, earlier states of them, datasets and spaces. Empty for what `gc` will delete. Raises `NotFound`,
        `AmbiguousModel`.
        """
        from metalchat_store.why import keepers

        with disk_errors(self.home, reading=True):
            return keepers(self.home, text)

    def pin(self, reference: str) -> Entry:
        """Keep a model as it is: `gc` never evicts it, and it is updated only with consent."""
        from metalchat_store.roots import Roots

        with disk_errors(self.home):
            entry = find(self._entries, reference)
            Roots(self._layout).pin(entry.id)
            return entry

    def unpin(self, reference: str) -> bool:
        """Take a pin away; False if there was none."""
        from metalchat_store.roots import Roots

        with disk_errors(self.home):
            return Roots(self._layout).unpin(find(self._entries, reference).id)

    def pinned(self) -> frozenset[str]:
        """The ids of all pinned models."""
        from metalchat_store.roots import Roots

        with disk_errors(self.home, reading=True):
            return Roots(self._layout).pinned()

    def register(self, manifest: Path, id: str) -> None:
        """Remember that a `metalchat.toml` selects a model: neither it nor what a lock beside it names is deleted."""
        from metalchat_store.roots import Roots

        with disk_errors(self.home):
            Roots(self._layout).register(manifest, id)
