"""The model configuration of a GGUF file, in the words of a Hugging Face `config.json`."""

from typing import Any, Final

from metalchat_engine import UnsupportedModel

from metalchat_engine_mlx.gguf._metadata import invalid, real, text, token_id, whole
from metalchat_engine_mlx.gguf.header import GgufHeader, shown

_MAX_LAYERS: Final = 1000
_MAX_HEADS: Final = 4096
_MAX_WIDTH: Final = 2**20
_MAX_CONTEXT: Final = 2**24

ROPE_FACTORS: Final = "rope_freqs.weight"

# What llama.cpp reads for `llama` and would change the result, with the value that changes nothing.
_NEUTRAL: Final = {
    "expert_count": 0,
    "expert_used_count": 0,
    "attention.scale": 0.0,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_ext_factor": 1.0,
    "rope.scaling.yarn_log_multiplier": 0.0,
}


def config_from_gguf(header: GgufHeader) -> dict[str, Any]:
    """The configuration of a `llama` model.

    Keys: model_type, architectures, hidden_size, num_hidden_layers, intermediate_size, num_attention_heads,
    num_key_value_heads, head_dim, rms_norm_eps, max_position_embeddings, vocab_size (the rows of the embedding),
    rope_theta, rope_scaling, tie_word_embeddings, attention_bias, mlp_bias, bos_token_id (int or None), eos_token_id
    (list: end of sequence, of turn, of message; those the file names).

    rope_scaling is None, {"rope_type": "linear", "factor"}, {"rope_type": "yarn", "factor",
    "original_max_position_embeddings" and, where the file has them, "beta_fast", "beta_slow"}, or
    {"rope_type": "gguf_factors"}: then `load_weights` returns the float32 array "rope_freqs" of head_dim / 2 factors,
    and pair i turns by position * rope_theta ** (-2 i / head_dim) / rope_freqs[i] radians. That is how GGUF carries
    llama3 scaling.

    Raises UnsupportedModel for another architecture, for one part of a split model and for what `llama` may have but
    the engine has not (experts, partial rotary embeddings, sizes that differ by layer), InvalidModel for values out of
    range.
    """
    architecture = text(header, "general.architecture")
    if architecture != "llama":
        raise UnsupportedModel(f"'{header.file}' holds a '{shown(architecture)}' model; only 'llama' is supported")
    _refuse_what_differs(header)
    heads = whole(header, "llama.attention.head_count", high=_MAX_HEADS)
    kv_heads = whole(header, "llama.attention.head_count_kv", high=_MAX_HEADS, default=heads)
    hidden = whole(header, "llama.embedding_length", high=_MAX_WIDTH)
    if heads % kv_heads:
        raise invalid(header, f"{heads} attention heads cannot share {kv_heads} key and value heads")
    if "llama.attention.key_length" not in header.metadata and hidden % heads:
        raise invalid(header, f"'llama.embedding_length' {hidden} is not a multiple of {heads} attention heads")
    head_dim = whole(header, "llama.attention.key_length", high=_MAX_WIDTH, default=hidden // heads)
    for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
        length = whole(header, key, high=_MAX_WIDTH, default=head_dim)
        if length != head_dim:
            raise UnsupportedModel(
                f"'{header.file}': '{key}' is {length}; only the length of an attention head, {head_dim}, is supported"
            )
    if head_dim % 2:
        raise invalid(header, f"the length of an attention head is {head_dim}, which is odd")
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise invalid(header, "it has no two-dimensional tensor 'token_embd.weight'")
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "num_hidden_layers": whole(header, "llama.block_count", high=_MAX_LAYERS),
        "intermediate_size": whole(header, "llama.feed_forward_length", high=_MAX_WIDTH),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": real(header, "llama.attention.layer_norm_rms_epsilon", low=0.0, high=1.0),
        "max_position_embeddings": whole(header, "llama.context_length", high=_MAX_CONTEXT),
        "vocab_size": embedding.shape[0],
        "rope_theta": real(header, "llama.rope.freq_base", low=1.0, high=1e12, default=10000.0),
        "rope_scaling": _rope_scaling(header, head_dim),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in header.tensors,
        "bos_token_id": token_id(header, "bos", embedding.shape[0]),
        "eos_token_id": _ends(header, embedding.shape[0]),
    }


def _ends(header: GgufHeader, count: int) -> list[int]:
    found = [token_id(header, name, count) for name in ("eos", "eot", "eom")]
    return list(dict.fromkeys(value for value in found if value is not None))


def _refuse_what_differs(header: GgufHeader) -> None:
    parts = header.metadata.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise UnsupportedModel(
            f"'{header.file}' is one of {parts} parts of a model; join them with llama-gguf-split --merge"
        )
    for key, neutral in _NEUTRAL.items():
        if header.metadata.get(f"llama.{key}", neutral) != neutral:
            raise UnsupportedModel(f"'{header.file}' sets 'llama.{key}', which is not supported")


def _rope_scaling(header: GgufHeader, head_dim: int) -> dict[str, object] | None:
    kind = text(header, "llama.rope.scaling.type", default="linear")
    factor = real(header, "llama.rope.scaling.factor", low=0.0, high=1e6, default=0.0)
    if factor == 0.0:
        factor = real(header, "llama.rope.scale_linear", low=0.0, high=1e6, default=0.0)  # files of 2023
    scaled = kind != "none" and factor not in (0.0, 1.0)
    factors = header.tensors.get(ROPE_FACTORS)
    if factors is not None:
        if scaled:
            raise UnsupportedModel(f"'{header.file}' has both '{ROPE_FACTORS}' and '{shown(kind)}' rope scaling")
        if factors.type != "F32" or factors.shape != (head_dim // 2,):
            raise invalid(header, f"the tensor '{ROPE_FACTORS}' is not {head_dim // 2} values of type F32")
        return {"rope_type": "gguf_factors"}
    if kind not in ("none", "linear", "yarn"):
        raise UnsupportedModel(f"'{header.file}' has '{shown(kind)}' rope scaling; 'linear' and 'yarn' are supported")
    if not scaled:
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    trained = whole(header, "llama.rope.scaling.original_context_length", high=_MAX_CONTEXT, default=0)
    scaling: dict[str, object] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": trained or whole(header, "llama.context_length", high=_MAX_CONTEXT),
    }
    for key in ("beta_fast", "beta_slow"):
        if f"llama.rope.scaling.yarn_{key}" in header.metadata:
            scaling[key] = real(header, f"llama.rope.scaling.yarn_{key}", low=0.0, high=1e6)
    return scaling
