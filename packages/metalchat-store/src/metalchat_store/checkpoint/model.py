"""The files of a Hugging Face model, made of what Meta gives out for it."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from metalchat_store._files import read_file
from metalchat_store.checkpoint import tiktoken
from metalchat_store.checkpoint.llama import plan
from metalchat_store.checkpoint.params import LIMIT, config, read_params
from metalchat_store.checkpoint.template import chat_template
from metalchat_store.errors import NotAModel
from metalchat_store.remote import Member

PARAMS = "params.json"
TOKENIZER = "tokenizer.model"
_ENDS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a release is, besides what its files say.

    `context` in tokens; `tokens` is `llama3` or `llama3_1`, the names of the special tokens; `rope_factor` that of the
    rope's scaling; `chat`: it was trained to answer messages.
    """

    context: int
    tokens: str
    rope_factor: float
    chat: bool


def members(files: Mapping[str, Path], traits: Traits) -> Iterator[Member]:
    """The converted model: `files` maps `params.json`, `tokenizer.model` and each `consolidated.NN.pth` to its place.

    Raises `NotAModel`; nothing in the files is run.
    """
    original = _read(files, PARAMS, LIMIT)
    params = read_params(original)
    ranked = tiktoken.read_ranks(_read(files, TOKENIZER, tiktoken.LIMIT))
    shards = {name: files[name] for name in sorted(files) if name.endswith(".pth")}
    if not shards:
        raise NotAModel("there is no 'consolidated.00.pth'")
    weights = plan(shards, params)
    special = tiktoken.special_tokens(weights.vocabulary - len(ranked), traits.tokens)
    ends = [name for name in _ENDS[: 3 if traits.chat else 1] if name in special]
    stops = tuple(len(ranked) + special.index(name) for name in ends)
    settings = config(
        params,
        vocabulary=weights.vocabulary,
        intermediate=weights.intermediate,
        dtype=weights.dtype,
        tied=weights.tied,
        context=traits.context,
        factor=traits.rope_factor,
        first_special=len(ranked),
        stops=stops,
    )
    yield _member("config.json", _json(settings))
    yield _member(
        "generation_config.json",
        _json({"bos_token_id": settings["bos_token_id"], "eos_token_id": settings["eos_token_id"]}),
    )
    yield _member(PARAMS, original)
    yield _member("tokenizer.json", tiktoken.tokenizer_json(ranked, special))
    words = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": special[0],
        "eos_token": ends[-1],
        "clean_up_tokenization_spaces": False,
        "model_max_length": traits.context,
    }
    yield _member("tokenizer_config.json", _json(words))
    if traits.chat:
        yield _member("chat_template.jinja", chat_template(dated=traits.tokens != "llama3").encode())
    yield Member(path="model.safetensors", size=weights.size, open=weights.open)


def _read(files: Mapping[str, Path], name: str, limit: int) -> bytes:
    if name not in files:
        raise NotAModel(f"there is no '{name}'")
    try:
        return read_file(files[name], limit)
    except OSError as error:
        raise NotAModel(f"'{name}' cannot be read, or is larger than {limit >> 20} MiB") from error


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _member(name: str, data: bytes) -> Member:
    opened: Callable[[], IO[bytes]] = partial(io.BytesIO, data)
    return Member(path=name, size=len(data), open=opened)
