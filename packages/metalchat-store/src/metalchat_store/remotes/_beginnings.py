"""A remote of files of which only the beginning is known, such as those that Meta's checkpoints will become."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from metalchat_store.checkpoint.model import Traits
from metalchat_store.checkpoint.preview import preview
from metalchat_store.remote import Body, Listing, Preview, RemoteContext, RemoteFile


class Beginnings:
    """`known` maps each path to the bytes it begins with, and to its whole size."""

    def __init__(self, known: Mapping[str, tuple[bytes, int]]) -> None:
        self._known = known
        self.files = tuple(RemoteFile(path=path, size=size) for path, (_, size) in known.items())

    def list(self, repository: str, *, revision: str | None, context: RemoteContext) -> Listing:
        """The files."""
        return Listing(repository=repository, commit=revision or "", files=self.files)

    @contextmanager
    def read(
        self, listing: Listing, file: RemoteFile, *, offset: int, context: RemoteContext, validator: str | None = None
    ) -> Iterator[Body]:
        """What is known of a file from `offset` on."""
        yield Body(offset=offset, chunks=(self._known[file.path][0][offset:],))


def previewed(listing: Listing, params: bytes, traits: Traits) -> Preview:
    """What the checkpoints of a listing will become, as far as its `params.json`, which is `params`, tells."""
    size = sum(file.size or 0 for file in listing.files if file.path.endswith(".pth"))
    config, beginning, total = preview(params, size, traits)
    shown = Beginnings({"config.json": (config, len(config)), "model.safetensors": (beginning, total)})
    return Preview(listing=replace(listing, files=shown.files), remote=shown, cost=lambda: len(params))
