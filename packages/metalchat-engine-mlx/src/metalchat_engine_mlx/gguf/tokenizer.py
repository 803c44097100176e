"""The tokenizer that a GGUF file carries, written as a Hugging Face `tokenizer.json`."""

import json
from dataclasses import dataclass
from typing import Final

from metalchat_engine import UnsupportedModel

from metalchat_engine_mlx.gguf._metadata import flag, invalid, text
from metalchat_engine_mlx.gguf._sentencepiece import merges_from_scores
from metalchat_engine_mlx.gguf._vocabulary import BYTE, NORMAL, Vocabulary
from metalchat_engine_mlx.gguf.header import SEPARATOR, GgufHeader, GgufStrings, shown
from metalchat_engine_mlx.gguf.pretokenizers import PRETOKENIZERS, PreTokenizer

_SPACE: Final = "▁"


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTokenizer:
    """A `tokenizer.json`, and what a `tokenizer_config.json` would add to it. `name` is the model's, from the file."""

    tokenizer_json: bytes
    chat_template: str | None
    bos_token: str | None
    eos_token: str | None
    name: str


def tokenizer_from_gguf(header: GgufHeader) -> GgufTokenizer:
    """Convert the vocabulary of the file.

    `tokenizer.ggml.model` gpt2 is byte-level BPE, cut as `tokenizer.ggml.pre` says ("default" where it says nothing);
    llama is SentencePiece BPE, its merges derived from the scores. Control and unknown tokens become special tokens,
    user-defined ones tokens that are matched as a whole. The beginning and end tokens that the file wants added are the
    tokenizer's post-processor. Raises UnsupportedModel for another kind or cut, InvalidModel for a vocabulary that
    contradicts itself.
    """
    kind = text(header, "tokenizer.ggml.model")
    vocabulary = Vocabulary(header)
    if kind == "gpt2":
        pre = _pre_tokenizer(header)
        parts, model = _byte_level(vocabulary, pre)
        bos, eos, add_bos = vocabulary.special("bos"), vocabulary.special("eos"), pre.add_bos
    elif kind == "llama":
        parts, model = _sentencepiece(vocabulary)
        bos, eos, add_bos = vocabulary.special("bos", 1), vocabulary.special("eos", 2), True
    else:
        raise UnsupportedModel(f"'{header.file}' has a '{shown(kind)}' tokenizer; 'gpt2' and 'llama' are supported")
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added(),
        **parts,
        "post_processor": _post_processor(
            bos if flag(header, "tokenizer.ggml.add_bos_token", default=add_bos) else None,
            eos if flag(header, "tokenizer.ggml.add_eos_token", default=False) else None,
        ),
    }
    return GgufTokenizer(
        tokenizer_json=f'{json.dumps(document, ensure_ascii=False)[:-1]}, "model": {model}}}'.encode(),
        chat_template=text(header, "tokenizer.chat_template", default="") or None,
        bos_token=bos[1] if bos else None,
        eos_token=eos[1] if eos else None,
        name=text(header, "general.name", default=""),
    )


def _pre_tokenizer(header: GgufHeader) -> PreTokenizer:
    name = text(header, "tokenizer.ggml.pre", default="default")
    if name not in PRETOKENIZERS:
        raise UnsupportedModel(f"'{header.file}': 'tokenizer.ggml.pre' is '{shown(name)}', which is not supported")
    return PRETOKENIZERS[name]


def _byte_level(vocabulary: Vocabulary, pre: PreTokenizer) -> tuple[dict[str, object], str]:
    """Normaliser, pre-tokenizer and decoder; and the JSON of the model."""
    merges = vocabulary.header.metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, GgufStrings):
        raise invalid(vocabulary.header, "it has no list of strings 'tokenizer.ggml.merges'")
    parts: dict[str, object] = {
        "normalizer": pre.normalizer(),
        "pre_tokenizer": pre.steps(),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    }
    return parts, _model(vocabulary, _merges(merges), ignore_merges=pre.whole)


def _sentencepiece(vocabulary: Vocabulary) -> tuple[dict[str, object], str]:
    """Normaliser, pre-tokenizer and decoder; and the JSON of the model."""
    prefix = flag(vocabulary.header, "tokenizer.ggml.add_space_prefix", default=True)
    normalizers: list[dict[str, object]] = [{"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]
    decoders: list[dict[str, object]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        normalizers.insert(0, {"type": "Prepend", "prepend": _SPACE})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    mergeable = [kind == NORMAL for kind in vocabulary.kinds]
    merges = merges_from_scores(vocabulary.texts(), vocabulary.scores(), mergeable)
    unknown = vocabulary.special("unknown", 0)
    parts: dict[str, object] = {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
    }
    return parts, _model(
        vocabulary,
        _json(merges),
        unk_token=unknown[1] if unknown else None,
        fuse_unk=True,
        byte_fallback=BYTE in vocabulary.kinds,
    )


def _model(vocabulary: Vocabulary, merges: str, **settings: object) -> str:
    return f'{_json({"type": "BPE", **settings})[:-1]},"vocab":{vocabulary.json()},"merges":{merges}}}'


def _merges(merges: GgufStrings) -> str:
    """The JSON list of merges: strings of two tokens with a space between, as they are in the file.

    Where tokens hold spaces, the merges are pairs, cut at the first space that is not the first character.
    """
    joined = merges.joined()
    if joined is not None and joined.count(" ") == len(merges):
        return "[" + _json(joined).replace(SEPARATOR, '","') + "]"
    return _json([(merge[:cut], merge[cut + 1 :]) for merge in merges.values() if (cut := merge.find(" ", 1)) > 0])


def _post_processor(bos: tuple[int, str] | None, eos: tuple[int, str] | None) -> dict[str, object] | None:
    if bos is None and eos is None:
        return None

    def around(sequence: str, type_id: int) -> list[object]:
        first, last = ([{"SpecialToken": {"id": end[1], "type_id": type_id}}] if end else [] for end in (bos, eos))
        return [*first, {"Sequence": {"id": sequence, "type_id": type_id}}, *last]

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": [*around("A", 0), *around("B", 1)],
        "special_tokens": {
            end[1]: {"id": end[1], "ids": [end[0]], "tokens": [end[1]]} for end in (bos, eos) if end is not None
        },
    }


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
