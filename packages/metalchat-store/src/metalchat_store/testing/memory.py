"""A remote that exists in memory, and misbehaves when told to."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from metalchat_store.errors import NetworkError, RepositoryNotFound
from metalchat_store.remote import Body, Listing, RemoteContext, RemoteFile


@dataclass(kw_only=True)
class Fault:
    """What goes wrong in one answer to `read`.

    `cut`: the connection breaks after that many bytes. `replace`: this content instead of the file's. `whole`: the
    answer starts at 0 whatever was asked for. `start`: it claims to start there. `error`: raised at once.
    """

    cut: int | None = None
    replace: bytes | None = None
    whole: bool = False
    start: int | None = None
    error: Exception | None = None


@dataclass(kw_only=True)
class MemoryRemote:
    """Serves `files` (name to content) as every repository of its scheme.

    `identities` says what the listing tells: `sha256`, `git` (the git blob id) or `none`. `sizes=False` leaves sizes
    out. `faults` maps names to what happens in the next answers for that file, in order. `on_chunk` is called before
    every chunk with name and position. `reads` records what was asked for.
    """

    files: Mapping[str, bytes]
    commit: str | None = None
    license: str | None = None
    identities: Literal["sha256", "git", "none"] = "sha256"
    sizes: bool = True
    chunk: int = 65536
    validators: bool = True
    listing_faults: list[Exception] = field(default_factory=list)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    on_chunk: Callable[[str, int], None] = lambda _name, _position: None
    reads: list[tuple[str, int]] = field(default_factory=list)
    lists: int = 0
    closed: int = 0

    def list(self, repository: str, *, revision: str | None, context: RemoteContext) -> Listing:
        """All files; a revision is known if it is the commit."""
        self.lists += 1
        if self.listing_faults:
            raise self.listing_faults.pop(0)
        commit = self.commit or _fingerprint(self.files)
        if revision not in (None, "main", commit):
            raise RepositoryNotFound(f"'{repository}' has no revision '{revision}'")
        files = tuple(self._file(name, content) for name, content in self.files.items())
        return Listing(repository=repository, commit=commit, files=files, license=self.license)

    @contextmanager
    def read(
        self, listing: Listing, file: RemoteFile, *, offset: int, context: RemoteContext, validator: str | None = None
    ) -> Iterator[Body]:
        """The content from `offset`, or what the next fault makes of it."""
        with self._answer(file, offset, None, validator) as body:
            yield body

    @contextmanager
    def read_part(
        self,
        listing: Listing,
        file: RemoteFile,
        *,
        start: int,
        end: int,
        context: RemoteContext,
        validator: str | None = None,
    ) -> Iterator[Body]:
        """The content from `start` to `end`, or what the next fault makes of it."""
        with self._answer(file, start, end, validator) as body:
            yield body

    @contextmanager
    def _answer(self, file: RemoteFile, offset: int, end: int | None, validator: str | None) -> Iterator[Body]:
        self.reads.append((file.path, offset))
        waiting = self.faults.get(file.path)
        fault = waiting.pop(0) if waiting else Fault()
        if fault.error is not None:
            raise fault.error
        content = self.files[file.path] if fault.replace is None else fault.replace
        mark = hashlib.sha256(content).hexdigest() if self.validators else None
        changed = validator is not None and validator != mark
        start = 0 if fault.whole or changed else offset
        part = content if fault.whole or changed else content[:end]
        yield Body(
            offset=start if fault.start is None else fault.start,
            chunks=self._chunks(file.path, part, start, fault.cut),
            validator=mark,
        )

    def close(self) -> None:
        """Count."""
        self.closed += 1

    def _file(self, name: str, content: bytes) -> RemoteFile:
        return RemoteFile(
            path=name,
            size=len(content) if self.sizes else None,
            sha256=hashlib.sha256(content).hexdigest() if self.identities == "sha256" else None,
            git_sha1=git_blob_id(content) if self.identities == "git" else None,
            location=name,
        )

    def _chunks(self, name: str, content: bytes, start: int, cut: int | None) -> Iterator[bytes]:
        end = len(content) if cut is None else min(start + cut, len(content))
        for position in range(start, end, self.chunk):
            self.on_chunk(name, position)
            yield content[position : min(position + self.chunk, end)]
        if cut is not None:
            raise NetworkError("the connection was reset", transient=True)


def git_blob_id(content: bytes) -> str:
    """What git calls a file of that content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def tiny_model(*, size: int = 200_000, seed: int = 1, shards: int = 1) -> dict[str, bytes]:
    """Files of a repository that looks like a Llama model; the weights are noise of `size` bytes a shard."""
    import json
    import random

    noise = random.Random(seed)  # noqa: S311 - content of a test file
    files = {
        "config.json": json.dumps({"model_type": "llama", "hidden_size": 64, "seed": seed}).encode(),
        "generation_config.json": b"{}",
        "tokenizer.json": b'{"model": {}}',
        "tokenizer_config.json": json.dumps({"chat_template": f"{{{{ messages }}}} {seed}"}).encode(),
        "README.md": b"# A model\n",
        "LICENSE": b"Apache-2.0\n",
        "picture.png": b"\x89PNG",
        "pytorch_model.bin": b"\x80\x04.",
    }
    names: Sequence[str] = ["model.safetensors"]
    if shards > 1:
        names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
        weights = {f"layer.{number}": name for number, name in enumerate(names)}
        files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": weights}).encode()
    for name in names:
        files[name] = noise.randbytes(size)
    return files


def _fingerprint(files: Mapping[str, bytes]) -> str:
    hasher = hashlib.sha1(usedforsecurity=False)
    for name, content in sorted(files.items()):
        hasher.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return hasher.hexdigest()
