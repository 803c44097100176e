"""How byte-level tokenizers cut text before merging, by the name that GGUF gives them in `tokenizer.ggml.pre`."""

from dataclasses import dataclass
from typing import Final

_CONTRACTIONS: Final = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_BREAKS_AND_SPACES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_CJK: Final = "[一-龥ࠀ-一가-퟿]+"
_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreTokenizer:
    """The cuts, in order, each made inside the pieces of the one before.

    `digits` cuts every digit off first; `splits` are regular expressions (Oniguruma) whose matches become pieces;
    `gpt2` makes the ByteLevel step cut as GPT-2 does. `nfc` normalises first. `whole` takes a piece that is a token
    as it is, without merging (ignore_merges). `add_bos` holds where the file has no `add_bos_token`.
    """

    digits: bool = False
    splits: tuple[str, ...] = ()
    gpt2: bool = False
    nfc: bool = False
    whole: bool = False
    add_bos: bool = False

    def normalizer(self) -> dict[str, object] | None:
        """The entry of a tokenizer.json."""
        return {"type": "NFC"} if self.nfc else None

    def steps(self) -> dict[str, object]:
        """The entry of a tokenizer.json."""
        steps: list[dict[str, object]] = []
        if self.digits:
            steps.append({"type": "Digits", "individual_digits": True})
        steps.extend(
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            for pattern in self.splits
        )
        level: dict[str, object] = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": self.gpt2,
        }
        return {"type": "Sequence", "pretokenizers": [*steps, level]} if steps else level


_LLAMA3: Final = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _BREAKS_AND_SPACES
_QWEN2: Final = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _BREAKS_AND_SPACES
_SEED_CODER: Final = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|" + _BREAKS_AND_SPACES
_TEKKEN: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _BREAKS_AND_SPACES
)
_GPT4O: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _BREAKS_AND_SPACES
)
_DEEPSEEK_V3: Final = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|" + _BREAKS_AND_SPACES,
)

_WITH_GPT2_RULES: Final = PreTokenizer(gpt2=True)
_WITH_SINGLE_DIGITS: Final = PreTokenizer(digits=True, gpt2=True)
_WITH_LLAMA3_RULES: Final = PreTokenizer(splits=(_LLAMA3,), whole=True, add_bos=True)
_WITH_QWEN2_RULES: Final = PreTokenizer(splits=(_QWEN2,), nfc=True)

# The names of llama.cpp (src/llama-vocab.cpp) that models of these families use.
PRETOKENIZERS: Final[dict[str, PreTokenizer]] = {
    "default": PreTokenizer(splits=(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "gpt-2": _WITH_GPT2_RULES,
    "phi-2": _WITH_GPT2_RULES,
    "olmo": _WITH_GPT2_RULES,
    "smollm": _WITH_SINGLE_DIGITS,
    "starcoder": _WITH_SINGLE_DIGITS,
    "refact": _WITH_SINGLE_DIGITS,
    "llama-bpe": _WITH_LLAMA3_RULES,
    "llama3": _WITH_LLAMA3_RULES,
    "llama-v3": _WITH_LLAMA3_RULES,
    "falcon3": _WITH_LLAMA3_RULES,
    "pixtral": _WITH_LLAMA3_RULES,
    "smaug-bpe": PreTokenizer(splits=(_LLAMA3,)),
    "dbrx": PreTokenizer(splits=(_LLAMA3,)),
    "gpt-4o": PreTokenizer(splits=(_GPT4O,)),
    "qwen2": _WITH_QWEN2_RULES,
    "deepseek-r1-qwen": _WITH_QWEN2_RULES,
    "tekken": PreTokenizer(splits=(_TEKKEN,), whole=True, add_bos=True),
    "deepseek-coder": PreTokenizer(splits=(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")),
    "deepseek-v3": PreTokenizer(splits=_DEEPSEEK_V3),
    "seed-coder": PreTokenizer(splits=(_SEED_CODER,)),
}
