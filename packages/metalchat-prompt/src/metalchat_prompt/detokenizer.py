"""Token ids back to text, one at a time, adding up to exactly what decoding all of them at once gives."""

import codecs
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from metalchat_prompt.tokenizer import Tokenizer


class Detokenizer(Protocol):
    """Takes the ids of one answer in order. Special tokens add nothing, and neither do ids outside the vocabulary.

    A character whose bytes are spread over several tokens is returned with the last of them, never in parts.
    """

    def push(self, token_id: int) -> str:
        """The text that this token adds, as far as it is certain."""
        ...

    def flush(self) -> str:
        """The text that was held back; the detokenizer is at its beginning again."""
        ...


def detokenizer(tokenizer: Tokenizer) -> Detokenizer:
    """A detokenizer for the tokenizer's decoder."""
    stages = _stages(tokenizer.decoder)
    return _WindowDetokenizer(tokenizer) if stages is None else _StagedDetokenizer(tokenizer, stages)


class _StagedDetokenizer:
    """The decoder's own steps, each of which keeps only what the next token may change."""

    def __init__(self, tokenizer: Tokenizer, stages: "Sequence[_Stage]") -> None:
        self._tokenizer = tokenizer
        self._special = tokenizer.special_ids
        self._stages = stages

    def push(self, token_id: int) -> str:
        token = None if token_id in self._special else self._tokenizer.token(token_id)
        if token is None:
            return ""
        return self._run([token], self._stages)

    def flush(self) -> str:
        text = ""
        for place, stage in enumerate(self._stages):
            text += self._run(stage.end(), self._stages[place + 1 :])
        return text

    def _run(self, tokens: list[str], stages: "Sequence[_Stage]") -> str:
        for stage in stages:
            tokens = stage.feed(tokens)
        return "".join(tokens)


class _WindowDetokenizer:
    """For decoders that look at their neighbours: decodes the last few tokens with and without the new one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._told = 0

    def push(self, token_id: int) -> str:
        if token_id in self._tokenizer.special_ids or self._tokenizer.token(token_id) is None:
            return ""
        self._ids.append(token_id)
        before = self._tokenizer.decode(self._ids[: self._told])
        text = self._tokenizer.decode(self._ids)
        if text.endswith("\ufffd"):
            return ""
        self._ids = self._ids[self._told :]
        self._told = len(self._ids)
        return text[len(before) :]

    def flush(self) -> str:
        before = self._tokenizer.decode(self._ids[: self._told])
        text = self._tokenizer.decode(self._ids)
        self._ids = []
        self._told = 0
        return text[len(before) :]


class _Stage(Protocol):
    """One step of a decoder. `feed` gives what is certain; `end` gives the rest and returns to the beginning."""

    def feed(self, tokens: list[str]) -> list[str]: ...

    def end(self) -> list[str]: ...


class _ByteLevel:
    """Every character of a token stands for one byte; what is no UTF-8 becomes U+FFFD."""

    def __init__(self) -> None:
        self._bytes = _byte_alphabet()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, tokens: list[str]) -> list[str]:
        return [self._decoder.decode(self._raw(token)) for token in tokens]

    def end(self) -> list[str]:
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return [text] if text else []

    def _raw(self, token: str) -> bytes:
        try:
            return bytes([self._bytes[character] for character in token])
        except KeyError:
            return token.encode()


class _ByteFallback:
    """Runs of `<0x..>` tokens are the bytes of text; a run that is no UTF-8 is one U+FFFD a byte, so it is held."""

    def __init__(self) -> None:
        self._run = bytearray()

    def feed(self, tokens: list[str]) -> list[str]:
        done: list[str] = []
        for token in tokens:
            byte = _fallback_byte(token)
            if byte is None:
                done += [*self.end(), token]
            else:
                self._run.append(byte)
        return done

    def end(self) -> list[str]:
        run, self._run = bytes(self._run), bytearray()
        if not run:
            return []
        try:
            return [run.decode()]
        except UnicodeDecodeError:
            return ["\ufffd"] * len(run)


class _Replace:
    """Replaces a string within each token."""

    def __init__(self, old: str, new: str) -> None:
        self._old = old
        self._new = new

    def feed(self, tokens: list[str]) -> list[str]:
        return [token.replace(self._old, self._new) for token in tokens]

    def end(self) -> list[str]:
        return []


class _Metaspace:
    """The replacement character is a space, except in the first token, where it is nothing if a space was prepended."""

    def __init__(self, replacement: str, *, prepended: bool) -> None:
        self._replacement = replacement
        self._prepended = prepended
        self._first = True

    def feed(self, tokens: list[str]) -> list[str]:
        done = []
        for token in tokens:
            done.append(token.replace(self._replacement, "" if self._first and self._prepended else " "))
            self._first = False
        return done

    def end(self) -> list[str]:
        self._first = True
        return []


class _StripStart:
    """Drops up to `count` times `content` at the start of each token, or of the whole text once tokens are fused."""

    def __init__(self, content: str, count: int, *, fused: bool) -> None:
        self._content = content
        self._count = count
        self._fused = fused
        self._left = count

    def feed(self, tokens: list[str]) -> list[str]:
        return [self._strip(token) for token in tokens]

    def end(self) -> list[str]:
        self._left = self._count
        return []

    def _strip(self, token: str) -> str:
        if not self._fused:
            self._left = self._count
        while token and self._left:
            if not token.startswith(self._content):
                self._left = 0
                break
            token = token[1:]
            self._left -= 1
        return token


class _Spaces:
    """What a tokenizer without a decoder does: a space between tokens."""

    def __init__(self) -> None:
        self._first = True

    def feed(self, tokens: list[str]) -> list[str]:
        done = []
        for token in tokens:
            done.append(token if self._first else " " + token)
            self._first = False
        return done

    def end(self) -> list[str]:
        self._first = True
        return []


def _stages(decoder: Mapping[str, Any] | None) -> list[_Stage] | None:
    """The steps of a decoder; None if one of them is not known here, or looks past its token."""
    if decoder is None:
        return [_Spaces()]
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    stages: list[_Stage] = []
    fused = False
    for step in steps:
        match step:
            case {"type": "Fuse"}:
                fused = True
            case {"type": "ByteLevel"} if not fused:
                stages.append(_ByteLevel())
                fused = True
            case {"type": "ByteFallback"} if not fused:
                stages.append(_ByteFallback())
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if old and (
                not fused or len(old) == 1
            ):
                stages.append(_Replace(old, new))
            case {"type": "Metaspace", "replacement": str(replacement), **rest} if not fused:
                stages.append(_Metaspace(replacement, prepended=rest.get("prepend_scheme") != "never"))
            case {"type": "Strip", "content": str(content), "start": int(start), "stop": 0}:
                stages.append(_StripStart(content, start, fused=fused))
            case _:
                return None
    return stages


def _fallback_byte(token: str) -> int | None:
    if len(token) != 6 or not token.startswith("<0x") or not token.endswith(">"):
        return None
    try:
        return int(token[3:5], 16)
    except ValueError:
        return None


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte, as in GPT-2: printable ones for themselves, the rest from U+0100 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}
