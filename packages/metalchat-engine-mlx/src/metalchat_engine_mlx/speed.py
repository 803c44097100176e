"""How fast the CPU of this machine multiplies: what `doctor` says of it."""

import time

import numpy as np

from metalchat_engine_mlx.gemm import choose
from metalchat_engine_mlx.machine import default_threads
from metalchat_engine_mlx.pool import Pool, Scratch
from metalchat_engine_mlx.settings import MlxSettings

_ROWS, _SIZE, _RUNS = 128, 1024, 5


def products(own: MlxSettings) -> str:
    """The threads, the library, and how many sums and products of float32 a second that makes; a few milliseconds.

    Raises UnsupportedRequest for a library that cannot be used.
    """
    threads = own.threads or default_threads()
    pool = Pool(threads, choose(own.blas))
    x, weight = np.ones((_ROWS, _SIZE), np.float32), np.ones((_SIZE, _SIZE), np.float32)
    y = np.empty((_ROWS, _SIZE), np.float32)

    def work(start: int, stop: int, _: Scratch) -> None:
        pool.blas.multiply(x, weight[:, start:stop], y[:, start:stop])

    times = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        pool.share(_SIZE, work, unit=64)
        times.append(time.perf_counter() - started)
    pool.close()
    rate = 2 * _ROWS * _SIZE * _SIZE / min(times) / 1e9
    slow = "" if pool.blas.is_fast else "; that is slow: install metalchat-engine-mlx[mkl], or name another with 'blas'"
    return f"{threads} threads, products by {pool.blas.name} ({rate:.0f} GFLOP/s){slow}"
