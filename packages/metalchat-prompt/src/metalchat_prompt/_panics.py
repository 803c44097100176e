"""What makes the tokenizers library panic: refused where it can be told, and else kept off standard error."""

import contextlib
import json
import os
import tempfile
import threading
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, TypeVar

from metalchat_prompt.errors import InvalidTokenizer, visible

if TYPE_CHECKING:
    import tokenizers

_T = TypeVar("_T")

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_BREAKS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_START = r"[^\r\n\p{L}\p{N}]?"
# What published models split by; none of these backtracks far, whatever the text is.
_HARMLESS = frozenset(
    {
        # GPT-2
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        # Llama 3 (cl100k) and Qwen 2
        rf"{_CONTRACTIONS}|{_START}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{_BREAKS}",
        rf"{_CONTRACTIONS}|{_START}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{_BREAKS}",
        # GPT-4o (o200k) and Llama 4
        rf"{_START}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_START}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{_BREAKS}",
    }
)

_REDIRECTED = threading.Lock()


def parts(library: "tokenizers.Tokenizer") -> list[dict[str, Any]]:
    """Every JSON object in the description of the tokenizer, its model and its added tokens left out."""
    steps = (library.normalizer, library.pre_tokenizer, library.post_processor, library.decoder)
    pending: list[Any] = [json.loads(step.__getstate__()) for step in steps if step is not None]
    found = []
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            found.append(value)
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return found


def check_templates(found: list[dict[str, Any]], what: str) -> None:
    """Refuses a template of the post-processor that adds a token which it does not define."""
    for part in found:
        if part.get("type") != "TemplateProcessing":
            continue
        for piece in [*part["single"], *part["pair"]]:
            token = piece.get("SpecialToken")
            if token is not None and token["id"] not in part["special_tokens"]:
                name = visible(token["id"])
                raise InvalidTokenizer(
                    f"'{what}' could not be used: its post-processor adds '{name}', which is not in 'special_tokens'"
                )


def doubtful(found: list[dict[str, Any]]) -> bool:
    """Whether some text may make the library panic: by a regex nobody vouches for, a table, or a match of nothing."""
    return any(
        "precompiled_charsmap" in part or part.get("String") == "" or part.get("Regex") not in {None, *_HARMLESS}
        for part in found
    )


def quietly(call: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
    """Calls while file descriptor 2 leads elsewhere: Rust reports a panic there before Python sees it.

    What was written meanwhile, by other threads then, arrives after the call, unless that panicked.
    """
    with _REDIRECTED, contextlib.ExitStack() as undo:
        try:
            held = undo.enter_context(tempfile.TemporaryFile())
            own = os.dup(2)
        except OSError:
            return call(*args, **kwargs)  # no place to keep it, or no standard error
        undo.callback(os.close, own)
        undo.callback(os.dup2, own, 2)
        os.dup2(held.fileno(), 2)
        try:
            result = call(*args, **kwargs)
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                _pass_on(held, own)
            raise
        _pass_on(held, own)
        return result


def _pass_on(held: IO[bytes], own: int) -> None:
    held.seek(0)
    with contextlib.suppress(OSError):
        while chunk := held.read(2**16):
            os.write(own, chunk)
