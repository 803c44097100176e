"""Small GGUF files for tests: a writer, ggml's simple quantisations in numpy, and seeded Llama checkpoints."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from metalchat_engine_mlx.gguf._types import GGML_TYPES

Floats = NDArray[np.float32]
Value = bool | int | float | str | Sequence[str] | Sequence[int] | Sequence[float]

TYPES: Final = {kind.name: number for number, kind in GGML_TYPES.items()}
SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The bytes of a tensor: its GGUF type, its shape (rows first), its data."""

    type: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaFile:
    """A written checkpoint: `metadata` as in the file, `weights` by Hugging Face name, float32, as they come back."""

    path: Path
    metadata: Mapping[str, Value]
    weights: Mapping[str, Floats]


def encode(values: Floats, kind: str) -> Stored:
    """Store an array as F32, F16, BF16, Q8_0, Q4_0 or Q4_1, rounding as ggml's reference quantisers do."""
    values = np.ascontiguousarray(values, np.float32)
    if kind == "F32":
        data = values.tobytes()
    elif kind == "F16":
        data = values.astype("<f2").tobytes()
    elif kind == "BF16":
        bits = values.view(np.uint32)
        data = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    else:
        data = _quantised(values.reshape(-1, 32), kind)
    return Stored(type=kind, shape=values.shape, data=data)


def decode(stored: Stored) -> Floats:
    """The float32 values that ggml's definition gives to stored bytes."""
    if stored.type == "F32":
        flat = np.frombuffer(stored.data, "<f4").astype(np.float32)
    elif stored.type == "F16":
        flat = np.frombuffer(stored.data, "<f2").astype(np.float32)
    elif stored.type == "BF16":
        flat = (np.frombuffer(stored.data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        flat = _dequantised(stored.data, stored.type)
    return flat.reshape(stored.shape)


def _quantised(blocks: Floats, kind: str) -> bytes:
    rows = np.arange(len(blocks))
    if kind == "Q8_0":
        scale = np.abs(blocks).max(axis=1) / 127
        inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
        quants = np.rint(blocks * inverse[:, None]).astype(np.int8)
        return b"".join(struct.pack("<e", d) + q.tobytes() for d, q in zip(scale, quants, strict=True))
    if kind == "Q4_0":
        largest = blocks[rows, np.abs(blocks).argmax(axis=1)]
        scale, low, minimum = largest / -8, np.float32(8.5), None
    else:
        minimum = blocks.min(axis=1)
        scale, low = (blocks.max(axis=1) - minimum) / 15, np.float32(0.5)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    shifted = blocks if minimum is None else blocks - minimum[:, None]
    quants = np.clip(np.floor(shifted * inverse[:, None] + low), 0, 15).astype(np.uint8)
    packed = quants[:, :16] | (quants[:, 16:] << 4)
    heads = [struct.pack("<e", d) for d in scale]
    if minimum is not None:
        heads = [head + struct.pack("<e", m) for head, m in zip(heads, minimum, strict=True)]
    return b"".join(head + q.tobytes() for head, q in zip(heads, packed, strict=True))


def _dequantised(data: bytes, kind: str) -> Floats:
    length = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}[kind]
    blocks = np.frombuffer(data, np.uint8).reshape(-1, length)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    if kind == "Q8_0":
        return blocks[:, 2:].copy().view(np.int8).astype(np.float32) * scale
    packed = blocks[:, length - 16 :]
    quants = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)
    if kind == "Q4_0":
        return (quants - 8) * scale
    return quants * scale + blocks[:, 2:4].copy().view("<f2").astype(np.float32)


def gguf_bytes(
    metadata: Mapping[str, Value], tensors: Mapping[str, Stored], *, version: int = 3, alignment: int = 32
) -> bytes:
    """A whole file. Numbers become uint32 or float32, lists arrays of int32, float32 or strings."""
    head = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(metadata))]
    head += [_string(key) + _value(value) for key, value in metadata.items()]
    data = bytearray()
    for name, tensor in tensors.items():
        data += bytes(-len(data) % alignment)
        head.append(_string(name) + struct.pack("<I", len(tensor.shape)))
        head.append(struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape[::-1]))
        head.append(struct.pack("<IQ", TYPES[tensor.type], len(data)))
        data += tensor.data
    header = b"".join(head)
    return header + bytes(-len(header) % alignment) + bytes(data)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if not value or isinstance(value[0], str):
        kind, code = 8, ""
    else:
        kind, code = (5, "i") if isinstance(value[0], int) else (6, "f")
    head = struct.pack("<IIQ", 9, kind, len(value))
    if kind == 8:
        return head + b"".join(_string(str(item)) for item in value)
    return head + struct.pack(f"<{len(value)}{code}", *value)


