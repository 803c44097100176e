"""The models of Ollama: `manifests/HOST/NAMESPACE/MODEL/TAG`, and `blobs/sha256-<64 hex>`, one of them a GGUF file."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from metalchat_store._files import read_file
from metalchat_store.caches import Found, chosen
from metalchat_store.digest import Digest
from metalchat_store.errors import StoreError
from metalchat_store.remote import RemoteFile

_LIMIT = 1 << 20
_TYPE = "application/vnd.ollama.image."
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DEFAULT = ("registry.ollama.ai", "library")


def places(environ: Mapping[str, str]) -> Iterator[Path]:
    """Where the models may be."""
    if environ.get("OLLAMA_MODELS"):
        yield Path(environ["OLLAMA_MODELS"])
    if environ.get("HOME"):
        yield Path(environ["HOME"]) / ".ollama" / "models"
    yield Path("/usr/share/ollama/.ollama/models")


def is_cache(folder: Path) -> bool:
    """Whether a folder looks like that of Ollama."""
    return (folder / "manifests").is_dir() and (folder / "blobs").is_dir()


def models(cache: Path) -> Iterator[Found]:
    """The models, by name."""
    for path in sorted(_manifests(cache / "manifests", 4)):
        parts = path.relative_to(cache / "manifests").parts
        if len(parts) == 4 and all(_NAME.fullmatch(part) for part in parts):
            yield _model(cache, path, parts)


def _manifests(folder: Path, depth: int) -> Iterator[Path]:
    with suppress(OSError), os.scandir(folder) as found:
        for item in found:
            if item.is_dir(follow_symlinks=False) and depth > 1:
                yield from _manifests(Path(item.path), depth - 1)
            elif item.is_file(follow_symlinks=False) and depth == 1:
                yield Path(item.path)


def _model(cache: Path, path: Path, parts: tuple[str, ...]) -> Found:
    host, space, model, tag = parts
    name = "/".join(part for part, default in zip((host, space), _DEFAULT, strict=True) if part != default)
    if host != _DEFAULT[0]:
        name = f"{host}/{space}"
    address = f"ollama:{name}/{model}:{tag}" if name else f"ollama:{model}:{tag}"
    try:
        data = read_file(path, _LIMIT)
        layers = json.loads(data)["layers"]
        if any(layer["mediaType"] == f"{_TYPE}adapter" for layer in layers):
            return Found(tool="ollama", repository=address, place=path, reason="it has an adapter, which is not read")
        files, bad = _files(cache, layers)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, StoreError):
        return Found(tool="ollama", repository=address, place=path, reason="its manifest cannot be read")
    if not any(file.path == "model.gguf" for file in files):
        return Found(tool="ollama", repository=address, place=path, reason="it has no GGUF file")
    commit = hashlib.sha256(data).hexdigest()
    return chosen(Found(tool="ollama", repository=address, place=path, commit=commit), files, bad)


def _files(cache: Path, layers: list[dict[str, Any]]) -> tuple[list[RemoteFile], dict[str, str]]:
    files: list[RemoteFile] = []
    bad: dict[str, str] = {}
    for media, name in (("model", "model.gguf"), ("license", "LICENSE")):
        layer = next((layer for layer in layers if layer["mediaType"] == _TYPE + media), None)
        if layer is None:
            continue
        digest, size = Digest(layer["digest"].removeprefix("sha256:")), layer["size"]
        blob = cache / "blobs" / f"sha256-{digest.hex}"
        files.append(RemoteFile(path=name, size=size, sha256=digest.hex, location=str(blob)))
        try:
            facts = blob.lstat()
        except OSError:
            bad[name] = "is missing"
            continue
        if stat.S_ISLNK(facts.st_mode):
            bad[name] = "is a link, which is not followed"
        elif not stat.S_ISREG(facts.st_mode) or facts.st_size != size:
            bad[name] = "is not the file that the manifest names"
    return files, bad
