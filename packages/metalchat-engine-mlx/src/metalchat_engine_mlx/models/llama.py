"""Llama 2, 3, 3.1, 3.2 and 3.3, and what shares their architecture, such as SmolLM2."""

import mlx.core as mx

from metalchat_engine_mlx.cache import KVCache
from metalchat_engine_mlx.config import LlamaConfig
from metalchat_engine_mlx.device import Blocks, Part
from metalchat_engine_mlx.parameters import Parameters
from metalchat_engine_mlx.rope import Regime


class Llama:
    """A decoder of one sequence at a time. Building it takes the arrays out of `parameters`."""

    def __init__(self, config: LlamaConfig, parameters: Parameters, blocks: Blocks) -> None:
        self.config = config
        self._blocks = blocks
        tied = config.tie_word_embeddings or "lm_head.weight" not in parameters
        self._embed_tokens, head = blocks.embedding(parameters.matrix("model.embed_tokens"), tied=tied)
        self._layers = [Layer(config, parameters, blocks, layer) for layer in range(config.num_hidden_layers)]
        self._norm = blocks.vector(parameters.vector("model.norm.weight"))
        self._lm_head: Part = head if head is not None else blocks.linear([parameters.matrix("lm_head")])
        self._periods: dict[Regime, mx.array] = {}
        mx.eval(self._norm)
        self.nbytes = sum({id(array): array.nbytes for array in self.arrays()}.values())

    def arrays(self) -> list[mx.array]:
        parts = (self._embed_tokens, self._lm_head, *self._layers)
        return [self._norm, *(array for part in parts for array in part.arrays())]

    @property
    def scratch_bytes(self) -> int:
        return self._blocks.scratch_bytes

    def new_cache(self) -> KVCache:
        config = self.config
        return KVCache(layers=config.num_hidden_layers, kv_heads=config.num_key_value_heads, head_dim=config.head_dim)

    def prefill(self, tokens: mx.array, cache: KVCache, regime: Regime) -> None:
        """Write the keys and values of `tokens` [n] to the cache, and evaluate them."""
        self._run(tokens, cache, regime, logits=False)
        mx.eval(cache.arrays())

    def __call__(self, tokens: mx.array, cache: KVCache, regime: Regime) -> mx.array:
        """The logits [vocab_size] after the last of `tokens` [n]; all of them are written to the cache."""
        return self._lm_head(mx.fast.rms_norm(self._run(tokens, cache, regime), self._norm, self.config.rms_norm_eps))[
            0
        ]

    def _run(self, tokens: mx.array, cache: KVCache, regime: Regime, *, logits: bool = True) -> mx.array:
        count = tokens.shape[0]
        cache.reserve(cache.length + count)
        periods = self._periods.get(regime)
        if periods is None:
            # Only a dynamic rope has many regimes, one for each length; none is worth keeping.
            if len(self._periods) > 8:
                self._periods.clear()
            periods = self._periods[regime] = mx.array(self.config.rope.periods(regime), dtype=mx.float32)
        x = self._embed_tokens(tokens)
        last = len(self._layers) - 1
        for index, layer in enumerate(self._layers):
            # Of the last layer nothing is needed but the keys and values, and the state after the last token.
            wanted = count if index < last else int(logits)
            x = layer.step(x, cache, periods, wanted)
        cache.length += count
        return x


class Layer:
    """One transformer layer: attention and feed-forward, each behind an RMS norm and added to its input."""

    def __init__(self, config: LlamaConfig, parameters: Parameters, blocks: Blocks, index: int) -> None:
        name = f"model.layers.{index}"
        self._index = index
        self._eps = config.rms_norm_eps
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._head_dim = config.head_dim
        # The magnitude that yarn and longrope give rotated queries and keys, both of them.
        self._scale = config.head_dim**-0.5 * config.rope.attention_factor**2
        self._attention = blocks.attention
        projections = [parameters.matrix(f"{name}.self_attn.{part}_proj") for part in "qkv"]
        self._qkv_proj = blocks.linear(projections)
        del projections
        self._o_proj = blocks.linear([parameters.matrix(f"{name}.self_attn.o_proj")])
        gate, up, down = (parameters.matrix(f"{name}.mlp.{part}_proj") for part in ("gate", "up", "down"))
        self._mlp = blocks.feed_forward(gate, up, down)
        del gate, up, down
        self._input_layernorm = blocks.vector(parameters.vector(f"{name}.input_layernorm.weight"))
        self._post_attention_layernorm = blocks.vector(parameters.vector(f"{name}.post_attention_layernorm.weight"))
        mx.eval(self.arrays())

    def arrays(self) -> list[mx.array]:
        parts = (self._qkv_proj, self._o_proj, self._mlp)
        norms = [self._input_layernorm, self._post_attention_layernorm]
        return norms + [array for part in parts for array in part.arrays()]

    def step(self, x: mx.array, cache: KVCache, periods: mx.array, wanted: int) -> mx.array:
        """x [n, hidden] to the states of the last `wanted` tokens; the cache gets all n."""
        count, heads, rotated = x.shape[0], self._heads, self._heads + self._kv_heads
        qkv = self._qkv_proj(mx.fast.rms_norm(x, self._input_layernorm, self._eps))
        qkv = qkv.reshape(1, count, rotated + self._kv_heads, self._head_dim).transpose(0, 2, 1, 3)
        turned = mx.fast.rope(
            qkv[:, :rotated],
            self._head_dim,
            traditional=False,
            base=None,
            scale=1.0,
            offset=cache.length,
            freqs=periods,
        )
        keys, values = cache.update(self._index, turned[:, heads:], qkv[:, rotated:])
        if wanted == 0:
            return x
        queries = turned[:, :heads]
        if wanted < count:
            x, queries = x[-wanted:], queries[:, :, -wanted:]
        attended = self._attention(queries, keys, values, self._scale)
        x = x + self._o_proj(attended.transpose(0, 2, 1, 3).reshape(wanted, heads * self._head_dim))
        return x + self._mlp(mx.fast.rms_norm(x, self._post_attention_layernorm, self._eps))
