"""Streams that are lent and given back: MLX cannot end one, and each CPU stream has a thread of its own."""

import threading
from collections.abc import Sequence

import mlx.core as mx

_SPARE: list[mx.Stream] = []
_GUARD = threading.Lock()


def borrow(device: mx.Device, count: int) -> list[mx.Stream]:
    """Streams that nobody else has; usable from any thread, one thread at a time."""
    with _GUARD:
        found = [stream for stream in _SPARE if stream.device == device][:count]
        for stream in found:
            _SPARE.remove(stream)
    return found + [mx.new_thread_unsafe_stream(device) for _ in range(count - len(found))]


def give_back(streams: Sequence[mx.Stream]) -> None:
    """Wait for what the streams still do, and leave them to the next model."""
    for stream in streams:
        mx.synchronize(stream)
    with _GUARD:
        _SPARE.extend(streams)
