"""The model configuration of a GGUF file, in the words of a Hugging Face `config.json`."""

from typing import Any, Final

from metalchat_engine import UnsupportedModel

from metalchat_engine_mlx.gguf._architectures import ARCHITECTURES, Architecture, Said
from metalchat_engine_mlx.gguf._metadata import invalid, real, text, token_id, whole
from metalchat_engine_mlx.gguf.header import GgufHeader, shown

_MAX_LAYERS: Final = 1000
_MAX_HEADS: Final = 4096
_MAX_WIDTH: Final = 2**20
_MAX_CONTEXT: Final = 2**24

ROPE_FACTORS: Final = "rope_freqs.weight"
LONG_FACTORS: Final = ("rope_factors_short.weight", "rope_factors_long.weight")

# What llama.cpp reads for some architecture and would change the result, with the value that changes nothing. Those
# that a family has a meaning for are its own.
_NEUTRAL: Final = {
    "attention.causal": True,
    "attention.scale": 0.0,
    "attention.sliding_window": 0,
    "attn_logit_softcapping": 0.0,
    "embedding_scale": 0.0,
    "expert_count": 0,
    "expert_gating_func": 1,
    "expert_shared_count": 0,
    "expert_used_count": 0,
    "expert_weights_scale": 0.0,
    "final_logit_softcapping": 0.0,
    "logit_scale": 0.0,
    "residual_scale": 0.0,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_ext_factor": 1.0,
    "rope.scaling.yarn_log_multiplier": 0.0,
}


