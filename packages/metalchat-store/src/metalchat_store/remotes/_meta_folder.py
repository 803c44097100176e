"""Meta's own folder of a release, which lies on this computer: `.../checkpoints/Llama3.2-1B-Instruct`, converted.

What Meta's downloader leaves there is what `meta:` fetches, so the model becomes the same. Which release it is, is the
name of the folder: nothing in it tells whether it was trained to answer messages, or how its rope is scaled.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from metalchat_store._files import disk_errors, read_file
from metalchat_store.checkpoint import model
from metalchat_store.checkpoint.params import LIMIT, read_params
from metalchat_store.errors import IntegrityError, NotAModel
from metalchat_store.remote import Listing, Member, Preview, RemoteContext, RemoteFile
from metalchat_store.remotes._beginnings import previewed
from metalchat_store.remotes._meta_checklist import CHECKLIST, CHECKLIST_LIMIT, check_named, identified, parse_checklist
from metalchat_store.remotes._meta_releases import Release, is_checkpoint, named_release
from metalchat_store.remotes.file import FileRemote


class MetaFolder(FileRemote):
    """Lists what Meta gives out for one release; the files are read where they lie, the converted model is kept."""

    # pyrefly: ignore[missing-override-decorator] - typing has it from 3.12 on
    def list(self, repository: str, *, revision: str | None, context: RemoteContext) -> Listing:
        """The files of the release, with the digests of the checklist where there is one.

        Raises `NotAModel` for a folder that lacks one of them, `InvalidRepository` if its name is none of a release.
        """
        here = super().list(repository, revision=revision, context=context)
        found = {file.path: file for file in here.files}
        read_params(self._small(here, found, model.PARAMS, LIMIT))
        release = self._release(here, found[model.PARAMS])
        names = (model.PARAMS, model.TOKENIZER, *release.weights)
        others = sorted(name for name in found if is_checkpoint(name) and name not in names)
        if others:
            raise NotAModel(f"the folder has '{others[0]}', which '{release.name}' has not: rename it to its release")
        for name in names:
            _there(found, name)
        digests: Mapping[str, str] = {}
        if CHECKLIST in found:
            digests = parse_checklist(self._small(here, found, CHECKLIST, CHECKLIST_LIMIT))
            check_named(names, digests, release.name, context.notice)
        files = tuple(identified(found[name], digests) for name in names)
        return replace(here, files=files, license=release.license)

    def members(self, listing: Listing, archives: Mapping[str, Path]) -> Iterable[Member]:
        """The model in safetensors."""
        return model.members(archives, self._release(listing, listing.files[0]).traits)

    @contextmanager
    def preview(self, listing: Listing, *, context: RemoteContext) -> Iterator[Preview | None]:
        """The converted model, as far as `params.json` tells what it will be; no weights are looked at."""
        params = self._small(listing, {file.path: file for file in listing.files}, model.PARAMS, LIMIT)
        yield previewed(listing, params, self._release(listing, listing.files[0]).traits)

    def _release(self, listing: Listing, file: RemoteFile) -> Release:
        return named_release(Path(file.location).parent.name)

    def _small(self, listing: Listing, found: Mapping[str, RemoteFile], name: str, limit: int) -> bytes:
        file = _there(found, name)
        if (file.size or 0) > limit:
            raise IntegrityError(f"'{name}' is larger than {limit >> 10} KiB")
        place = self.local(listing, file)
        with disk_errors(place, reading=True):
            return read_file(place, limit)


def _there(found: Mapping[str, RemoteFile], name: str) -> RemoteFile:
    if name not in found:
        raise NotAModel(f"the folder has checkpoints of Meta, but no '{name}', which belongs to them: put it there")
    return found[name]
