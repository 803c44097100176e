"""What a decoder is made of: the same few parts in every architecture, with the names that the checkpoint gives them.

A family (see `models`) describes itself in these words; the weights are checked against them, and `decoder` runs them.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from metalchat_engine_mlx.quantization import Quantization
from metalchat_engine_mlx.rope import Regime, Rope

Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"]
ACTIVATIONS: tuple[Activation, ...] = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")


# What old versions of transformers saved with the weights.
_CONSTANTS = (".rotary_emb.inv_freq",)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSpec:
    """A linear map of `columns` inputs to `rows` outputs; `name` is that of its module within the layer."""

    name: str
    rows: int
    columns: int
    bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NormSpec:
    """A normalisation of `size` values: RMS times w, RMS times 1 + w, or a layer norm."""

    name: str
    size: int
    eps: float
    kind: Literal["rms", "rms_plus_one", "layer"] = "rms"
    bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """Attention of `heads` that share `kv_heads` keys and values of `head_dim` values each.

    `projections` are three maps, or one whose rows are all queries, keys and values, or, `by_head`, those of one head
    after the other. A `window` lets a token see that many, itself included. `softcap` c makes a score s c tanh(s / c).
    `query_norm` and `key_norm` are of each head, or of all heads together, as their size says. No rope: the positions
    are not told.
    """

    projections: tuple[LinearSpec, ...]
    output: LinearSpec
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | None
    by_head: bool = False
    window: int | None = None
    softcap: float | None = None
    query_norm: NormSpec | None = None
    key_norm: NormSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForwardSpec:
    """down(activation(gate x) * up x), or down(activation(up x)) without a gate; `fused` is gate and up in one map."""

    down: LinearSpec
    activation: Activation
    gate: LinearSpec | None = None
    up: LinearSpec | None = None
    fused: LinearSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertSpec:
    """One map of every expert: `shape.name` is that of all of them stacked, `single` of one, with its number for {}."""

    shape: LinearSpec
    single: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsSpec:
    """`count` feed-forwards, of which the `router` picks `used` for each token and weighs them by its softmax.

    `normalised` weights add up to one.
    """

    router: LinearSpec
    count: int
    used: int
    normalised: bool
    activation: Activation
    gate: ExpertSpec
    up: ExpertSpec
    down: ExpertSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """Attention and feed-forward, each between norms (where it has them) and added to its input.

    `parallel` feed-forwards read the input of the attention instead of the sum. `residual` scales what is added.
    """

    name: str
    attention: AttentionSpec
    feed_forward: FeedForwardSpec | ExpertsSpec
    before_attention: NormSpec | None = None
    after_attention: NormSpec | None = None
    before_feed_forward: NormSpec | None = None
    after_feed_forward: NormSpec | None = None
    parallel: bool = False
    residual: float = 1.0

    def norms(self) -> Iterator[NormSpec]:
        attention = self.attention
        for norm in (
            self.before_attention,
            self.after_attention,
            self.before_feed_forward,
            self.after_feed_forward,
            attention.query_norm,
            attention.key_norm,
        ):
            if norm is not None:
                yield norm

    def linears(self) -> Iterator[LinearSpec]:
        yield from self.attention.projections
        yield self.attention.output
        block = self.feed_forward
        if isinstance(block, ExpertsSpec):
            yield block.router
        else:
            yield from (map_ for map_ in (block.fused, block.gate, block.up, block.down) if map_ is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A model. `embedding` and `head` name modules.

    `other_names` are beginnings of names with what some writers have instead; `passed_over` are beginnings of tensors
    that the text does not need, `ignored` endings of those that hold no weights.

    `logit_scale` multiplies the logits, and `logit_softcap` caps them as `AttentionSpec.softcap` does scores. A model
    that `recomputes` forgets its cache where the rope's periods change with the length of the text.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    layers: tuple[LayerSpec, ...]
    norm: NormSpec
    context_length: int
    embedding: str = "model.embed_tokens"
    head: str = "lm_head"
    tie_word_embeddings: bool = False
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    recomputes: bool = False
    other_names: tuple[Mapping[str, str], ...] = ()
    passed_over: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    eos_token_ids: frozenset[int] = frozenset()
    quantization: Quantization = field(default_factory=Quantization)
    dtype: str | None = None

    @property
    def cache_values_per_token(self) -> int:
        """How many numbers the KV cache holds for each token, until windows drop some."""
        return sum(2 * layer.attention.kv_heads * layer.attention.head_dim for layer in self.layers)

    @property
    def windows(self) -> tuple[int | None, ...]:
        return tuple(layer.attention.window for layer in self.layers)

    def needs(self, tensor: str) -> bool:
        """Whether a tensor is one of the text model's weights, or should be."""
        return not tensor.startswith(self.passed_over) and not tensor.endswith((*_CONSTANTS, *self.ignored))

    def named_as(self, tensors: Collection[str]) -> "ModelConfig":
        """The same model under the names that the checkpoint uses."""
        for names in self.other_names:
            if f"{_renamed(self.embedding, names)}.weight" in tensors:
                return dataclasses.replace(
                    self,
                    embedding=_renamed(self.embedding, names),
                    head=_renamed(self.head, names),
                    norm=dataclasses.replace(self.norm, name=_renamed(self.norm.name, names)),
                    layers=tuple(dataclasses.replace(layer, name=_renamed(layer.name, names)) for layer in self.layers),
                )
        return self

    def ropes(self) -> frozenset[Rope]:
        return frozenset(layer.attention.rope for layer in self.layers if layer.attention.rope is not None)

    def regime(self, length: int) -> Regime:
        """That of the one rope that changes with the length of the text, if there is one."""
        return next((found for rope in self.ropes() if (found := rope.regime(length)) is not None), None)

    def with_factors(self, factors: tuple[float, ...]) -> "ModelConfig":
        """The same model with ropes of these factors: a row for each regime, one after the other."""

        def changed(layer: LayerSpec) -> LayerSpec:
            rope = layer.attention.rope
            if rope is None:
                return layer
            half = rope.dims // 2
            rows = tuple(factors[start : start + half] for start in range(0, len(factors), half))
            rope = dataclasses.replace(rope, factors=rows)
            return dataclasses.replace(layer, attention=dataclasses.replace(layer.attention, rope=rope))

        return dataclasses.replace(self, layers=tuple(map(changed, self.layers)))


def _renamed(name: str, names: Mapping[str, str]) -> str:
    return next((new + name.removeprefix(old) for old, new in names.items() if name.startswith(old)), name)
