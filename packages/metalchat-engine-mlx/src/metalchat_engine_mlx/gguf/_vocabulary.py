"""The token list of a GGUF file, and what belongs to each token."""

import json
from collections import Counter
from typing import Final

from metalchat_engine_mlx.gguf._metadata import invalid, token_id
from metalchat_engine_mlx.gguf.header import SEPARATOR, GgufHeader, GgufNumbers, GgufStrings, shown

# llama.h, enum llama_token_type
NORMAL: Final = 1
UNKNOWN: Final = 2
CONTROL: Final = 3
USER_DEFINED: Final = 4
BYTE: Final = 6


class Vocabulary:
    """The token list of a header with what belongs to it."""

    def __init__(self, header: GgufHeader) -> None:
        self.header = header
        tokens = header.metadata.get("tokenizer.ggml.tokens")
        if not isinstance(tokens, GgufStrings) or not len(tokens):
            raise invalid(header, "it has no list of strings 'tokenizer.ggml.tokens'")
        embedding = header.tensors.get("token_embd.weight")
        if embedding is not None and len(tokens) > embedding.shape[0]:
            raise invalid(header, f"it has {len(tokens)} tokens, but embeddings for {embedding.shape[0]}")
        self.tokens = tokens
        self.kinds = self._numbers("token_type") or (NORMAL,) * len(tokens)

    def texts(self) -> list[str]:
        """Every token, in the order of the ids."""
        return [token or _empty(index) for index, token in enumerate(self.tokens.values())]

    def json(self) -> str:
        """The JSON object from token to id."""
        joined = self.tokens.joined()
        if joined is None:
            quoted = [json.dumps(token, ensure_ascii=False)[1:-1] for token in self.tokens.values()]
        else:  # escaping one long string takes a third of the time
            quoted = json.dumps(joined, ensure_ascii=False)[1:-1].split(SEPARATOR)
        if "" in quoted:
            quoted = [token or _empty(index) for index, token in enumerate(quoted)]
        if len(set(quoted)) != len(quoted):
            twice = next(token for token, count in Counter(quoted).items() if count > 1)
            raise invalid(self.header, f"the token '{shown(twice)}' is in the vocabulary twice")
        return "{" + ",".join([f'"{token}":{index}' for index, token in enumerate(quoted)]) + "}"

    def added(self) -> list[dict[str, object]]:
        """The tokens that are matched before any merging."""
        return [
            {
                "id": index,
                "content": self.tokens[index] or _empty(index),
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind != USER_DEFINED,
            }
            for index, kind in enumerate(self.kinds)
            if kind in (CONTROL, UNKNOWN, USER_DEFINED)
        ]

    def scores(self) -> tuple[float, ...]:
        """The score of every token, which must be there."""
        scores = self._numbers("scores")
        if scores is None:
            raise invalid(self.header, "'tokenizer.ggml.scores' is missing")
        return scores

    def special(self, name: str, default: int | None = None) -> tuple[int, str] | None:
        """Id and text of the token that plays a role ("bos", "eos", "unknown"), or None."""
        index = token_id(self.header, name, len(self.tokens))
        if index is None and f"tokenizer.ggml.{name}_token_id" not in self.header.metadata:
            index = default if default is not None and default < len(self.tokens) else None
        return None if index is None else (index, self.tokens[index] or _empty(index))

    def _numbers(self, name: str) -> tuple[float, ...] | None:
        """The array 'tokenizer.ggml.<name>' with one number a token, or None."""
        key = f"tokenizer.ggml.{name}"
        array = self.header.metadata.get(key)
        if array is None:
            return None
        if not isinstance(array, GgufNumbers) or len(array) != len(self.tokens):
            raise invalid(self.header, f"'{key}' does not have a number for each of {len(self.tokens)} tokens")
        return array.values()


def _empty(index: int) -> str:
    """What llama.cpp calls a token without text, several of which may be there."""
    return f"[EMPTY_{index}]"
