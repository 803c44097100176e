"""A token that is being drawn from logits, and what was asked to be known about it."""

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A token that is known; `chosen` is its log probability, `best` are the likeliest tokens with theirs."""

    token: int
    chosen: float | None = None
    best: tuple[tuple[int, float], ...] = ()


class Draw:
    """Lazy: nothing is computed before `arrays` are evaluated. `logprobs` asks for that many alternatives."""

    def __init__(self, token: mx.array, logits: mx.array, logprobs: int | None) -> None:
        self.token = token
        self._described: tuple[mx.array, mx.array, mx.array] | None = None
        if logprobs is not None:
            logits = logits.astype(mx.float32)
            found = logits - mx.logsumexp(logits)
            wanted = min(logprobs, found.shape[0])
            best = mx.argpartition(-found, wanted - 1)[:wanted] if wanted else mx.zeros(0, dtype=mx.uint32)
            self._described = (found[token].reshape(1), best, found[best])

    def arrays(self) -> list[mx.array]:
        return [self.token, *(self._described or ())]

    def wait(self) -> Drawn:
        """The token, once it is computed."""
        token = self.token.item()
        if not isinstance(token, int):
            raise TypeError("a token is a whole number")
        if self._described is None:
            return Drawn(token=token)
        chosen, ids, logprobs = (numbers(array) for array in self._described)
        pairs = sorted(zip(logprobs, ids, strict=True), key=lambda pair: (-pair[0], pair[1]))
        return Drawn(token=token, chosen=chosen[0], best=tuple((int(index), value) for value, index in pairs))


def numbers(vector: mx.array) -> list[float]:
    """The values of a vector."""
    values = vector.tolist()
    if not isinstance(values, list):
        raise TypeError("a vector is a list of numbers")
    return [float(value) for value in values if isinstance(value, int | float)]
