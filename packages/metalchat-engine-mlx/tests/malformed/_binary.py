"""Random damage to safetensors and GGUF files: to what their headers say, and to their bytes."""

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

from _values import VALUES, bytes_damaged, damaged

_LENGTHS = (0, 1, 7, 8, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
_DTYPES = ("F32", "F16", "BF16", "U8", "U32", "I64", "F64", "F8_E4M3", "F4", "BOOL", "C64", "F128", "", "f32")
_NUMBERS = (0, 1, -1, 2, 3, 64, 65, 2**20, 2**31, 2**32, 2**62, 2**63, 2**64, 10**40)


def damage_safetensors(path: Path, random: Random) -> str:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    kind = random.choice(("length", "header", "header", "header", "json", "cut", "more", "bytes", "numbers"))
    header, buffer = data[8 : 8 + length], data[8 + length :]
    if kind == "length":
        claimed = random.choice((*_LENGTHS, length - 1, length + 1, len(data)))
        path.write_bytes(struct.pack("<Q", claimed) + header + buffer)
        return f"header length {claimed}"
    if kind in ("header", "json"):
        document = json.loads(header)
        if kind == "json":
            header, said = damaged(document, random)
        else:
            said = "; ".join(_tensor_changed(document, random) for _ in range(random.choice((1, 1, 2))))
            header = json.dumps(document).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + buffer)
        return said
    if kind == "cut":
        end = random.choice((0, 1, 8, 8 + length, len(data) - 1, random.randrange(len(data))))
        path.write_bytes(data[:end])
        return f"cut at {end}"
    if kind == "more":
        path.write_bytes(data + bytes(random.choice((1, 8, 4096))))
        return "bytes at the end"
    if kind == "bytes":
        changed, said = bytes_damaged(data[: 8 + length], random)
        path.write_bytes(changed + buffer)
        return f"header {said}"
    return _numbers_damaged(path, data, 8 + length, random)


def damage_gguf(path: Path, random: Random) -> str:
    data = bytearray(path.read_bytes())
    # The header of these files ends well before the weights do; what it is made of is mostly at the beginning.
    end = min(len(data), random.choice((24, 200, 2000, 12_000)))
    kind = random.choice(("flip", "flip", "length", "length", "number", "cut", "counts", "key", "text", "weights"))
    if kind == "flip":
        for _ in range(random.choice((1, 1, 2, 8))):
            data[random.randrange(end)] ^= 1 << random.randrange(8)
    elif kind in ("length", "number"):
        place = random.randrange(4, end - 8)
        form = "<Q" if kind == "length" else "<I"
        value = random.choice((*_LENGTHS, random.randrange(2**16))) & (2**64 - 1 if kind == "length" else 2**32 - 1)
        struct.pack_into(form, data, place, value)
    elif kind == "cut":
        del data[random.choice((0, 3, 4, 24, random.randrange(len(data)))) :]
    elif kind == "counts":
        struct.pack_into("<Q", data, random.choice((8, 16)), random.choice((*_LENGTHS, 5, 100)))
    elif kind == "key":
        return _metadata_changed(path, data, random)
    elif kind == "text":
        words = (b"llama", b"gpt2", b"F32", b"<|im_end|>", b"tokenizer.ggml.tokens", b"{% for", b"rope", b"token_embd")
        word = random.choice(words)
        at = data.find(word)
        if at >= 0:
            data[at : at + len(word)] = random.choice((word.upper(), bytes(len(word)), b"\xff" * len(word)))
    else:
        return _numbers_damaged(path, bytes(data), len(data) // 3, random)
    path.write_bytes(data)
    return kind


def _metadata_changed(path: Path, data: bytearray, random: Random) -> str:
    """A number of the metadata replaced, found by its key."""
    keys = [key for key in _NUMBER_KEYS if key in data]
    if keys:
        key = random.choice(keys)
        at = data.find(key) + len(key)
        kind, *_ = struct.unpack_from("<I", data, at)
        if kind == 6:
            struct.pack_into("<f", data, at + 4, random.choice((0.0, -1.0, 1e38, 1e-38, float("nan"), float("inf"))))
        else:
            struct.pack_into("<I", data, at + 4, random.choice((0, 1, 2, 3, 63, 65, 2**16, 2**31, 2**32 - 1)))
        if random.random() < 0.2:
            struct.pack_into("<I", data, at, random.randrange(14))
    else:
        key = b"nothing"
    path.write_bytes(data)
    return f"value of {key.decode()}"


_NUMBER_KEYS = (
    b"block_count",
    b"context_length",
    b"embedding_length",
    b"feed_forward_length",
    b"attention.head_count",
    b"attention.head_count_kv",
    b"layer_norm_rms_epsilon",
    b"rope.freq_base",
    b"rope.dimension_count",
    b"bos_token_id",
    b"eos_token_id",
    b"attention.key_length",
    b"attention.sliding_window",
    b"add_bos_token",
)


def _numbers_damaged(path: Path, data: bytes, start: int, random: Random) -> str:
    """Weights that are infinite, no numbers, or anything."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 4, 64))):
        at = random.randrange(start, max(len(changed) - 64, start + 1))
        pattern = random.choice((b"\xff" * 32, b"\x00\x00\x80\x7f" * 8, b"\x00\x7c" * 16, random.randbytes(32)))
        changed[at : at + 32] = pattern
    path.write_bytes(changed[: len(data)])
    return "weights"


def _tensor_changed(document: dict[str, Any], random: Random) -> str:
    names = [name for name in document if name != "__metadata__"]
    if not names:
        return "nothing left"
    name = random.choice(names)
    tensor = document[name]
    kind = random.choice(("dtype", "shape", "offsets", "move", "drop", "rename", "extra", "alias", "metadata"))
    if kind == "dtype":
        tensor["dtype"] = random.choice((*_DTYPES, *VALUES[:4]))
    elif kind == "shape":
        shape = list(tensor.get("shape") or [])
        change = random.choice(("number", "number", "transpose", "more", "fewer", "flat"))
        if change == "number" and shape:
            shape[random.randrange(len(shape))] = random.choice(_NUMBERS)
        elif change == "transpose":
            shape.reverse()
        elif change == "more":
            shape.append(random.choice(_NUMBERS))
        elif change == "fewer":
            shape = shape[:-1]
        tensor["shape"] = shape if change != "flat" else [1] * 40
    elif kind == "offsets":
        offsets = list(tensor.get("data_offsets") or [0, 0])
        offsets[random.randrange(len(offsets))] = random.choice(_NUMBERS)
        tensor["data_offsets"] = offsets
    elif kind == "move":
        tensor["data_offsets"] = [number + random.choice((-1, 1, 4, 64)) for number in tensor.get("data_offsets", ())]
    elif kind == "drop":
        del document[name]
    elif kind == "rename":
        document[random.choice((f"{name}x", "", "\x1b[31m", "a" * 2000, name.replace("0", "99")))] = document.pop(name)
    elif kind == "extra":
        document[random.choice(("model.layers.99.x", "lm_head.weight", "rope_freqs"))] = dict(tensor)
    elif kind == "alias":
        document[name] = dict(document[random.choice(names)]) if random.choice(names) in document else None
    else:
        document["__metadata__"] = random.choice(VALUES)
    return f"{kind} of {name[:60]}"
