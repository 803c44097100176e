"""What the configs of all families have in common, and the parts that most of them are built of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from metalchat_engine_mlx.config import (
    ACTIVATIONS,
    Activation,
    AttentionSpec,
    ExpertSpec,
    ExpertsSpec,
    FeedForwardSpec,
    LayerSpec,
    LinearSpec,
    ModelConfig,
    NormSpec,
)
from metalchat_engine_mlx.fields import Fields
from metalchat_engine_mlx.quantization import read_quantization
from metalchat_engine_mlx.rope import Rope

_DTYPES = ("float32", "float16", "bfloat16")
_KINDS = ("full_attention", "sliding_attention")
MAX_POSITIONS = 2**26


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The sizes of a model. `positions` is `max_position_embeddings`, `eps` what its norms add."""

    fields: Fields
    vocab_size: int
    hidden: int
    inner: int
    count: int
    heads: int
    kv_heads: int
    head_dim: int
    positions: int
    eps: float

    def norm(self, name: str, size: int | None = None) -> NormSpec:
        """An RMS norm."""
        return NormSpec(name=name, size=size or self.hidden, eps=self.eps)

    def linear(self, name: str, rows: int, columns: int, *, bias: bool = False) -> LinearSpec:
        return LinearSpec(name=name, rows=rows, columns=columns, bias=bias)

    def attention(
        self, *, rope: Rope | None, bias: bool = False, output_bias: bool | None = None, **more: Any
    ) -> AttentionSpec:
        """Attention with a map each for queries, keys and values; `more` goes to the spec."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        values: dict[str, Any] = {
            "projections": tuple(
                self.linear(f"self_attn.{part}_proj", rows, self.hidden, bias=bias)
                for part, rows in (("q", queries), ("k", keys), ("v", keys))
            ),
            "output": self.linear(
                "self_attn.o_proj", self.hidden, queries, bias=bias if output_bias is None else output_bias
            ),
            "scale": self.head_dim**-0.5,
        }
        return AttentionSpec(
            heads=self.heads, kv_heads=self.kv_heads, head_dim=self.head_dim, rope=rope, **(values | more)
        )

    def gated(self, activation: Activation, *, bias: bool = False) -> FeedForwardSpec:
        return FeedForwardSpec(
            gate=self.linear("mlp.gate_proj", self.inner, self.hidden, bias=bias),
            up=self.linear("mlp.up_proj", self.inner, self.hidden, bias=bias),
            down=self.linear("mlp.down_proj", self.hidden, self.inner, bias=bias),
            activation=activation,
        )

    def layers(self, layer: Callable[[int], LayerSpec]) -> tuple[LayerSpec, ...]:
        return tuple(layer(index) for index in range(self.count))

    def model(self, layers: Sequence[LayerSpec], *, tied: bool = False, **more: Any) -> ModelConfig:
        """The whole; `tied` is what `tie_word_embeddings` means where it is missing, `more` goes to the config."""
        fields = self.fields
        dtype = fields.document.get("torch_dtype", fields.document.get("dtype"))
        rope = next((layer.attention.rope for layer in layers if layer.attention.rope is not None), None)
        values: dict[str, Any] = {
            "norm": self.norm("model.norm"),
            "context_length": rope.context_length(self.positions) if rope is not None else self.positions,
        }
        return ModelConfig(
            model_type=str(fields.document["model_type"]),
            vocab_size=self.vocab_size,
            hidden_size=self.hidden,
            layers=tuple(layers),
            tie_word_embeddings=fields.flag("tie_word_embeddings", tied),
            eos_token_ids=fields.ids("eos_token_id", self.vocab_size),
            quantization=read_quantization(fields),
            dtype=dtype if dtype in _DTYPES else None,
            **(values | more),
        )


def read_base(
    fields: Fields,
    *,
    eps_key: str = "rms_norm_eps",
    eps: float = 1e-6,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    positions: int = 2048,
) -> Base:
    """The sizes, each in the range that a real model can have; the arguments are a family's own defaults."""
    hidden = fields.integer("hidden_size", 1, 65536)
    heads = fields.integer("num_attention_heads", 1, 1024)
    shared = kv_heads if kv_heads is not None and "num_key_value_heads" not in fields.document else heads
    kv_heads = fields.integer("num_key_value_heads", 1, heads, default=shared)
    if heads % kv_heads:
        fields.refuse("num_key_value_heads", kv_heads, f"a divisor of 'num_attention_heads', which is {heads}")
    if fields.document.get("head_dim") is None and head_dim is None and hidden % heads:
        fields.refuse("num_attention_heads", heads, f"a divisor of 'hidden_size', which is {hidden}")
    head_dim = fields.integer("head_dim", 2, 1024, default=head_dim or hidden // heads)
    if head_dim % 2:
        fields.refuse("head_dim", head_dim, "an even number")
    return Base(
        fields=fields,
        vocab_size=fields.integer("vocab_size", 1, 2**20),
        hidden=hidden,
        inner=fields.integer("intermediate_size", 1, 2**20),
        count=fields.integer("num_hidden_layers", 1, 1000),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        positions=fields.integer("max_position_embeddings", 1, MAX_POSITIONS, default=positions),
        eps=fields.number(eps_key, 1e-12, 1.0, default=eps),
    )


def read_activation(fields: Fields, key: str = "hidden_act", default: Activation = "silu") -> Activation:
    """The activation of the feed-forward; raises UnsupportedModel for one that is not known."""
    return cast(Activation, fields.choice(key, ACTIVATIONS, default))


def read_windows(
    fields: Fields, base: Base, slides: Callable[[int], bool], *, default: int | None = None
) -> tuple[int | None, ...]:
    """The window of every layer, None where it sees everything: as `layer_types` says, or else `slides`.

    Layers slide by `sliding_window` tokens, or the family's `default`.
    """
    kinds = fields.document.get("layer_types")
    if kinds is None:
        kinds = [_KINDS[slides(index)] for index in range(base.count)]
    elif not isinstance(kinds, list) or len(kinds) != base.count:
        fields.refuse("layer_types", kinds, f"a list of {base.count} kinds of attention")
    for kind in kinds:
        if kind not in _KINDS:
            fields.unsupported("layer_types", kind, " and ".join(_KINDS))
    if "sliding_attention" not in kinds:
        return (None,) * base.count
    window = fields.integer("sliding_window", 1, MAX_POSITIONS, default)
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def read_window(fields: Fields) -> int | None:
    """`sliding_window` where all layers have the same, None where it is null or missing."""
    if fields.document.get("sliding_window") is None:
        return None
    return fields.integer("sliding_window", 1, MAX_POSITIONS)


def read_late_windows(fields: Fields, base: Base) -> tuple[int | None, ...]:
    """Those of Qwen: with `use_sliding_window`, the layers from `max_window_layers` on have one."""
    if not fields.flag("use_sliding_window", False):
        kinds = fields.document.get("layer_types")
        if isinstance(kinds, list) and "sliding_attention" in kinds:
            fields.refuse("use_sliding_window", False, "true where 'layer_types' has sliding_attention")
        return (None,) * base.count
    first = fields.integer("max_window_layers", 0, 1000, default=28)
    return read_windows(fields, base, lambda index: index >= first, default=4096)


def read_experts(
    base: Base,
    block: str,
    *,
    names: Mapping[str, str],
    count: int,
    used: int,
    inner: int,
    normalised: bool,
    activation: Activation,
) -> ExpertsSpec:
    """Experts in the module `block`; `names` are those that gate, up and down have in each expert.

    MLX stacks them in a module `switch_mlp`. `used` is the family's own `num_experts_per_tok`.
    """

    def part(name: str, rows: int, columns: int) -> ExpertSpec:
        return ExpertSpec(
            shape=base.linear(f"{block}.switch_mlp.{name}_proj", rows, columns),
            single=f"{block}.experts.{{}}.{names[name]}",
        )

    return ExpertsSpec(
        router=base.linear(f"{block}.gate", count, base.hidden),
        count=count,
        used=base.fields.integer("num_experts_per_tok", 1, count, default=min(used, count)),
        normalised=normalised,
        activation=activation,
        gate=part("gate", inner, base.hidden),
        up=part("up", inner, base.hidden),
        down=part("down", base.hidden, inner),
    )


def read_softcap(fields: Fields, key: str, default: float | None = None) -> float | None:
    """A cap of scores or logits; null is none, and a missing key the family's default."""
    if key not in fields.document:
        return default
    return None if fields.document[key] is None else fields.number(key, 1e-3, 1e6)


def pre_norm(
    base: Base,
    index: int,
    attention: AttentionSpec,
    feed_forward: Any,
    *,
    kind: Literal["rms", "layer"] = "rms",
    residual: float = 1.0,
) -> LayerSpec:
    """A layer as Llama has them: a norm before the attention, and one before the feed-forward."""

    def norm(name: str) -> NormSpec:
        return NormSpec(name=name, size=base.hidden, eps=base.eps, kind=kind, bias=kind == "layer")

    return LayerSpec(
        name=f"model.layers.{index}",
        attention=attention,
        feed_forward=feed_forward,
        before_attention=norm("input_layernorm"),
        before_feed_forward=norm("post_attention_layernorm"),
        residual=residual,
    )
