"""Tiny tokenizers and templates for tests, made on the spot, the same every time; and outputs made comparable."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metalchat_prompt.parser import OutputEvent

LLAMA3_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML_MARKUP = ("<think>", "</think>", "<tool_call>", "</tool_call>")
CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHATML_TOOLS_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\\n' }}{% for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}"
    '{{ \'<tool_call>{"name": …, "arguments": …}</tool_call><|im_end|>\\n\' }}{% endif %}'
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content.split('</think>')[-1] }}"
    "{% for call in message.tool_calls %}{{ '<tool_call>' + (call.function | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Calls as Hermes writes them, and reasoning."""

_WORDS = """the of and to in is that it was for on are as with his they be at one have this from or had by hot but
some what there we can out other were all your when up use word how said an each she which do their time
if will way about many then them would write like so these her long make thing see him two has look more
day could go come did my sound no most number who over know water than call first people may down side
been now find any new work part take get place made live where after back little only round man year came
show every good me give our under name very through just form much user assistant system tool function
hello world name content role weather city please answer question model token text"""
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_EXTRA = "ABCDEFGHIJKLMNOPQRSTUVWXYZ.,:;!?[]<>/|_0123456789"
_MERGES = 260


def tiny_tokenizer_json() -> bytes:
    """A byte-level BPE tokenizer with Llama 3's special tokens; 524 tokens. It begins a raw prompt with
    `<|begin_of_text|>`."""
    return _byte_level(LLAMA3_TOKENS, (), bos="<|begin_of_text|>")


def chatml_tokenizer_json() -> bytes:
    """The same with the special tokens of ChatML, and with `<think>` and `<tool_call>`, which are not special."""
    return _byte_level(CHATML_TOKENS, CHATML_MARKUP, bos=None)


@cache
def sentencepiece_tokenizer_json() -> bytes:
    """A BPE tokenizer like Llama 2's: `▁` for spaces, one before every text, and bytes for unknown characters."""
    words = ["▁" + word for word in _WORDS.split()]
    alphabet = sorted(set("".join(words)) | set(_EXTRA))
    specials = ["<unk>", "<s>", "</s>"]
    pieces, merges = _train(words, alphabet)
    vocabulary = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    model = {
        "type": "BPE",
        "unk_token": "<unk>",
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": {token: index for index, token in enumerate(vocabulary)},
        "merges": merges,
    }
    return _document(
        model,
        [_added(index, token, special=True) for index, token in enumerate(specials)],
        normalizer={
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        post_processor=_begin("<s>", 1),
    )


@cache
def _byte_level(special: Sequence[str], markup: Sequence[str], *, bos: str | None) -> bytes:
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    alphabet = [chr(byte) for byte in shown] + [chr(0x100 + place) for place in range(len(hidden))]
    pieces, merges = _train(["Ġ" + word for word in _WORDS.split()], alphabet)
    added = [_added(len(pieces) + place, token, special=True) for place, token in enumerate(special)]
    added += [_added(len(pieces) + len(special) + place, token, special=False) for place, token in enumerate(markup)]
    model = {
        "type": "BPE",
        "byte_fallback": False,
        "ignore_merges": True,
        "vocab": {token: index for index, token in enumerate(pieces)},
        "merges": merges,
    }
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return _document(
        model,
        added,
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": _SPLIT}, "behavior": "Isolated", "invert": False},
                byte_level,
            ],
        },
        decoder=byte_level,
        post_processor=None if bos is None else _begin(bos, len(pieces) + list(special).index(bos)),
    )


def _train(words: Sequence[str], alphabet: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The pieces and merges of a byte-pair encoding of the words; ties go to the pair that sorts first."""
    counts = Counter(words)
    spelt = {word: list(word) for word in counts}
    pieces = list(alphabet)
    merges: list[list[str]] = []
    while len(merges) < _MERGES:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in spelt.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            break
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append([left, right])
        pieces.append(left + right)
        for parts in spelt.values():
            place = 0
            while place < len(parts) - 1:
                if parts[place] == left and parts[place + 1] == right:
                    parts[place : place + 2] = [left + right]
                place += 1
    return list(dict.fromkeys(pieces)), merges


def _added(index: int, content: str, *, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": content, **flags, "special": special}


def _begin(token: str, index: int) -> dict[str, Any]:
    def form(*sequences: str) -> list[dict[str, Any]]:
        begin = {"SpecialToken": {"id": token, "type_id": 0}}
        return [begin, *({"Sequence": {"id": name, "type_id": 0}} for name in sequences)]

    return {
        "type": "TemplateProcessing",
        "single": form("A"),
        "pair": form("A", "B"),
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]}},
    }


def _document(model: Mapping[str, Any], added: Sequence[Mapping[str, Any]], **parts: Mapping[str, Any] | None) -> bytes:
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": parts.get("normalizer"),
        "pre_tokenizer": parts.get("pre_tokenizer"),
        "post_processor": parts.get("post_processor"),
        "decoder": parts.get("decoder"),
        "model": model,
    }
    return json.dumps(document, ensure_ascii=False).encode()


def merged(events: "Iterable[OutputEvent]") -> "list[OutputEvent]":
    """Events with adjacent text, and adjacent reasoning, joined: the same however an output was cut."""
    from metalchat_engine import ReasoningDelta, TextDelta

    result: list[OutputEvent] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            result[-1] = TextDelta(text=last.text + event.text)
        elif isinstance(event, ReasoningDelta) and isinstance(last, ReasoningDelta):
            result[-1] = ReasoningDelta(text=last.text + event.text)
        else:
            result.append(event)
    return result
