"""A mixture of experts: for each token a router picks a few feed-forwards, and weighs what they say."""

import mlx.core as mx

from metalchat_engine_mlx.config import ExpertSpec, ExpertsSpec
from metalchat_engine_mlx.device import Blocks
from metalchat_engine_mlx.parameters import Matrix, Parameters


class Experts:
    """The softmax over all experts is in float32."""

    def __init__(self, spec: ExpertsSpec, prefix: str, parameters: Parameters, blocks: Blocks) -> None:
        self._used, self._normalised = spec.used, spec.normalised
        self._router = blocks.linear([parameters.matrix(prefix + spec.router.name)])

        def stacked(part: ExpertSpec) -> Matrix:
            return parameters.stack(prefix + part.shape.name, prefix + part.single, spec.count)

        self._experts = blocks.experts(stacked(spec.gate), stacked(spec.up), stacked(spec.down), spec.activation)

    def __call__(self, x: mx.array) -> mx.array:
        shares = mx.softmax(self._router(x).astype(mx.float32), axis=-1)
        chosen = mx.argpartition(-shares, self._used - 1, axis=-1)[:, : self._used]
        weights = mx.take_along_axis(shares, chosen, axis=-1)
        if self._normalised:
            weights = weights / mx.sum(weights, axis=-1, keepdims=True)
        return self._experts(x, chosen, weights.astype(x.dtype))

    def arrays(self) -> list[mx.array]:
        return [*self._router.arrays(), *self._experts.arrays()]