def byte_characters() -> list[str]:
    """The 256 characters that stand for bytes in byte-level vocabularies, by byte (GPT-2's `bytes_to_unicode`)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = (byte for byte in range(256) if byte not in visible)
    table = {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    return [table[byte] for byte in range(256)]


def byte_level_tokenizer(
    merges: Sequence[str] = ("h e", "l l", "he ll", "hell o", "Ġ w"), pre: str = "gpt-2"
) -> dict[str, Value]:
    """Metadata of a byte-level tokenizer: SPECIAL, the 256 bytes, and what the merges make."""
    tokens = [*SPECIAL, *byte_characters(), *(merge.replace(" ", "") for merge in merges)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in tokens],
        "tokenizer.ggml.merges": list(merges),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }


def sentencepiece_tokenizer(pieces: Sequence[str] = ("▁h", "el", "lo", "ello", "▁hello", "▁w")) -> dict[str, Value]:
    """Metadata of a SentencePiece BPE tokenizer: <unk>, <s>, </s>, 256 bytes, the pieces, their characters, SPECIAL."""
    characters = sorted({character for piece in pieces for character in piece})
    head = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    normal = [*pieces, *(character for character in characters if character not in pieces)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [*head, *normal, *SPECIAL],
        "tokenizer.ggml.scores": [0.0] * len(head) + [-float(i) for i in range(len(normal))] + [0.0] * len(SPECIAL),
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(normal) + [3] * len(SPECIAL),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": TEMPLATE,
    }


def write_llama(
    path: Path,
    *,
    types: str | Mapping[str, str] = "F32",
    seed: int = 0,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    intermediate: int = 96,
    tied: bool = True,
    biases: bool = False,
    rope_factors: Sequence[float] | None = None,
    tokenizer: Mapping[str, Value] | None = None,
    metadata: Mapping[str, Value] | None = None,
) -> LlamaFile:
    """Write a Llama model of random weights.

    `types` is the type of all matrices, or of some: by Hugging Face name or the end of one ("q_proj.weight"), "" for
    the others; norms and biases are F32. `metadata` adds to or replaces what the file says.
    """
    tokenizer = byte_level_tokenizer() if tokenizer is None else tokenizer
    tokens: Any = tokenizer["tokenizer.ggml.tokens"]
    head_dim = hidden // heads
    said: dict[str, Value] = {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.block_count": layers,
        "llama.context_length": 512,
        "llama.embedding_length": hidden,
        "llama.feed_forward_length": intermediate,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": head_dim,
        **tokenizer,
        **(metadata or {}),
    }
    random = np.random.default_rng(seed)
    tensors: dict[str, Stored] = {}
    weights: dict[str, Floats] = {}

    def add(name: str, hf_name: str, *shape: int, rotated: int = 0) -> None:
        values: Floats = random.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5)
        if hf_name.endswith("norm.weight"):
            values = values + np.float32(1)
        kind = _type_of(hf_name, types) if len(shape) == 2 else "F32"
        stored = encode(values, kind)
        weights[hf_name] = decode(stored)
        tensors[name] = encode(_interleaved(values, rotated), kind) if rotated else stored

    add("token_embd.weight", "model.embed_tokens.weight", len(tokens), hidden)
    matrices = {
        "attn_q": ("self_attn.q_proj", heads * head_dim, hidden, heads),
        "attn_k": ("self_attn.k_proj", kv_heads * head_dim, hidden, kv_heads),
        "attn_v": ("self_attn.v_proj", kv_heads * head_dim, hidden, 0),
        "attn_output": ("self_attn.o_proj", hidden, heads * head_dim, 0),
        "ffn_gate": ("mlp.gate_proj", intermediate, hidden, 0),
        "ffn_up": ("mlp.up_proj", intermediate, hidden, 0),
        "ffn_down": ("mlp.down_proj", hidden, intermediate, 0),
    }
    for layer in range(layers):
        block, module = f"blk.{layer}.", f"model.layers.{layer}."
        add(f"{block}attn_norm.weight", f"{module}input_layernorm.weight", hidden)
        add(f"{block}ffn_norm.weight", f"{module}post_attention_layernorm.weight", hidden)
        for name, (hf_name, rows, columns, rotated) in matrices.items():
            add(f"{block}{name}.weight", f"{module}{hf_name}.weight", rows, columns, rotated=rotated)
            if biases:
                add(f"{block}{name}.bias", f"{module}{hf_name}.bias", rows, rotated=rotated)
    add("output_norm.weight", "model.norm.weight", hidden)
    if not tied:
        add("output.weight", "lm_head.weight", len(tokens), hidden)
    if rope_factors is not None:
        tensors["rope_freqs.weight"] = encode(np.array(rope_factors, np.float32), "F32")
    path.write_bytes(gguf_bytes(said, tensors))
    return LlamaFile(path=path, metadata=said, weights=weights)


def _type_of(name: str, types: str | Mapping[str, str]) -> str:
    if isinstance(types, str):
        return types
    return next((kind for end, kind in types.items() if end and name.endswith(end)), types.get("", "F32"))


def _interleaved(values: Floats, heads: int) -> Floats:
    """Rows in ggml's order: the two values that a rotary pair turns lie next to each other."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(values.shape)
