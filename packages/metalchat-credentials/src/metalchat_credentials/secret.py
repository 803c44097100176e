"""An access token that cannot be shown by accident, and the filter that takes tokens out of text."""

import hmac
import json
import re
from collections.abc import Iterable
from typing import NoReturn
from urllib.parse import quote

from metalchat_credentials.errors import InvalidSecret

_ALLOWED = re.compile(r"[\x21-\x7e]{1,1024}")
_LOOKS_LIKE_A_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")
_ASCII_WHITESPACE = " \t\n\r\x0b\x0c"
_MASK = "hf_…"


class Secret:
    """An access token. Only `reveal` returns its text; every other way to print, copy or serialise it does not."""

    __slots__ = ("__text",)
    __text: str

    def __init__(self, text: str) -> None:
        """`text` is taken as it is: 1 to 1,024 characters from `!` to `~`. Raises InvalidSecret."""
        accepted = _ALLOWED.fullmatch(text) is not None
        if accepted:
            object.__setattr__(self, "_Secret__text", text)
        del text  # a traceback with local variables must not show what was refused
        if not accepted:
            raise InvalidSecret(
                "this is not an access token: it contains a line break or another character that is not allowed"
            )

    @classmethod
    def parse(cls, text: str) -> "Secret":
        """The token in what a person typed, a file or a variable holds: ASCII white space around it is dropped.

        Raises InvalidSecret, whose message does not repeat the text.
        """
        stripped = text.strip(_ASCII_WHITESPACE)
        del text
        try:
            return cls(stripped)
        finally:
            del stripped

    def reveal(self) -> str:
        """The token itself."""
        return self.__text

    def __repr__(self) -> str:
        return "Secret(…)"

    def __format__(self, specification: str) -> str:
        return format(repr(self), specification)

    def __eq__(self, other: object) -> bool:
        """Compared in constant time."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.__text, other.__text)

    def __hash__(self) -> int:
        return hash((Secret, self.__text))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a secret does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a secret does not change")

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: object) -> "Secret":
        return self

    def __getstate__(self) -> NoReturn:
        raise TypeError("a secret is not serialised")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not serialised")


def redact(text: str, secrets: Iterable[Secret] = ()) -> str:
    """`text` with each of `secrets`, as it is or escaped, and everything that looks like a token replaced by `hf_…`."""
    spellings = {spelling for secret in secrets for spelling in _spellings(secret.reveal())}
    if spellings:
        # Longest first: a token that begins with another one is masked whole.
        pattern = "|".join(map(re.escape, sorted(spellings, key=len, reverse=True)))
        text = re.sub(pattern, _MASK, text)
    return _LOOKS_LIKE_A_TOKEN.sub(_MASK, text)


def one_line(text: str) -> str:
    """Text of another program on one line: runs of white space become a space, other unprintable characters escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))


def _spellings(token: str) -> tuple[str, ...]:
    return token, repr(token)[1:-1], json.dumps(token)[1:-1], quote(token, safe="")
