"""Models in the caches of other tools and in plain folders: what is there, read without touching it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metalchat_store.errors import StoreError
from metalchat_store.remote import RemoteFile
from metalchat_store.selection import select, split_file
from metalchat_store.sources import normalise

Tool = Literal["huggingface", "ollama", "lmstudio", "folder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A model of another tool.

    `repository` and `commit` are what it has in the store; a folder has a commit only when it is taken in. `files` are
    those that make the model. `reason` says why it cannot be taken, None if it can.
    """

    tool: Tool
    repository: str
    place: Path
    commit: str | None = None
    files: tuple[RemoteFile, ...] = ()
    reason: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size or 0 for file in self.files)


def discover(environ: Mapping[str, str]) -> Iterator[Found]:
    """Every model in the caches of Hugging Face libraries, Ollama and LM Studio, where these keep them by default."""
    from metalchat_store import _cache_folder, _cache_huggingface, _cache_ollama

    for cache in _distinct(_cache_huggingface.places(environ)):
        yield from _cache_huggingface.models(cache, _cache_huggingface.hub(environ))
    for cache in _distinct(_cache_ollama.places(environ)):
        yield from _cache_ollama.models(cache)
    for cache in _distinct(_cache_folder.places(environ)):
        yield from _cache_folder.models(cache, "lmstudio")


def look_into(folder: Path, environ: Mapping[str, str]) -> Iterator[Found]:
    """Every model in one folder: a cache of one of these tools, or models in the folder and below it."""
    from metalchat_store import _cache_folder, _cache_huggingface, _cache_ollama

    hub = _cache_huggingface.hub(environ)
    for inner in (folder, folder / "hub"):
        if _cache_huggingface.is_cache(inner):
            return _cache_huggingface.models(inner, hub)
    named = _cache_huggingface.named_models(folder, hub)
    if named is not None:
        return named
    for inner in (folder, folder / "models"):
        if _cache_ollama.is_cache(inner):
            return _cache_ollama.models(inner)
    return _cache_folder.models(folder, "folder")


def chosen(found: Found, files: Iterable[RemoteFile], bad: Mapping[str, str]) -> Found:
    """`found` with those of `files` that make the model, or with the reason why there is none.

    `bad` names files that must not be taken, with the reason.
    """
    from dataclasses import replace

    listed = tuple(files)
    try:
        repository = normalise(found.repository)
        names = set(select(repository, listed, split_file(repository)[1]).names)
    except (StoreError, ValueError) as error:
        return replace(found, reason=str(error))
    wanted = tuple(file for file in listed if file.path in names)
    for file in wanted:
        if file.path in bad:
            return replace(found, reason=f"'{file.path}' {bad[file.path]}")
    return replace(found, repository=repository, files=wanted)


def _distinct(places: Iterable[Path]) -> Iterator[Path]:
    seen: set[Path] = set()
    for place in places:
        try:
            real = place.resolve(strict=True)
        except OSError:
            continue
        if real.is_dir() and real not in seen:
            seen.add(real)
            yield real
