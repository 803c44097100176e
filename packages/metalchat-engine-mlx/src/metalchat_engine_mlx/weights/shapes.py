"""Whether the tensors of a checkpoint are those of the model that its config describes."""

from collections.abc import Iterator, Mapping

from metalchat_engine import InvalidModel, UnsupportedModel

from metalchat_engine_mlx.config import LlamaConfig
from metalchat_engine_mlx.quantization import Packing
from metalchat_engine_mlx.weights.header import Tensor

PLAIN = ("F32", "F16", "BF16")
EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"
# Constants that old versions of transformers saved with the weights.
_IGNORED = (".rotary_emb.inv_freq", ".self_attn.rotary_emb.inv_freq")


def tied(config: LlamaConfig, tensors: Mapping[str, object]) -> bool:
    """Whether the output layer is the embedding: said by the config, or by the absence of its weights."""
    return config.tie_word_embeddings or f"{HEAD}.weight" not in tensors


def check_tensors(config: LlamaConfig, tensors: Mapping[str, Tensor]) -> None:
    """Compare every tensor's name, shape and dtype with the config; nothing has been allocated for them yet.

    Raises:
        InvalidModel: one is missing, or has another shape than the config says.
        UnsupportedModel: one that a Llama does not have, or of a dtype that this engine does not compute in.
    """
    known: set[str] = set()
    for module, shape, bias in _matrices(config, tensors):
        known.add(f"{module}.weight")
        if f"{module}.scales" in tensors:
            known |= {f"{module}.scales", f"{module}.biases"}
            _check_packed(config.quantization.packing(module), tensors, module, shape)
        else:
            _check(tensors, f"{module}.weight", shape, PLAIN)
        if bias:
            known.add(f"{module}.bias")
            _check(tensors, f"{module}.bias", shape[:1], PLAIN)
    for norm in _norms(config):
        known.add(norm)
        _check(tensors, norm, (config.hidden_size,), PLAIN)
    if config.tie_word_embeddings:
        known |= {f"{HEAD}.{part}" for part in ("weight", "scales", "biases")}
    for name in tensors:
        if name not in known and not name.endswith(_IGNORED):
            raise UnsupportedModel(f"the weights have the tensor '{name[:80]}', which this Llama model does not have")


def _matrices(config: LlamaConfig, tensors: Mapping[str, object]) -> Iterator[tuple[str, tuple[int, int], bool]]:
    """Module, (rows, columns) and whether it has a bias."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    yield EMBEDDING, (config.vocab_size, hidden), False
    for layer in range(config.num_hidden_layers):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        yield f"{attention}.q_proj", (queries, hidden), config.attention_bias
        yield f"{attention}.k_proj", (keys, hidden), config.attention_bias
        yield f"{attention}.v_proj", (keys, hidden), config.attention_bias
        yield f"{attention}.o_proj", (hidden, queries), config.attention_bias
        yield f"{mlp}.gate_proj", (inner, hidden), config.mlp_bias
        yield f"{mlp}.up_proj", (inner, hidden), config.mlp_bias
        yield f"{mlp}.down_proj", (hidden, inner), config.mlp_bias
    if not tied(config, tensors):
        yield HEAD, (config.vocab_size, hidden), False


def _norms(config: LlamaConfig) -> Iterator[str]:
    for layer in range(config.num_hidden_layers):
        yield f"model.layers.{layer}.input_layernorm.weight"
        yield f"model.layers.{layer}.post_attention_layernorm.weight"
    yield "model.norm.weight"


def _check_packed(packing: Packing | None, tensors: Mapping[str, Tensor], module: str, shape: tuple[int, int]) -> None:
    if packing is None:
        raise InvalidModel(f"'{module}.scales' is there, but 'quantization' in 'config.json' leaves '{module}' plain")
    rows, columns = shape
    if columns % packing.group_size:
        raise InvalidModel(f"'{module}' has {columns} columns, not a multiple of the group size {packing.group_size}")
    groups = (rows, columns // packing.group_size)
    _check(tensors, f"{module}.weight", (rows, columns * packing.bits // 32), ("U32",))
    _check(tensors, f"{module}.scales", groups, PLAIN)
    _check(tensors, f"{module}.biases", groups, PLAIN)


def _check(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> None:
    tensor = tensors.get(name)
    if tensor is None:
        raise InvalidModel(f"the tensor '{name}' is missing")
    if tensor.dtype not in dtypes:
        wanted = f"{', '.join(dtypes[:-1])} or {dtypes[-1]}" if len(dtypes) > 1 else dtypes[0]
        raise UnsupportedModel(
            f"the tensor '{name}' in '{tensor.file}' has the dtype {tensor.dtype}, expected {wanted}"
        )
    if tensor.shape != shape:
        raise InvalidModel(
            f"the tensor '{name}' in '{tensor.file}' has the shape {list(tensor.shape)}, expected {list(shape)}"
        )
