"""Keys and values of long prompts in files, for the next process that begins with the same text.

A file is the 16 bytes of `_MAGIC`, the SHA-256 of all that follows, and then, little-endian: what the state belongs to
(32 bytes), the numbers of tokens and of layers with a window, the dtype, the tokens, the first token that each of those
layers still holds, and the arrays one after the other, whose shapes the model's config gives. It holds a prompt's
content: mode 0600, in a directory of mode 0700. Whatever is wrong with a file, it is passed over.
"""

import contextlib
import errno
import hashlib
import os
import re
import stat
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from metalchat_engine_mlx import blas
from metalchat_engine_mlx.cache import KVCache, Parts, Tail, reaches
from metalchat_engine_mlx.rope import Regime

MIN_TOKENS = 512

_MAGIC = b"metalchat kv 1\n\0"
_DIGEST = 32
_FIXED = struct.Struct("<32sIIB")
_DTYPES = (mx.float32, mx.float16, mx.bfloat16)
_STALE = 3600.0  # seconds after which what a killed process was writing is swept
_IDENTITY_ENDS = 2**16
# What this module writes, and so all that it ever reads or deletes.
_FOLDER_NAME = re.compile(r"[0-9a-f]{32}")
_FILE_NAME = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}")
_TEMPORARY_NAME = re.compile(r"\.[0-9a-f]{32}-[0-9a-f]{32}\.[0-9]+\.[0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """A layer's keys and values are [1, heads, tokens, dim]."""

    window: int | None
    heads: int
    dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A text and what was computed for it, with an adapter or none, in memory that nothing else writes to."""

    tokens: tuple[int, ...]
    regime: Regime
    adapter: str | None
    segments: Sequence[Parts]
    tails: Sequence[Tail]

    @property
    def nbytes(self) -> int:
        pieces = [*self.segments, *(tail.parts for tail in self.tails)]
        return sum(part.nbytes for parts in pieces for part in parts)

    @classmethod
    def of(cls, cache: KVCache, tokens: Sequence[int], regime: Regime) -> "State":
        """A copy of what a cache holds of its `tokens`."""
        segments, tails = cache.segments([(0, len(tokens))])[0], cache.tails()
        mx.eval([tail.parts for tail in tails])
        return cls(tokens=tuple(tokens), regime=regime, adapter=cache.adapter, segments=segments, tails=tails)


class StateFiles:
    """The states of one model in a directory that all models share.

    `identity` is what a state depends on, and `adapters`, by name, what one that was computed with an adapter depends
    on besides.
    """

    def __init__(
        self,
        directory: Path,
        identity: bytes,
        layers: Sequence[LayerShape],
        quota: int,
        adapters: Mapping[str, bytes] | None = None,
    ) -> None:
        self._root = directory / "kv"
        self._folder = self._root / identity.hex()[:32]
        self._identity, self._layers, self._quota = identity, layers, quota
        self._adapters: dict[str | None, bytes] = {None: b"", **(adapters or {})}
        self._windows = [layer.window for layer in layers if layer.window is not None]

    def saving(self, state: State) -> Callable[[], None]:
        """What writes a state, in any thread, and forgets the least recently used beyond the quota.

        It does nothing where that cannot be done.
        """
        arrays = [*self._in_order(state.segments, state.tails)]
        views = [_bits(array) for array in arrays]
        fixed = _FIXED.pack(
            self._owner(state.regime, state.adapter),
            len(state.tokens),
            len(state.tails),
            _DTYPES.index(arrays[0].dtype),
        )
        numbers = np.array([*state.tokens, *(tail.first for tail in state.tails)], "<u4").tobytes()
        pieces = [fixed, numbers, *(view.reshape(-1).view(np.uint8).data for view in views)]
        return partial(self._save, self._path(state.tokens, self._owner(state.regime, state.adapter)), pieces)

    def _save(self, path: Path, pieces: Sequence[bytes | memoryview]) -> None:
        if len(_MAGIC) + _DIGEST + sum(map(len, pieces)) > self._quota:
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if not (_is_own_folder(self._root) and _is_own_folder(self._folder)):
                return
            with contextlib.ExitStack() as undo:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                undo.callback(temporary.unlink, missing_ok=True)
                with os.fdopen(descriptor, "wb") as file:
                    digest = hashlib.sha256()
                    file.write(_MAGIC + bytes(_DIGEST))
                    for piece in pieces:
                        digest.update(piece)
                        file.write(piece)
                    file.seek(len(_MAGIC))
                    file.write(digest.digest())
                temporary.replace(path)
                undo.pop_all()
            self._sweep(path)
        except OSError:
            return

    def find(self, tokens: Sequence[int], regime: Regime, adapter: str | None = None, *, known: int) -> State | None:
        """The state with the longest beginning of `tokens` less their last, if longer than `known` and not damaged."""
        best, found, owner = known, None, self._owner(regime, adapter)
        head = self._path(tokens, owner).name.partition("-")[0]
        wanted = np.array(tokens[:-1], "<u4")
        with contextlib.suppress(OSError, struct.error, ValueError):
            if not (_is_own_folder(self._root) and _is_own_folder(self._folder)):
                return None
            for path in self._folder.glob(f"{head}-*"):
                if _FILE_NAME.fullmatch(path.name) is None:
                    continue
                common = self._common(path, wanted, owner)
                if common > best:
                    best, found = common, path
            if found is not None:
                return self._read(found, regime, adapter)
        return None

    def _common(self, path: Path, wanted: NDArray[Any], expected: bytes) -> int:
        """How many tokens a file could spare, told from its head; 0 for one that is not this model's."""
        with contextlib.suppress(OSError, struct.error, ValueError), _opened(path) as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return 0
            file.seek(_DIGEST, os.SEEK_CUR)
            owner, count, windows, _ = _FIXED.unpack(file.read(_FIXED.size))
            if owner != expected or windows != len(self._windows) or count > os.fstat(file.fileno()).st_size:
                return 0
            numbers = np.frombuffer(file.read(4 * (count + windows)), "<u4")
            most = min(count, len(wanted))
            differs = np.nonzero(numbers[:most] != wanted[:most])[0]
            common = int(differs[0]) if differs.size else most
            firsts = [Tail(first=int(first), parts=()) for first in numbers[count:]]
            if all(reaches(tail, window, common) for tail, window in zip(firsts, self._windows, strict=True)):
                return common
        return 0

    def _read(self, path: Path, regime: Regime, adapter: str | None) -> State | None:
        with _opened(path) as file:
            if os.fstat(file.fileno()).st_size > self._quota:
                return None
            data = memoryview(file.read())
        body = data[len(_MAGIC) + _DIGEST :]
        if data[: len(_MAGIC)] != _MAGIC or hashlib.sha256(body).digest() != data[len(_MAGIC) : len(_MAGIC) + _DIGEST]:
            path.unlink(missing_ok=True)
            return None
        os.utime(path)
        owner, count, windows, code = _FIXED.unpack(body[: _FIXED.size])
        if owner != self._owner(regime, adapter) or windows != len(self._windows) or code >= len(_DTYPES):
            return None
        start = _FIXED.size + 4 * (count + windows)
        numbers = np.frombuffer(body[_FIXED.size : start], "<u4").tolist()
        firsts = iter(numbers[count:])
        segments: list[Parts] = []
        tails: list[Tail] = []
        for layer in self._layers:
            first = 0 if layer.window is None else next(firsts)
            shape = (1, layer.heads, count - first, layer.dim)
            size = layer.heads * (count - first) * layer.dim * _DTYPES[code].size
            if first > count or start + 2 * size > len(body):
                return None
            parts = tuple(_array(body[at : at + size], _DTYPES[code], shape) for at in (start, start + size))
            start += 2 * size
            if layer.window is None:
                segments.append(parts)
            else:
                tails.append(Tail(first=first, parts=parts))
        if start != len(body):
            return None
        return State(tokens=tuple(numbers[:count]), regime=regime, adapter=adapter, segments=segments, tails=tails)

    def _in_order(self, segments: Sequence[Parts], tails: Sequence[Tail]) -> Iterator[mx.array]:
        whole, windowed = iter(segments), iter(tails)
        for layer in self._layers:
            yield from next(whole) if layer.window is None else next(windowed).parts

    def _owner(self, regime: Regime, adapter: str | None) -> bytes:
        return hashlib.sha256(self._identity + repr(regime).encode() + self._adapters[adapter]).digest()

    def _path(self, tokens: Sequence[int], owner: bytes) -> Path:
        """Named by digests: of the first tokens, and of all."""
        names = [
            hashlib.sha256(owner + np.array(part, "<u4").tobytes()).hexdigest()[:32]
            for part in (tokens[:MIN_TOKENS], tokens)
        ]
        return self._folder / f"{names[0]}-{names[1]}"

    def _sweep(self, kept: Path) -> None:
        files: list[tuple[float, int, Path]] = []
        now = time.time()
        folders = [path for path in self._root.iterdir() if _FOLDER_NAME.fullmatch(path.name) and _is_own_folder(path)]
        for path in (path for folder in folders for path in folder.iterdir()):
            with contextlib.suppress(OSError):
                status = path.lstat()
                if not stat.S_ISREG(status.st_mode):
                    continue
                if _FILE_NAME.fullmatch(path.name):
                    files.append((status.st_mtime, status.st_size, path))
                elif _TEMPORARY_NAME.fullmatch(path.name) and now - status.st_mtime > _STALE:
                    path.unlink(missing_ok=True)
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._quota:
                break
            if path != kept:
                path.unlink(missing_ok=True)
                total -= size


def _is_own_folder(path: Path) -> bool:
    """Whether a path is a folder of this user and no link to one, which may lead anywhere."""
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _opened(path: Path) -> BinaryIO:
    """A regular file, never what a link leads to; a FIFO does not make anyone wait."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(descriptor, "rb")


def files_identity(paths: Sequence[Path]) -> list[tuple[str, int, int, str]]:
    """Name, size, time and a digest of both ends of each file: what tells a changed model without reading it all."""
    found = []
    for path in paths:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            digest = hashlib.sha256(file.read(_IDENTITY_ENDS))
            file.seek(max(status.st_size - _IDENTITY_ENDS, 0))
            digest.update(file.read(_IDENTITY_ENDS))
        found.append((path.name, status.st_size, status.st_mtime_ns, digest.hexdigest()))
    return found


def _bits(array: mx.array) -> NDArray[Any]:
    """The memory of an array that is evaluated; NumPy has no bfloat16."""
    return blas.view(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def _array(data: memoryview, dtype: mx.Dtype, shape: tuple[int, ...]) -> mx.array:
    kind = {mx.float32: "<f4", mx.float16: "<f2"}.get(dtype, "<u2")
    array = blas.array(np.frombuffer(data, kind).reshape(shape))
    return array.view(mx.bfloat16) if dtype == mx.bfloat16 else array
