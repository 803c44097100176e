"""Threads that share the work of NumPy calls, while NumPy's BLAS keeps to one thread a call.

The threads of OpenBLAS spin while they wait for each other: with another program on one of the cores, a product of
matrices took thirty times as long with two of them as with one. These sleep.
"""

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metalchat_engine_mlx.gemm import Blas, Floats, numpy_blas

_PREFIXES = ("scipy_openblas", "openblas")
_SUFFIXES = ("64_", "", "_64_")


class Scratch:
    """Memory that is used again and again: fresh memory costs more to touch than the arithmetic in it."""

    def __init__(self) -> None:
        self._floats = np.empty(0, np.float32)
        self._bytes = np.empty(0, np.uint8)

    @property
    def nbytes(self) -> int:
        return self._floats.nbytes + self._bytes.nbytes

    def floats(self, *shape: int) -> Floats:
        size = int(np.prod(shape))
        if self._floats.size < size:
            self._floats = np.empty(size, np.float32)
        return self._floats[:size].reshape(shape)

    def bytes(self, *shape: int) -> NDArray[np.uint8]:
        size = int(np.prod(shape))
        if self._bytes.size < size:
            self._bytes = np.empty(size, np.uint8)
        return self._bytes[:size].reshape(shape)


class Pool:
    """`threads` workers, the caller one of them; each has scratch memory of its own. One call at a time.

    `blas` multiplies for all of them.
    """

    def __init__(self, threads: int, blas: Blas | None = None) -> None:
        self.blas = numpy_blas() if blas is None else blas
        self._scratch = [Scratch() for _ in range(threads)]
        self._workers = ThreadPoolExecutor(threads - 1, "metalchat-mlx", _quiet) if threads > 1 else None

    @property
    def nbytes(self) -> int:
        return sum(scratch.nbytes for scratch in self._scratch)

    def share(self, count: int, work: Callable[[int, int, Scratch], None], *, unit: int = 1, most: int = 64) -> None:
        """Call `work(start, stop, scratch)` for at most `most` parts of 0 to `count`, cut at multiples of `unit`."""
        ways = max(min(len(self._scratch), count // unit, most), 1) if self.blas.shares else 1
        if ways == 1:
            with _BLAS:
                work(0, count, self._scratch[0])
            return
        bounds = [count // unit * way // ways * unit for way in range(ways)] + [count]
        parts = list(zip(bounds[:-1], bounds[1:], self._scratch, strict=False))
        with _BLAS:
            others = [self._workers.submit(work, *part) for part in parts[1:]] if self._workers else []
            try:
                work(*parts[0])
            finally:
                for other in others:
                    other.result()

    def close(self) -> None:
        if self._workers is not None:
            self._workers.shutdown()


def _quiet() -> None:
    """NumPy keeps silent in this thread about infinities and what is no number, as MLX does."""
    np.seterr(all="ignore")


class _Blas:
    """The number of threads of the OpenBLAS in NumPy's wheel, one setting of the whole process.

    A block has one thread for every call of BLAS in it. The last block that ends puts the setting back.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._users = 0
        self._before = 0
        self._get, self._set = _thread_calls()

    def __enter__(self) -> None:
        if self._get is None or self._set is None:
            return
        with self._guard:
            if self._users == 0:
                self._before = self._get()
                self._set(1)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        if self._set is None:
            return
        with self._guard:
            self._users -= 1
            if self._users == 0:
                self._set(self._before)


def _thread_calls() -> tuple[Callable[[], int] | None, Callable[[int], None] | None]:
    folder = Path(np.__file__).parents[1] / "numpy.libs"
    for file in folder.glob("*openblas*") if folder.is_dir() else ():
        library = ctypes.CDLL(str(file))
        for prefix in _PREFIXES:
            for suffix in _SUFFIXES:
                get = getattr(library, f"{prefix}_get_num_threads{suffix}", None)
                change = getattr(library, f"{prefix}_set_num_threads{suffix}", None)
                if get is not None and change is not None:
                    get.restype, get.argtypes = ctypes.c_int, ()
                    change.restype, change.argtypes = None, (ctypes.c_int,)
                    return get, change
    return None, None


_BLAS = _Blas()
