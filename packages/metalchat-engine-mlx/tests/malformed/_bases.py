"""The sound models that the cases are made from: small ones, of different families and formats."""

from pathlib import Path

from metalchat_engine_mlx.testing import write_tiny_model
from metalchat_engine_mlx.testing.gguf import sentencepiece_tokenizer, write_llama
from metalchat_engine_mlx.testing.gguf_families import write_family

GEMMA = {
    "model_type": "gemma3_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "head_dim": 32,
    "query_pre_attn_scalar": 24,
    "sliding_window": 8,
    "sliding_window_pattern": 2,
}
EXPERTS = {
    "model_type": "qwen3_moe",
    "head_dim": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
SAMPLING = {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "do_sample": True, "eos_token_id": [2, 0]}


def write_bases(folder: Path) -> tuple[list[Path], list[Path]]:
    """Model directories, and GGUF files."""
    directories = [
        write_tiny_model(folder / "plain", generation_config=SAMPLING, rope_scaling=YARN),
        write_tiny_model(folder / "packed", bits=4, mixed={"down_proj": 8, "o_proj": 0}, generation_config=SAMPLING),
        write_tiny_model(folder / "sharded", shards=3, dtype="bfloat16", tie_word_embeddings=False),
        write_tiny_model(folder / "windows", dtype="float16", **GEMMA),
        write_tiny_model(folder / "experts", bits=8, stacked=True, **EXPERTS),
        write_tiny_model(folder / "biased", attention_bias=True, mlp_bias=True, generation_config=SAMPLING),
    ]
    files = [
        write_llama(folder / "f32.gguf").path,
        write_llama(folder / "q8.gguf", types="Q8_0", rope_factors=[1.0] * 8).path,
        write_llama(folder / "q4.gguf", types="Q4_1", tokenizer=sentencepiece_tokenizer(), tied=False).path,
        write_family(folder / "gemma.gguf", kind="F16", **GEMMA),
    ]
    return directories, files
