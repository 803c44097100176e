"""Where everything lies below $METALCHAT_HOME."""

from dataclasses import dataclass
from pathlib import Path

from metalchat_store._files import make_folder, private_name

KINDS = ("model", "dataset", "space")


@dataclass(frozen=True, slots=True)
class Layout:
    """The store's folders. What is unfinished lies in `partial` and nowhere else.

    `entries` takes the place of `models`: datasets and spaces lie beside the models, with blobs of their own, which
    are other names of the same files where the content is the same.
    """

    home: Path
    entries: Path | None = None

    @classmethod
    def of(cls, home: Path, kind: str) -> "Layout":
        """The layout of models, or of `dataset`s in `datasets/<id>`, whose content is in `datasets/.store`."""
        folder = home / f"{kind}s"
        return cls(home) if kind == "model" else cls(folder / ".store", folder)

    @classmethod
    def all(cls, home: Path) -> "dict[str, Layout]":
        """The layouts of models, and of datasets and spaces where there are any, by kind."""
        layouts = {kind: cls.of(home, kind) for kind in KINDS}
        return {kind: layout for kind, layout in layouts.items() if layout.entries is None or layout.is_there}

    @property
    def others(self) -> "tuple[Layout, ...]":
        """The layouts of the other kinds below the same home, where there are any."""
        root = self.home if self.entries is None else self.entries.parent
        return tuple(layout for layout in Layout.all(root).values() if layout.home != self.home)

    @property
    def is_there(self) -> bool:
        """Whether something was ever kept here; a link, which nothing is kept behind, does not count."""
        folders = (self.home,) if self.entries is None else (self.entries, self.home)
        return all(folder.is_dir() and not folder.is_symlink() for folder in folders)

    @property
    def models(self) -> Path:
        return self.entries or self.home / "models"

    @property
    def blobs(self) -> Path:
        return self.home / "blobs" / "sha256"

    @property
    def snapshots(self) -> Path:
        return self.home / "snapshots"

    @property
    def partial(self) -> Path:
        return self.home / "partial"

    @property
    def quarantine(self) -> Path:
        """Damaged content that a repair replaced; `gc` deletes it."""
        return self.home / "quarantine"

    @property
    def cache(self) -> Path:
        """What engines keep between runs; it has a quota of its own, and `gc` leaves it alone."""
        return self.home / "cache"

    @property
    def roots(self) -> Path:
        """Which manifests and locks are known, and which models are pinned."""
        return self.home / "roots"

    @property
    def used(self) -> Path:
        """One empty file a model; its time is that of the last use."""
        return self.home / "used"

    def prepare(self) -> None:
        """Create what is missing, each folder with mode 0700; `DiskError` if a link stands in for one."""
        if self.entries is not None:
            self.entries.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            make_folder(self.entries)
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.blobs.parent, self.blobs, self.models, self.snapshots, self.partial):
            make_folder(folder)

    def temporary(self, kind: str, suffix: str) -> Path:
        """A new private name in `partial`."""
        return self.partial / private_name(kind, suffix)
