"""What a model that mlx-lm runs takes in memory: upper bounds, since its caches and layers are not this engine's."""

from dataclasses import dataclass

from metalchat_engine_mlx.fallback.sizes import Sizes

_STEP = 256  # tokens by which mlx-lm's caches grow
_STATE_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Every layer is taken to keep keys and values of the whole text, and a state where the family has one.

    `weights` are bytes, and `value` those of a number of the arithmetic.
    """

    sizes: Sizes
    weights: int
    value: int

    @property
    def cache_per_token(self) -> int:
        return self.sizes.token_values * self.value

    def cache(self, tokens: int) -> int:
        """Bytes of the caches of one text of so many tokens."""
        return -(-tokens // _STEP) * _STEP * self.cache_per_token + self.sizes.state_values * _STATE_BYTES

    def transient(self, tokens: int, requests: int, rows: int, *, on_cpu: bool) -> int:
        """Bytes besides, while `rows` tokens of a prompt are computed, and the next of so many texts are drawn."""
        sizes = self.sizes
        layers = max(sizes.layers, 1)
        found = rows * 4 * (8 * sizes.hidden + 4 * sizes.inner)
        found += requests * sizes.vocab_size * 4 * 4
        if sizes.token_values:
            found += 3 * sizes.heads * rows * tokens * 4
        # A layer is copied where its room grows; a CPU keeps a state for every token of a piece.
        found += 2 * self.cache(tokens) // layers
        return found + (rows * sizes.state_values // layers * _STATE_BYTES if on_cpu else 0)
