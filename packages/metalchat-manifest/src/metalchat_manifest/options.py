"""The options of a model's own config.json that may be overridden, and their types."""

from collections.abc import Mapping

from metalchat_manifest._nearest import nearest
from metalchat_manifest._text import quoted
from metalchat_manifest.errors import InvalidSetting, UnknownOption
from metalchat_manifest.values import TYPE_NAMES, Value, describe, from_text, is_value

KNOWN_OPTIONS: Mapping[str, type[Value]] = {
    # size and shape
    "hidden_size": int,
    "intermediate_size": int,
    "num_hidden_layers": int,
    "num_attention_heads": int,
    "num_key_value_heads": int,
    "head_dim": int,
    "vocab_size": int,
    "max_position_embeddings": int,
    "sliding_window": int,
    "max_window_layers": int,
    "sliding_window_pattern": int,
    "no_rope_layer_interval": int,
    # arithmetic
    "rms_norm_eps": float,
    "layer_norm_eps": float,
    "norm_epsilon": float,
    "hidden_act": str,
    "hidden_activation": str,
    "rope_theta": float,
    "rope_local_base_freq": float,
    "rope_traditional": bool,
    "partial_rotary_factor": float,
    "rotary_pct": float,
    "rotary_emb_base": float,
    "attention_bias": bool,
    "attention_dropout": float,
    "mlp_bias": bool,
    "use_bias": bool,
    "use_parallel_residual": bool,
    "tie_word_embeddings": bool,
    "use_sliding_window": bool,
    "query_pre_attn_scalar": float,
    "attn_logit_softcapping": float,
    "final_logit_softcapping": float,
    "logits_scaling": float,
    "logit_scale": float,
    "embedding_multiplier": float,
    "residual_multiplier": float,
    "attention_multiplier": float,
    "original_max_position_embeddings": int,
    # experts
    "num_local_experts": int,
    "num_experts": int,
    "num_experts_per_tok": int,
    "moe_intermediate_size": int,
    "norm_topk_prob": bool,
    "decoder_sparse_step": int,
    # tokens
    "bos_token_id": int,
    "eos_token_id": int,
    "pad_token_id": int,
    # the rest of what such a file says
    "model_type": str,
    "torch_dtype": str,
    "dtype": str,
    "initializer_range": float,
    "pretraining_tp": int,
    "use_cache": bool,
    "transformers_version": str,
}
"""Scalar keys that the config.json of Llama and its relatives (Mistral, Qwen, Phi, Gemma) have."""

EXPECTED: Mapping[type[Value], str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
}
"""What a value of each type is, with an article."""

_SIGNED = frozenset({"bos_token_id", "eos_token_id", "pad_token_id", "sliding_window"})  # -1 says "none" in some files


def parse_option(name: str, text: str, type_name: str | None = None) -> Value:
    """The value that `text` means for option `name`.

    The type is that of the known option. `type_name` (bool, int, float or str) says it for an option that is not
    known; for a known one it must agree. Raises UnknownOption, or InvalidSetting where the text is not of the type.
    """
    if type_name is not None and type_name not in TYPE_NAMES:
        raise InvalidSetting(f"'{type_name}' is not a type of an option; the types are {', '.join(TYPE_NAMES)}")
    kind = TYPE_NAMES[type_name] if type_name is not None else KNOWN_OPTIONS.get(name)
    if kind is None:
        raise UnknownOption(unknown_option(name), key=f"options.{name}")
    value = from_text(text, kind)
    if value is None:
        problem: str | None = f"is {quoted(text)}, expected {EXPECTED[kind]}"
    else:
        problem = option_problem(name, value)
    if problem is not None or value is None:
        raise InvalidSetting(f"the option '{name}' {problem}", key=f"options.{name}")
    return value


def unknown_option(name: str) -> str:
    """One sentence that says that there is no such option, with the nearest known one."""
    close = nearest(name, KNOWN_OPTIONS)
    hint = f"; did you mean '{close}'?" if close else ". Say its type (bool, int, float or str) to set it all the same"
    return f"'{name[:80]}' is not a known option{hint}"


def option_problem(name: str, value: object) -> str | None:
    """What is wrong with `value` for option `name`, as the end of a sentence; None when nothing is.

    A known option has its known type, an integer being accepted where a float is meant; another one any.
    """
    if not isinstance(value, bool | int | float | str):
        return f"is {describe(value)}, expected a boolean, an integer, a number or a string"
    if not is_value(value):
        return "is not finite" if isinstance(value, float) else "is too large"
    kind = KNOWN_OPTIONS.get(name)
    if kind is None:
        return None
    if type(value) is not kind and not (kind is float and type(value) is int):
        return f"is {describe(value)}, expected {EXPECTED[kind]}"
    if isinstance(value, int | float) and value < 0 and name not in _SIGNED:
        return f"is {value}, expected {EXPECTED[kind]} that is not negative"
    return None
