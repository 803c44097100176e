"""Answers of servers in JSON: decoded within a limit, then checked for type before anything is believed."""

import json
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import TypeVar, cast

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
T = TypeVar("T", bool, int, str, list[Json], dict[str, Json])

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_STEP = 1 << 16


class AnswerError(ValueError):
    """Why an answer is not what it should be; never leaves the package."""


class TooLarge(AnswerError):
    """The decoded answer is larger than the limit."""


def inflated(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """`chunks` decoded, in steps of at most 64 KiB, so that a compression bomb costs its limit and no more."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        yield from chunks
        return
    if encoding not in ("gzip", "deflate"):
        raise AnswerError("it is compressed in a way that was not asked for")
    decoder = zlib.decompressobj(wbits=47)
    try:
        for chunk in chunks:
            pending = chunk
            while pending and not decoder.eof:
                yield decoder.decompress(pending, _STEP)
                pending = decoder.unconsumed_tail
        if not decoder.eof:
            raise AnswerError("its compressed data ends early")
    except zlib.error as error:
        raise AnswerError("its compressed data is damaged") from error


def gathered(chunks: Iterable[bytes], limit: int) -> bytes:
    """All `chunks` as one; `TooLarge` as soon as they exceed `limit` bytes."""
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > limit:
            raise TooLarge(f"it is larger than {limit >> 20} MiB")
    return bytes(data)


def parse_json(data: bytes) -> Json:
    """The value of a JSON text in UTF-8. NaN, infinities, repeated keys and lone surrogates are refused."""
    try:
        value = cast(Json, json.loads(data.decode("utf-8"), parse_constant=_constant, object_pairs_hook=_object))
        if _SURROGATE.search(data) is not None:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except AnswerError:
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        page = data.lstrip()[:1] == b"<"
        raise AnswerError("HTML page" if page else "not JSON") from error
    return value


def typed(value: Json, kind: type[T], what: str) -> T:
    """`value` if it is a `kind`, where true and false are no numbers; `AnswerError` naming `what` otherwise."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise AnswerError(f"{what} is not {_KINDS[kind]}")
    return value


def _constant(text: str) -> Json:
    raise AnswerError(f"{text} is not JSON")


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise AnswerError("an object names a key twice")
    return members


_KINDS: dict[type, str] = {bool: "a truth value", int: "a number", str: "a text", list: "a list", dict: "an object"}
