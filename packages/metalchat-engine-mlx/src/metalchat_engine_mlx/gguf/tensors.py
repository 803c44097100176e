"""Which tensor of a GGUF file is which parameter of a Hugging Face model, and of what shape."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from metalchat_engine import InvalidModel, UnsupportedModel

from metalchat_engine_mlx.config import ExpertsSpec, LayerSpec, LinearSpec, ModelConfig, NormSpec
from metalchat_engine_mlx.gguf._architectures import ARCHITECTURES
from metalchat_engine_mlx.gguf._metadata import text
from metalchat_engine_mlx.gguf._types import AFFINE_BITS, EXPANDED
from metalchat_engine_mlx.gguf.config import LONG_FACTORS, ROPE_FACTORS, config_from_gguf
from metalchat_engine_mlx.gguf.header import GgufHeader, GgufTensor, shown
from metalchat_engine_mlx.models import read_config

GROUP_SIZE: Final = 32
PLAIN: Final = frozenset({"F32", "F16", "BF16"})
MATRICES: Final = (*AFFINE_BITS, *sorted(EXPANDED))
_FACTORS: Final = (ROPE_FACTORS, *LONG_FACTORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One tensor with its place: `module` as Hugging Face names it, `part` is "weight" or "bias".

    `heads` is not 0 where the rows lie in ggml's order of rotary pairs, for that many heads; or, `fused`, where they
    are all queries, keys and values of that many heads, which Hugging Face has head by head. `less` is taken off.
    """

    module: str
    part: str
    tensor: GgufTensor
    heads: int = 0
    fused: bool = False
    less: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.module}.{self.part}"


def parameters(header: GgufHeader) -> tuple[Parameter, ...]:
    """Every parameter of the model, in the order of the layers, checked for presence, shape and type.

    A tensor that the model does not have is refused, as is a bias on some layers only. Raises InvalidModel and
    UnsupportedModel, those of `config_from_gguf` included.
    """
    found = tuple(_expected(header))
    known = {parameter.tensor.name for parameter in found}
    for name in header.tensors:
        if name not in known and name not in _FACTORS and not name.endswith(".attn_rot_embd.weight"):
            kind = header.metadata["general.architecture"]
            raise UnsupportedModel(
                f"'{header.file}' has the tensor '{shown(name)}', which a {kind} model does not have"
            )
    return found


def quantization(header: GgufHeader) -> dict[str, tuple[int, int] | None]:
    """(bits, group size), or None where it is plain once loaded, of every module with a matrix.

    Raises what `parameters` raises, so it also answers whether the file can be loaded.
    """
    return {
        parameter.module: (AFFINE_BITS[kind], GROUP_SIZE) if (kind := parameter.tensor.type) in AFFINE_BITS else None
        for parameter in parameters(header)
        if len(parameter.tensor.shape) > 1
    }


def model_config(header: GgufHeader) -> ModelConfig:
    """The model that the file describes. Raises what `config_from_gguf` raises, and InvalidModel."""
    document = config_from_gguf(header)
    if (document["rope_scaling"] or {}).get("rope_type") == "gguf_factors":
        document["rope_scaling"] = None
    return read_config(document | {"eos_token_id": document["eos_token_id"] or None}, what=header.file)


def _expected(header: GgufHeader) -> Iterator[Parameter]:
    config, architecture = model_config(header), ARCHITECTURES[text(header, "general.architecture")]
    less = 1.0 if architecture.plus_one else 0.0
    embedding = (config.vocab_size, config.hidden_size)
    yield _parameter(header, "token_embd", config.embedding, "weight", embedding)
    for index, layer in enumerate(config.layers):
        block, module = f"blk.{index}.", f"{layer.name}."
        for name, norm in _norms(layer):
            if norm is not None:
                yield _parameter(header, block + name, module + norm.name, "weight", (norm.size,), less=less)
                if norm.bias:
                    yield _parameter(header, block + name, module + norm.name, "bias", (norm.size,))
        attention = layer.attention
        for name, linear in _linears(layer):
            order: dict[str, Any] = {}
            if architecture.pairs and name in ("attn_q", "attn_k"):
                order["heads"] = attention.heads if name == "attn_q" else attention.kv_heads
            elif attention.by_head and name == "attn_qkv":
                order |= {"heads": attention.heads, "fused": True}
            shape = (linear.rows, linear.columns)
            yield _parameter(header, block + name, module + linear.name, "weight", shape, **order)
            # Some writers leave out an output bias of zeros.
            if linear.bias and not (name == "attn_output" and f"{block}{name}.bias" not in header.tensors):
                yield _parameter(header, block + name, module + linear.name, "bias", shape[:1], **order)
        yield from _experts(header, block, layer)
    yield _parameter(header, "output_norm", config.norm.name, "weight", (config.norm.size,), less=less)
    if config.norm.bias:
        yield _parameter(header, "output_norm", config.norm.name, "bias", (config.norm.size,))
    if not config.tie_word_embeddings:
        yield _parameter(header, "output", config.head, "weight", embedding)


def _norms(layer: LayerSpec) -> Iterator[tuple[str, NormSpec | None]]:
    yield "attn_norm", layer.before_attention
    yield "post_attention_norm", layer.after_attention
    yield "ffn_norm", layer.before_feed_forward
    yield "post_ffw_norm", layer.after_feed_forward
    yield "attn_q_norm", layer.attention.query_norm
    yield "attn_k_norm", layer.attention.key_norm


def _linears(layer: LayerSpec) -> Iterator[tuple[str, LinearSpec]]:
    attention, block = layer.attention, layer.feed_forward
    names = ("attn_qkv",) if len(attention.projections) == 1 else ("attn_q", "attn_k", "attn_v")
    yield from zip(names, attention.projections, strict=True)
    yield "attn_output", attention.output
    if isinstance(block, ExpertsSpec):
        yield "ffn_gate_inp", block.router
        return
    for name, linear in (("ffn_gate", block.gate), ("ffn_up", block.fused or block.up), ("ffn_down", block.down)):
        if linear is not None:
            yield name, linear


def _experts(header: GgufHeader, block: str, layer: LayerSpec) -> Iterator[Parameter]:
    experts = layer.feed_forward
    if not isinstance(experts, ExpertsSpec):
        return
    for name, part in (("gate", experts.gate), ("up", experts.up), ("down", experts.down)):
        shape = (experts.count, part.shape.rows, part.shape.columns)
        yield _parameter(header, f"{block}ffn_{name}_exps", f"{layer.name}.{part.shape.name}", "weight", shape)


def _parameter(
    header: GgufHeader, name: str, module: str, part: str, shape: tuple[int, ...], **place: Any
) -> Parameter:
    tensor = header.tensors.get(f"{name}.{part}")
    if tensor is None:
        raise InvalidModel(f"'{header.file}' is not a valid GGUF file: the tensor '{name}.{part}' is missing")
    if tensor.shape != shape:
        raise InvalidModel(
            f"'{header.file}' is not a valid GGUF file: the tensor '{tensor.name}' is "
            f"{_times(tensor.shape)}, expected {_times(shape)}"
        )
    if tensor.type not in PLAIN and not (tensor.type in MATRICES and len(shape) > 1):
        supported = f"F32, F16, BF16, {', '.join(MATRICES[:-1])} and {MATRICES[-1]}"
        supported = supported if len(shape) > 1 else "F32, F16 and BF16"
        raise UnsupportedModel(
            f"'{header.file}': the tensor '{tensor.name}' is of type {tensor.type}; {supported} are supported"
        )
    return Parameter(module=module, part=part, tensor=tensor, **place)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
