"""Meta's `tokenizer.model` of Llama 3, a list of byte strings by rank, as a Hugging Face `tokenizer.json`.

Each line is a token in base64 and its rank. Text is cut by a pattern; within a cut, of all neighbours whose
concatenation is a token, those with the lowest rank are joined first. The merges of `tokenizer.json` say the same as
pairs: all ways to put a token together from two, in the order of the ranks.
"""

import base64
import binascii
import json

from metalchat_store.errors import NotAModel

LIMIT = 32 << 20
_MAX_TOKENS = 1 << 20
_MAX_TOKEN = 1024  # bytes
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BEGIN = "<|begin_of_text|>"
_FIRST = {
    "llama3": {6: "start_header_id", 7: "end_header_id", 9: "eot_id"},
    "llama3_1": {
        4: "finetune_right_pad_id",
        5: "step_id",
        6: "start_header_id",
        7: "end_header_id",
        8: "eom_id",
        9: "eot_id",
        10: "python_tag",
    },
}
_FEWEST = 11


def read_ranks(data: bytes) -> list[bytes]:
    """The tokens of a `tokenizer.model` in the order of their ranks. Raises `NotAModel`."""
    if len(data) > LIMIT:
        raise NotAModel(f"'tokenizer.model' is larger than {LIMIT >> 20} MiB")
    lines = data.splitlines()
    if len(lines) > _MAX_TOKENS:
        raise NotAModel(f"'tokenizer.model' has more than {_MAX_TOKENS:,} tokens")
    tokens: list[bytes] = []
    for number, line in enumerate(lines):
        text, _, rank = line.partition(b" ")
        try:
            token = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            token = b""
        if rank != str(number).encode() or not 0 < len(token) <= _MAX_TOKEN:
            raise NotAModel(f"'tokenizer.model' is not a list of tokens by rank (line {number + 1})")
        tokens.append(token)
    known = set(tokens)
    if len(known) != len(tokens) or any(bytes([byte]) not in known for byte in range(256)):
        raise NotAModel("'tokenizer.model' lacks a byte, or has a token twice")
    return tokens


def special_tokens(count: int, release: str) -> list[str]:
    """The names of the `count` tokens after the ranked ones. `release`: `llama3`, or `llama3_1` for all later ones."""
    if not _FEWEST <= count <= 1 << 16:
        raise NotAModel(f"the embedding has {count:,} rows beyond 'tokenizer.model', expected {_FEWEST} to 65,536")
    names = ["begin_of_text", "end_of_text"]
    reserved = 0
    while len(names) < count:
        name = _FIRST[release].get(len(names))
        if name is None:
            name, reserved = f"reserved_special_token_{reserved}", reserved + 1
        names.append(name)
    return [f"<|{name}|>" for name in names]


def tokenizer_json(tokens: list[bytes], special: list[str]) -> bytes:
    """The `tokenizer.json`; special tokens follow the others, and a text begins with the first of them."""
    shown = _visible()
    written = ["".join(map(shown.__getitem__, token)) for token in tokens]
    first = len(tokens)
    added = [
        {
            "id": first + number,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number, name in enumerate(special)
    ]
    split = {"type": "Split", "pattern": {"Regex": _SPLIT}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    begin = {"SpecialToken": {"id": special[0], "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}}, begin, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {special[0]: {"id": special[0], "ids": [first], "tokens": [special[0]]}},
    }
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": {"type": "Sequence", "processors": [byte_level | {"use_regex": True}, template]},
        "decoder": byte_level | {"add_prefix_space": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {text: rank for rank, text in enumerate(written)},
            "merges": _merges(tokens, written),
        },
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _merges(tokens: list[bytes], written: list[str]) -> list[str]:
    """Every way to make a token of two others, by the token's rank, then by the ranks of the two."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    found: list[str] = []
    for token in tokens:
        ways = []
        for cut in range(1, len(token)):
            left, right = ranks.get(token[:cut]), ranks.get(token[cut:])
            if left is not None and right is not None:
                ways.append((left, right))
        found += [f"{written[left]} {written[right]}" for left, right in sorted(ways)]
    return found


def _visible() -> dict[int, str]:
    """A character for every byte: itself where it is a visible one of Latin-1, else one from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in visible)
    table = {byte: chr(0x100 + place) for place, byte in enumerate(others)}
    return table | {byte: chr(byte) for byte in visible}
