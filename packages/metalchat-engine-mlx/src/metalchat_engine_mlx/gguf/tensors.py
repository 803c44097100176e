"""Which tensor of a `llama` GGUF file is which parameter of a Hugging Face Llama model, and of what shape."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from metalchat_engine import InvalidModel, UnsupportedModel

from metalchat_engine_mlx.gguf.config import ROPE_FACTORS, config_from_gguf
from metalchat_engine_mlx.gguf.header import GgufHeader, GgufTensor, shown

GROUP_SIZE: Final = 32
BITS: Final = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8}
PLAIN: Final = frozenset({"F32", "F16", "BF16"})

_LINEAR: Final = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NORMS: Final = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One tensor with its place: `module` as Hugging Face names it, `part` is "weight" or "bias".

    `heads` is not 0 where the rows lie in ggml's order of rotary pairs, for that many heads.
    """

    module: str
    part: str
    tensor: GgufTensor
    heads: int = 0


def parameters(header: GgufHeader) -> tuple[Parameter, ...]:
    """Every parameter of the model, in the order of the layers, checked for presence, shape and type.

    A tensor that the model does not have is refused, as is a bias on some layers only. Raises InvalidModel and
    UnsupportedModel, those of `config_from_gguf` included.
    """
    found = tuple(_expected(header))
    known = {parameter.tensor.name for parameter in found}
    for name in header.tensors:
        if name not in known and name != ROPE_FACTORS and not name.endswith(".attn_rot_embd.weight"):
            raise UnsupportedModel(f"'{header.file}' has the tensor '{shown(name)}', which a Llama model does not have")
    return found


def quantization(header: GgufHeader) -> dict[str, tuple[int, int] | None]:
    """(bits, group size), or None where it is plain, of every module with a matrix ("model.layers.0.mlp.up_proj").

    Raises what `parameters` raises, so it also answers whether the file can be loaded.
    """
    return {
        parameter.module: (BITS[parameter.tensor.type], GROUP_SIZE) if parameter.tensor.type in BITS else None
        for parameter in parameters(header)
        if len(parameter.tensor.shape) == 2
    }


def _expected(header: GgufHeader) -> Iterator[Parameter]:
    config = config_from_gguf(header)
    hidden, inner, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    shapes = {
        "attn_q": (heads * head_dim, hidden),
        "attn_k": (kv_heads * head_dim, hidden),
        "attn_v": (kv_heads * head_dim, hidden),
        "attn_output": (hidden, heads * head_dim),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }
    biased = {name for name in shapes if config["attention_bias" if name.startswith("attn") else "mlp_bias"]}
    rotated = {"attn_q": heads, "attn_k": kv_heads}
    embedding = (config["vocab_size"], hidden)
    yield _parameter(header, "token_embd", "model.embed_tokens", "weight", embedding)
    for layer in range(config["num_hidden_layers"]):
        block, module = f"blk.{layer}.", f"model.layers.{layer}."
        for name, norm in _NORMS.items():
            yield _parameter(header, block + name, module + norm, "weight", (hidden,))
        for name, shape in shapes.items():
            yield _parameter(header, block + name, module + _LINEAR[name], "weight", shape, rotated.get(name, 0))
            if name in biased and not (name == "attn_output" and f"{block}{name}.bias" not in header.tensors):
                yield _parameter(header, block + name, module + _LINEAR[name], "bias", shape[:1], rotated.get(name, 0))
    yield _parameter(header, "output_norm", "model.norm", "weight", (hidden,))
    if not config["tie_word_embeddings"]:
        yield _parameter(header, "output", "lm_head", "weight", embedding)


def _parameter(
    header: GgufHeader, name: str, module: str, part: str, shape: tuple[int, ...], heads: int = 0
) -> Parameter:
    tensor = header.tensors.get(f"{name}.{part}")
    if tensor is None:
        raise InvalidModel(f"'{header.file}' is not a valid GGUF file: the tensor '{name}.{part}' is missing")
    if tensor.shape != shape:
        raise InvalidModel(
            f"'{header.file}' is not a valid GGUF file: the tensor '{tensor.name}' is "
            f"{_times(tensor.shape)}, expected {_times(shape)}"
        )
    if tensor.type not in PLAIN and not (tensor.type in BITS and len(shape) == 2):
        supported = "F32, F16, BF16, Q8_0, Q4_0 and Q4_1" if len(shape) == 2 else "F32, F16 and BF16"
        raise UnsupportedModel(
            f"'{header.file}': the tensor '{tensor.name}' is of type {tensor.type}; {supported} are supported"
        )
    return Parameter(module=module, part=part, tensor=tensor, heads=heads)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
