"""Models that Ollama has on this computer: `ollama:NAME:TAG`, from where it keeps them (`OLLAMA_MODELS`)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from metalchat_store import _cache_ollama
from metalchat_store.adoption import FoundRemote
from metalchat_store.caches import Found
from metalchat_store.errors import Refused, RepositoryNotFound
from metalchat_store.remote import Body, Listing, RemoteContext, RemoteFile


class OllamaRemote:
    """Lists what the manifest of a model names; the store clones, links or copies it, and changes nothing of Ollama's.

    The commit is the SHA-256 of the manifest. Ollama has one state of a model, that of its last pull.
    """

    def list(self, repository: str, *, revision: str | None, context: RemoteContext) -> Listing:
        """The files of a model. `Refused` for one that cannot be taken, such as one whose content is missing."""
        found = _found(repository, context)
        if found.reason is not None:
            raise Refused(f"'{repository}' cannot be taken from Ollama: {found.reason}")
        listing = FoundRemote(found).list(repository, revision=revision, context=context)
        if revision not in (None, listing.commit):
            raise RepositoryNotFound(
                f"Ollama has '{repository}' at {listing.commit[:7]}, and no other revision of it: pull it without one"
            )
        return listing

    def local(self, listing: Listing, file: RemoteFile) -> Path:
        """The file itself."""
        return Path(file.location)

    def read(
        self, listing: Listing, file: RemoteFile, *, offset: int, context: RemoteContext, validator: str | None = None
    ) -> AbstractContextManager[Body]:
        """The bytes of the file from `offset`."""
        found = Found(tool="ollama", repository=listing.repository, place=Path(file.location))
        return FoundRemote(found).read(listing, file, offset=offset, context=context, validator=validator)


def _found(repository: str, context: RemoteContext) -> Found:
    known = list(_models(context))
    for found in known:
        if found.repository == repository:
            return found
    name = repository.partition(":")[2]
    here = ", ".join(found.repository for found in known[:6]) or "none; OLLAMA_MODELS says where else they are"
    raise RepositoryNotFound(f"Ollama has no model '{name}' on this computer ({here}): 'ollama pull {name}' brings it")


def _models(context: RemoteContext) -> Iterator[Found]:
    for cache in _cache_ollama.places(context.environ):
        if _cache_ollama.is_cache(cache):
            yield from _cache_ollama.models(cache)