def config_from_gguf(header: GgufHeader) -> dict[str, Any]:
    """The configuration of a model.

    Keys: model_type, architectures, hidden_size, num_hidden_layers, intermediate_size, num_attention_heads,
    num_key_value_heads, head_dim, rms_norm_eps (or what the family calls it), max_position_embeddings, vocab_size (the
    rows of the embedding), rope_theta, rope_scaling, tie_word_embeddings, attention_bias, mlp_bias, bos_token_id (int
    or None), eos_token_id (list: end of sequence, of turn, of message; those the file names), and the family's own.

    rope_scaling is None, {"rope_type": "linear", "factor"}, {"rope_type": "yarn", "factor",
    "original_max_position_embeddings" and, where the file has them, "beta_fast", "beta_slow"}, or
    {"rope_type": "gguf_factors"}: then `load_weights` returns the float32 array "rope_freqs" of head_dim / 2 factors,
    and pair i turns by position * rope_theta ** (-2 i / head_dim) / rope_freqs[i] radians. That is how GGUF carries
    llama3 scaling. A longrope has ones for its factors: those of "rope_freqs", first the short, then the long ones,
    take their place.

    Raises UnsupportedModel for another architecture, for one part of a split model and for what the engine has not
    (sizes that differ by layer, say), InvalidModel for values out of range.
    """
    name = text(header, "general.architecture")
    if name not in ARCHITECTURES:
        supported = ", ".join(f"'{known}'" for known in sorted(ARCHITECTURES))
        raise UnsupportedModel(f"'{header.file}' holds a '{shown(name)}' model; {supported} are supported")
    architecture = ARCHITECTURES[name]
    _refuse_what_differs(header, name, architecture)
    heads = whole(header, f"{name}.attention.head_count", high=_MAX_HEADS)
    kv_heads = whole(header, f"{name}.attention.head_count_kv", high=_MAX_HEADS, default=heads)
    hidden = whole(header, f"{name}.embedding_length", high=_MAX_WIDTH)
    if heads % kv_heads:
        raise invalid(header, f"{heads} attention heads cannot share {kv_heads} key and value heads")
    if f"{name}.attention.key_length" not in header.metadata and hidden % heads:
        raise invalid(header, f"'{name}.embedding_length' {hidden} is not a multiple of {heads} attention heads")
    head_dim = whole(header, f"{name}.attention.key_length", high=_MAX_WIDTH, default=hidden // heads)
    rotated = whole(header, f"{name}.rope.dimension_count", high=_MAX_WIDTH, default=head_dim)
    value_dim = whole(header, f"{name}.attention.value_length", high=_MAX_WIDTH, default=head_dim)
    for key, length, may_differ in (
        ("attention.value_length", value_dim, False),
        ("rope.dimension_count", rotated, architecture.partial is not None and rotated < head_dim),
    ):
        if length != head_dim and not may_differ:
            raise UnsupportedModel(
                f"'{header.file}': '{name}.{key}' is {length}; only the length of an attention head, {head_dim}, is"
                " supported"
            )
    if head_dim % 2 or rotated % 2:
        raise invalid(
            header, f"the length of an attention head is {head_dim if head_dim % 2 else rotated}, which is odd"
        )
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise invalid(header, "it has no two-dimensional tensor 'token_embd.weight'")
    eps = "layer_norm_epsilon" if architecture.eps != "rms_norm_eps" else "layer_norm_rms_epsilon"
    config = {
        "model_type": architecture.model_type,
        "architectures": [architecture.class_name],
        "hidden_size": hidden,
        "num_hidden_layers": whole(header, f"{name}.block_count", high=_MAX_LAYERS),
        "intermediate_size": whole(header, f"{name}.feed_forward_length", high=_MAX_WIDTH),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        architecture.eps: real(header, f"{name}.attention.{eps}", low=0.0, high=1.0),
        "max_position_embeddings": whole(header, f"{name}.context_length", high=_MAX_CONTEXT),
        "vocab_size": embedding.shape[0],
        "rope_theta": real(header, f"{name}.rope.freq_base", low=1.0, high=1e12, default=10000.0),
        "rope_scaling": _rope_scaling(header, name, rotated),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "attention_bias": any(f"blk.0.{part}.bias" in header.tensors for part in ("attn_q", "attn_qkv")),
        "mlp_bias": "blk.0.ffn_up.bias" in header.tensors,
        "bos_token_id": token_id(header, "bos", embedding.shape[0]),
        "eos_token_id": _ends(header, embedding.shape[0]),
    }
    if architecture.partial is not None:
        config[architecture.partial] = rotated / head_dim
    config |= architecture.own(Said(header=header, name=name, config=config))
    return {key: value for key, value in config.items() if key not in architecture.drops}


def _ends(header: GgufHeader, count: int) -> list[int]:
    found = [token_id(header, name, count) for name in ("eos", "eot", "eom")]
    return list(dict.fromkeys(value for value in found if value is not None))


def _refuse_what_differs(header: GgufHeader, name: str, architecture: Architecture) -> None:
    parts = header.metadata.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise UnsupportedModel(
            f"'{header.file}' is one of {parts} parts of a model; join them with llama-gguf-split --merge"
        )
    for key, neutral in _NEUTRAL.items():
        if key not in architecture.keys and header.metadata.get(f"{name}.{key}", neutral) != neutral:
            raise UnsupportedModel(f"'{header.file}' sets '{name}.{key}', which is not supported")


def _rope_scaling(header: GgufHeader, name: str, dims: int) -> dict[str, object] | None:
    kind = text(header, f"{name}.rope.scaling.type", default="linear")
    factor = real(header, f"{name}.rope.scaling.factor", low=0.0, high=1e6, default=0.0)
    if factor == 0.0:
        factor = real(header, f"{name}.rope.scale_linear", low=0.0, high=1e6, default=0.0)  # files of 2023
    scaled = kind != "none" and factor not in (0.0, 1.0)
    long = header.tensors.get(LONG_FACTORS[0])
    if long is not None:
        return _longrope(header, name, dims)
    factors = header.tensors.get(ROPE_FACTORS)
    if factors is not None:
        if scaled:
            raise UnsupportedModel(f"'{header.file}' has both '{ROPE_FACTORS}' and '{shown(kind)}' rope scaling")
        if factors.type != "F32" or factors.shape != (dims // 2,):
            raise invalid(header, f"the tensor '{ROPE_FACTORS}' is not {dims // 2} values of type F32")
        return {"rope_type": "gguf_factors"}
    if kind not in ("none", "linear", "yarn"):
        raise UnsupportedModel(f"'{header.file}' has '{shown(kind)}' rope scaling; 'linear' and 'yarn' are supported")
    if not scaled:
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    trained = whole(header, f"{name}.rope.scaling.original_context_length", high=_MAX_CONTEXT, default=0)
    scaling: dict[str, object] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": trained or whole(header, f"{name}.context_length", high=_MAX_CONTEXT),
    }
    for key in ("beta_fast", "beta_slow"):
        if f"{name}.rope.scaling.yarn_{key}" in header.metadata:
            scaling[key] = real(header, f"{name}.rope.scaling.yarn_{key}", low=0.0, high=1e6)
    return scaling


def _longrope(header: GgufHeader, name: str, dims: int) -> dict[str, object]:
    for key in LONG_FACTORS:
        tensor = header.tensors.get(key)
        if tensor is None or tensor.type != "F32" or tensor.shape != (dims // 2,):
            raise invalid(header, f"the tensor '{key}' is not {dims // 2} values of type F32")
    return {
        "rope_type": "longrope",
        "short_factor": [1.0] * (dims // 2),
        "long_factor": [1.0] * (dims // 2),
        "original_max_position_embeddings": whole(
            header, f"{name}.rope.scaling.original_context_length", high=_MAX_CONTEXT
        ),
        "attention_factor": real(header, f"{name}.rope.scaling.attn_factor", low=1e-3, high=100.0, default=1.0),
    }
