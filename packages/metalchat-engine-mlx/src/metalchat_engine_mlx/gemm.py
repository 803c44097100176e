"""Which BLAS multiplies on a CPU: one that the settings name, else MKL where it is installed, else NumPy's own."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from metalchat_engine import UnsupportedRequest
from numpy.typing import NDArray

from metalchat_engine_mlx.libraries import installed_mkl, numpy_library

Floats = NDArray[np.float32]
# x [n, columns] with w [columns, rows], one of whose axes lies densely, to out [n, rows].
Multiply = Callable[[Floats, Floats, Floats], None]

_FEW, _CACHED = 6, 2**18  # rows, and weights that stay in the cache
_ROW_MAJOR, _AS_IT_IS, _TRANSPOSED = 101, 111, 112
# How libraries are told to leave the threads to us.
_THREADS = ("MKL_Set_Num_Threads", "openblas_set_num_threads", "bli_thread_set_num_threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Blas:
    """`is_fast` ones use the widest registers. `shares`: a call keeps to its own thread, so several may run at once."""

    name: str
    multiply: Multiply
    is_fast: bool = True
    shares: bool = True


def choose(path: Path | None) -> Blas:
    """The library in `path`, else MKL, else NumPy's. Raises UnsupportedRequest for one that cannot be used."""
    if path is not None:
        return _library(path, str(path))
    found = installed_mkl()
    if found is not None:
        try:
            return _library(*found)
        except UnsupportedRequest:  # made for another processor, say: nobody has asked for it by name
            pass
    return numpy_blas()


@cache
def numpy_blas() -> Blas:
    name, is_fast = numpy_library()
    return Blas(name=name, multiply=_by_numpy, is_fast=is_fast)


def _by_numpy(x: Floats, w: Floats, out: Floats) -> None:
    if not (1 < len(x) <= _FEW and w.strides[1] == w.itemsize):
        np.matmul(x, w, out=out)
        return
    # A product of matrices first copies w, which is only worth it for more rows; one by one they share what is cached.
    step = max(_CACHED // len(w) // 64 * 64, 64)
    for start in range(0, w.shape[1], step):
        block = slice(start, start + step)
        for row in range(len(x)):
            np.matmul(x[row : row + 1], w[:, block], out=out[row : row + 1, block])


@cache
def _library(path: Path, name: str) -> Blas:
    try:
        library = ctypes.CDLL(str(path))
        multiply = _caller(library.cblas_sgemm)
    except (OSError, AttributeError) as error:
        why = "it has no cblas_sgemm" if isinstance(error, AttributeError) else " ".join(str(error).split())[:200]
        raise UnsupportedRequest(f"the BLAS '{path}' cannot be used: {why}", option="blas") from error
    shares = False
    for each in _THREADS:
        set_threads = getattr(library, each, None)
        if set_threads is not None:
            set_threads.restype, set_threads.argtypes = None, (ctypes.c_int,)
            set_threads(1)
            shares = True
    left, right = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(12, dtype=np.float32).reshape(3, 4)
    for w in (right, np.ascontiguousarray(right.T).T):
        out = np.zeros((2, 4), np.float32)
        multiply(left, w, out)
        if not np.array_equal(out, left @ right):
            raise UnsupportedRequest(
                f"the BLAS '{path}' multiplies wrongly; one with integers of 32 bits is needed", option="blas"
            )
    return Blas(name=name, multiply=multiply, shares=shares)


def _caller(function: Any) -> Multiply:
    """The `cblas_sgemm` of a library for NumPy's arrays."""
    number, pointer = ctypes.c_int, ctypes.c_void_p
    sizes = (number,) * 6
    function.restype = None
    function.argtypes = (*sizes, ctypes.c_float, pointer, number, pointer, number, ctypes.c_float, pointer, number)

    def multiply(x: Floats, w: Floats, out: Floats) -> None:
        (n, columns), rows = x.shape, w.shape[1]
        is_plain = w.strides[1] == w.itemsize
        if not is_plain and w.strides[0] != w.itemsize:
            raise TypeError("one axis of a matrix lies densely")
        if not n or not rows or not columns:
            out[...] = 0
            return
        if x.strides[1] != x.itemsize:
            x = np.ascontiguousarray(x)
        target = out if out.strides[1] == out.itemsize else np.empty((n, rows), np.float32)
        function(
            _ROW_MAJOR,
            _AS_IT_IS,
            _AS_IT_IS if is_plain else _TRANSPOSED,
            n,
            rows,
            columns,
            1.0,
            x.ctypes.data,
            max(x.strides[0] // x.itemsize, columns),
            w.ctypes.data,
            max(w.strides[0 if is_plain else 1] // w.itemsize, rows if is_plain else columns),
            0.0,
            target.ctypes.data,
            max(target.strides[0] // target.itemsize, rows),
        )
        if target is not out:
            out[...] = target

    return multiply
