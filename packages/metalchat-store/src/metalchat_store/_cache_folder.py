"""Models that lie in plain folders, as LM Studio keeps them: `publisher/name/*.gguf`, or a folder of safetensors."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from metalchat_store.caches import Found, Tool, chosen
from metalchat_store.errors import StoreError
from metalchat_store.remote import RemoteContext
from metalchat_store.remotes._meta_releases import has_checkpoint
from metalchat_store.remotes.file import FileRemote

_DEPTH = 4
_PART = re.compile(r".+-[0-9]{5}-of-[0-9]{5}\.gguf")


def places(environ: Mapping[str, str]) -> Iterator[Path]:
    """Where LM Studio keeps its models."""
    if environ.get("HOME"):
        yield Path(environ["HOME"]) / ".lmstudio" / "models"
        yield Path(environ["HOME"]) / ".cache" / "lm-studio" / "models"


def models(folder: Path, tool: Tool) -> Iterator[Found]:
    """The models in a folder and below it, by path; links to folders are not followed."""
    root = folder.resolve()
    yield from _models(root, root, tool, _DEPTH)


def _models(folder: Path, root: Path, tool: Tool, depth: int) -> Iterator[Found]:
    files: list[Path] = []
    folders: list[Path] = []
    try:
        with os.scandir(folder) as found:
            for item in sorted(found, key=lambda item: item.name):
                if item.name.startswith("."):
                    continue
                if item.is_dir(follow_symlinks=False):
                    folders.append(Path(item.path))
                else:
                    files.append(Path(item.path))
    except OSError as error:
        reason = f"it cannot be read: {(error.strerror or 'unknown reason').lower()}"
        yield Found(tool=tool, repository=folder.as_uri(), place=folder, reason=reason)
        return
    names = {file.name for file in files}
    if names & {"config.json", "params.json"} and any(name.endswith(".safetensors") for name in names):
        yield _found(folder, root, tool)
        return
    if has_checkpoint(names):
        reason = f"it is converted, which needs a second copy: 'metalchat model pull {folder.as_uri()}' does that"
        yield Found(tool=tool, repository=folder.as_uri(), place=folder, reason=reason)
        return
    for file in files:
        if file.suffix == ".gguf" and not file.name.startswith("mmproj"):
            yield _found(file, root, tool)
    for inner in folders if depth > 1 else ():
        yield from _models(inner, root, tool, depth - 1)


def _found(place: Path, root: Path, tool: Tool) -> Found:
    found = Found(tool=tool, repository=place.as_uri(), place=place)
    if _PART.fullmatch(place.name):
        return Found(
            tool=tool, repository=place.as_uri(), place=place, reason="it is one of several parts, which are not joined"
        )
    try:
        listing = FileRemote().list(found.repository, revision=None, context=RemoteContext())
    except StoreError as error:
        return Found(tool=tool, repository=place.as_uri(), place=place, reason=str(error))
    bad = {
        file.path: "is a link that leads out of the folder"
        for file in listing.files
        if not Path(file.location).resolve().is_relative_to(root)
    }
    return chosen(found, listing.files, bad)
