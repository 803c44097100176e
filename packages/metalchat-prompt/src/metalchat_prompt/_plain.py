"""The same tokenizer with its control tokens renamed, so that no text that anybody wrote can spell one."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers

    from metalchat_prompt.tokenizer import AddedToken


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTokenizer:
    """`sentinels` has the new spelling of each control token by its id; `ids` maps ids of `library` to the original."""

    library: "tokenizers.Tokenizer"
    sentinels: Mapping[int, str]
    ids: Mapping[int, int]


def plain_tokenizer(library: "tokenizers.Tokenizer", added: Sequence["AddedToken"]) -> PlainTokenizer:
    """Builds the renamed copy. Takes about as long as loading the tokenizer, so it is built when first needed.

    A sentinel is 128 random bits in private-use characters: text cannot spell it by chance or by intent.
    """
    from tokenizers import Tokenizer as Library

    prefix = "".join(chr(0xF0000 + secrets.randbelow(0xFFFE)) for _ in range(8))
    renamed = {token.content: prefix + _number(place) for place, token in enumerate(added) if token.control}
    document = json.loads(library.to_str())
    for entry in document["added_tokens"]:
        if entry["content"] in renamed:
            entry["content"] = renamed[entry["content"]]
            entry["normalized"] = False
    document["post_processor"] = None
    _rename(document["model"], renamed)
    plain = Library.from_str(json.dumps(document, ensure_ascii=False))
    ids = {plain.token_to_id(renamed.get(token.content, token.content)): token.id for token in added}
    return PlainTokenizer(
        library=plain,
        sentinels={token.id: renamed[token.content] for token in added if token.control},
        ids={own: original for own, original in ids.items() if own is not None and own != original},
    )


def _rename(model: dict[str, Any], renamed: Mapping[str, str]) -> None:
    """Control tokens are often in the model's vocabulary too, where plain text could still reach them."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {renamed.get(token, token): index for token, index in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[renamed.get(token, token), score] for token, score in vocabulary]
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]
    if model.get("merges"):
        pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [[left, right] for left, right in pairs if not {left, right, left + right} & renamed.keys()]


def _number(place: int) -> str:
    return chr(0x100000 + place // 0x8000) + chr(0x100000 + place % 0x8000)
