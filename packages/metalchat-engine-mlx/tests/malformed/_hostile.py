"""Tokenizer parts and chat templates that are known to hurt, and random damage to sound ones."""

from random import Random
from typing import Any

SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
PARTS: tuple[tuple[str, Any], ...] = (
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": 7}),
    ("normalizer", {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}),
    ("normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": "b" * 1000}),
    ("normalizer", {"type": "Replace", "pattern": {"Regex": ""}, "content": "bb"}),
    ("normalizer", {"type": "Prepend", "prepend": "x" * 100_000}),
    ("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFKC"}] * 3000}),
    ("normalizer", {"type": "Nmt"}),
    ("normalizer", {"type": "BertNormalizer"}),
    ("pre_tokenizer", {**SPLIT, "pattern": {"Regex": "(a+)+$"}}),
    ("pre_tokenizer", {**SPLIT, "pattern": {"Regex": "(.*)*x"}}),
    ("pre_tokenizer", {**SPLIT, "pattern": {"Regex": "["}}),
    ("pre_tokenizer", {**SPLIT, "pattern": {"String": ""}}),
    ("pre_tokenizer", {"type": "Metaspace", "replacement": "", "prepend_scheme": "always"}),
    ("pre_tokenizer", {"type": "CharDelimiterSplit", "delimiter": "ab"}),
    ("pre_tokenizer", {"type": "FixedLength", "length": 0}),
    ("pre_tokenizer", None),
    ("post_processor", {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}),
    (
        "post_processor",
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        },
    ),
    (
        "post_processor",
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}] * 10_000,
            "pair": [{"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"[X]": {"id": "[X]", "ids": [4_000_000_000] * 10, "tokens": ["[X]"] * 10}},
        },
    ),
    ("post_processor", {"type": "RobertaProcessing", "sep": ["x", 9_999], "cls": ["y", 2**31]}),
    ("decoder", {"type": "Strip", "content": "x", "start": 2**62, "stop": 2**62}),
    ("decoder", {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}),
    ("decoder", {"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True}),
    ("decoder", {"type": "Fuse"}),
    ("decoder", {"type": "WordPiece", "prefix": "", "cleanup": True}),
    ("decoder", {"type": "ByteFallback"}),
    ("padding", {"strategy": {"Fixed": 2_000_000_000}, "direction": "Right", "pad_id": 0, "pad_type_id": 0,
                 "pad_token": "x", "pad_to_multiple_of": None}),
    ("padding", {"strategy": "BatchLongest", "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "x",
                 "pad_to_multiple_of": 2**40}),
    ("truncation", {"max_length": 1, "stride": 5, "strategy": "LongestFirst", "direction": "Right"}),
    ("truncation", {"max_length": 0, "stride": 0, "strategy": "OnlySecond", "direction": "Right"}),
    ("model", {"type": "Unigram", "unk_id": 7, "vocab": []}),
    ("model", {"type": "Unigram", "unk_id": None, "vocab": [["a", float("-inf")], ["b", 1e308]]}),
    ("model", {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "missing"}),
    ("model", {"type": "WordPiece", "vocab": {}, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
               "max_input_chars_per_word": 0}),
    ("model", {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": [["a", "b"]]}),
    ("model", {"type": "BPE", "vocab": {"a": 4_294_967_295}, "merges": []}),
    ("model", {"type": "BPE", "dropout": 0.99, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}),
    ("model", None),
    ("added_tokens", [{"id": 2**31, "content": "", "single_word": False, "lstrip": False, "rstrip": False,
                       "normalized": False, "special": True}]),
    ("added_tokens", [{"id": 5, "content": "e", "single_word": False, "lstrip": True, "rstrip": True,
                       "normalized": True, "special": True}]),
    ("added_tokens", []),
)  # fmt: skip

TEMPLATES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch canary').read() }}",
    "{{ lipsum.__globals__['os'].system('touch canary') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{{ messages | attr('__class__') }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{{ '{:>1000000000}'.format('a') }}",
    "{{ 'a' * 10 ** 10 }}",
    "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "{{ 1 / 0 }}",
    "{{ messages[99].content }}",
    "{{ messages[0]['content'] | int + 'a' }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ raise_exception('no\nno') }}",
    "{% for",
    "{{ 2 ** 2 ** 40 }}",
    "{{ strftime_now('%Y' * 100000) }}",
    "{{ [1] * 10 ** 9 }}",
    "{{ messages | tojson(indent=10 ** 8) }}",
    "",
    " ",
    "\x00",
    "{{ '\\ud800' }}",
    "{{ bos_token + eos_token + pad_token }}",
    "x" * 200_000,
)
PIECES = (
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "'",
    "|",
    "(",
    ")",
    "[0]",
    ".x",
    " for ",
    " in ",
    " if ",
    "endfor",
    "range(10**9)",
)


def damaged_tokenizer(document: dict[str, Any], random: Random) -> str:
    """Graft one or two hostile parts."""
    said = []
    for _ in range(random.choice((1, 1, 2))):
        key, part = random.choice(PARTS)
        document[key] = part
        said.append(f"{key} {str(part)[:60]}")
    return "; ".join(said)


def damaged_template(text: str, random: Random) -> str:
    if random.random() < 0.4:
        return random.choice(TEMPLATES)
    for _ in range(random.choice((1, 2, 4))):
        at = random.randrange(len(text) + 1)
        text = text[:at] + random.choice((*PIECES, "")) + text[at + random.choice((0, 1, 5)) :]
    return text
