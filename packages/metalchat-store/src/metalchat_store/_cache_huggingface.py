"""The cache of Hugging Face libraries: `models--org--name` with `blobs`, `refs` and `snapshots` of links.

What several repositories share lies in `blobs/ab/<64 digits>` beside them, under a name that says nothing about its
SHA-256; the blobs of the repositories are links to it, whose names do.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from metalchat_store._address import AddressError, origin_of
from metalchat_store._files import read_file
from metalchat_store.caches import Found, chosen
from metalchat_store.errors import IntegrityError
from metalchat_store.remote import RemoteFile

HUB = "https://huggingface.co"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PREFIX = "models--"
_DEPTH = 3
_OUTSIDE = "is a link that leads out of the cache"


def places(environ: Mapping[str, str]) -> Iterator[Path]:
    """Where the cache may be; the first that a variable names comes first."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(name):
            yield Path(environ[name])
    if environ.get("HF_HOME"):
        yield Path(environ["HF_HOME"]) / "hub"
    if environ.get("XDG_CACHE_HOME"):
        yield Path(environ["XDG_CACHE_HOME"]) / "huggingface" / "hub"
    if environ.get("HOME"):
        yield Path(environ["HOME"]) / ".cache" / "huggingface" / "hub"


def hub(environ: Mapping[str, str]) -> str:
    """The hub that a cache is of, which does not say so itself. An `HF_ENDPOINT` that is no address is passed over."""
    try:
        return origin_of(environ.get("HF_ENDPOINT") or HUB).url
    except AddressError:
        return HUB


def is_cache(folder: Path) -> bool:
    """Whether a folder holds repositories of models."""
    with suppress(OSError), os.scandir(folder) as found:
        return any(item.name.startswith(_PREFIX) and item.is_dir(follow_symlinks=False) for item in found)
    return False


def models(cache: Path, hub: str) -> Iterator[Found]:
    """The models of a cache of `hub`, by name."""
    for name in sorted(os.listdir(cache)):  # noqa: PTH208 - names alone
        if name.startswith(_PREFIX) and (cache / name).is_dir() and not (cache / name).is_symlink():
            yield from repository_models(cache / name, hub)


def named_models(folder: Path, hub: str) -> Iterator[Found] | None:
    """The models of a folder of one repository, or of one commit; None if it is neither."""
    if folder.name.startswith(_PREFIX) and (folder / "snapshots").is_dir():
        return repository_models(folder, hub)
    repository = folder.parent.parent
    if (
        _COMMIT.fullmatch(folder.name)
        and folder.parent.name == "snapshots"
        and repository.name.startswith(_PREFIX)
        and (repository / "blobs").is_dir()
    ):
        return repository_models(repository, hub, folder.name)
    return None


def repository_models(folder: Path, hub: str, commit: str | None = None) -> Iterator[Found]:
    """What one repository has at a commit, at its default revision, or at the one that was fetched last.

    One model, or one for every GGUF file.
    """
    name = folder.name.removeprefix(_PREFIX).replace("--", "/")
    found = Found(tool="huggingface", repository=f"{hub}/{name}", place=folder)
    commit = commit or _commit(folder)
    if commit is None:
        yield Found(tool="huggingface", repository=found.repository, place=folder, reason="it has no whole revision")
        return
    bad: dict[str, str] = {}
    place = folder / "snapshots" / commit
    files = [_file(path, inner, folder, bad) for path, inner in _walk(place, "", _DEPTH)]
    listed = [file for file in files if file is not None]
    weights = [file.path for file in listed if file.path.endswith(".gguf") and "mmproj" not in file.path]
    tensors = any(file.path.endswith(".safetensors") for file in listed)
    addresses = [found.repository]
    if weights and not tensors:
        addresses = [f"{found.repository}?file={quote(path)}" for path in sorted(weights)]
    for address in addresses:
        yield chosen(Found(tool="huggingface", repository=address, place=place, commit=commit), listed, bad)


def is_shared(real: Path, repository: Path) -> bool:
    """Whether a file, links resolved, lies among what the repositories of a cache share."""
    shard = real.parent
    shared = shard.parent == repository.parent / "blobs" and shard.name == real.name[:2]
    return shared and _SHA256.fullmatch(real.name) is not None


def _blob(path: Path, root: Path) -> str:
    """The name of the repository's blob that a snapshot links to; empty if it links to something else."""
    if not path.is_symlink():
        return ""
    target = path.parent / path.readlink()
    return target.name if target.parent.resolve() == root / "blobs" else ""


def _commit(folder: Path) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        commit = read_file(folder / "refs" / "main", 100).decode().strip()
        if _COMMIT.fullmatch(commit) and (folder / "snapshots" / commit).is_dir():
            return commit
    times = []
    with suppress(OSError), os.scandir(folder / "snapshots") as found:
        for item in found:
            if _COMMIT.fullmatch(item.name) and item.is_dir(follow_symlinks=False):
                times.append((item.stat(follow_symlinks=False).st_mtime, item.name))
    return max(times)[1] if times else None


def _walk(folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, Path]]:
    with os.scandir(folder) as found:
        for item in sorted(found, key=lambda item: item.name):
            if item.is_dir(follow_symlinks=False):
                if depth > 1:
                    yield from _walk(Path(item.path), f"{prefix}{item.name}/", depth - 1)
            else:
                yield f"{prefix}{item.name}", Path(item.path)


def _file(name: str, path: Path, folder: Path, bad: dict[str, str]) -> RemoteFile | None:
    """A file of a snapshot with the identity that the name of its blob promises; None if no model has such a file."""
    root = folder.resolve()
    try:
        real = path.resolve(strict=True)
        facts = real.lstat()
        if not real.is_relative_to(root) and not is_shared(real, root):
            bad[name] = _OUTSIDE
        elif not stat.S_ISREG(facts.st_mode):
            bad[name] = "is not a file"
        size: int | None = facts.st_size
    except (OSError, RuntimeError):
        bad[name], real, size = "is a link to nothing", path, None
    mark = _blob(path, root) if name not in bad else ""
    try:
        return RemoteFile(
            path=name,
            size=size,
            sha256=mark if _SHA256.fullmatch(mark) else None,
            git_sha1=mark if _COMMIT.fullmatch(mark) else None,
            location=str(real),
        )
    except IntegrityError:
        return None
