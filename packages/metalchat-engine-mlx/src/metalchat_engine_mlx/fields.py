"""Typed, ranged access to the keys of an untrusted config."""

import math
from collections import UserDict
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from metalchat_engine import InvalidModel, UnsupportedModel, UnsupportedRequest

Options = Mapping[str, bool | int | float | str]


class _Document(UserDict[str, Any]):
    """A config that knows which of its keys somebody has asked for."""

    asked: set[str]

    def __getitem__(self, key: str) -> Any:  # pyrefly: ignore[missing-override-decorator] - it needs Python 3.12
        self.asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:  # pyrefly: ignore[missing-override-decorator] - the same
        self.asked.add(str(key))
        return super().__contains__(key)


class Fields:
    """Typed, ranged access to the keys of a config; `options` win over the file, key by key.

    A bad value of the file raises InvalidModel, a bad option UnsupportedRequest.
    """

    def __init__(self, document: Mapping[str, Any], what: str, options: Options | None = None) -> None:
        self.what = what
        self.options = options or {}
        self.document = _Document({**document, **self.options})
        self.document.asked = set()

    def nested(self, document: Mapping[str, Any]) -> "Fields":
        """The same options over another document."""
        other = Fields(document, self.what, self.options)
        other.document.asked = self.document.asked
        return other

    def check_options(self) -> None:
        """Refuse an option that nothing has asked for: it would change nothing."""
        for key in self.options:
            if key not in self.document.asked:
                model_type = shown(self.document.get("model_type"))
                raise UnsupportedRequest(f"option '{key}' does nothing for a model of type {model_type}", option=key)

    def refuse(self, key: str, value: object, expected: str) -> NoReturn:
        if key in self.options:
            raise UnsupportedRequest(f"option '{key}' is {shown(value)}, expected {expected}", option=key)
        raise InvalidModel(f"'{self.what}': '{_name(key)}' is {shown(value)}, expected {expected}")

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self.document.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(key, value, f"{low} to {high}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value = self.document.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.refuse(key, value, f"{low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.document.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(key, value, "true or false")
        return value

    def ids(self, key: str, vocab_size: int) -> frozenset[int]:
        """A token id or a list of 1 to 64 of them; none where the key is missing or null."""
        value = self.document.get(key)
        if value is None:
            return frozenset()
        found = value if isinstance(value, list) else [value]
        if not 1 <= len(found) <= 64 or not all(
            isinstance(item, int) and not isinstance(item, bool) and 0 <= item < vocab_size for item in found
        ):
            self.refuse(key, value, f"a token id below {vocab_size}, or a list of 1 to 64")
        return frozenset(found)

    def choice(self, key: str, allowed: Sequence[str], default: str) -> str:
        """One of the texts that this engine knows; raises UnsupportedModel for another."""
        value = self.document.get(key)
        if value is None:
            return default
        if value not in allowed:
            self.unsupported(key, value, " and ".join(filter(None, (", ".join(allowed[:-1]), allowed[-1]))))
        return str(value)

    def only(self, key: str, value: object) -> None:
        """Refuse a key with a value that is neither missing, null nor `value`: this engine has no other."""
        found = self.document.get(key)
        if found is not None and found != value:
            self.unsupported(key, found, shown(value))

    def unsupported(self, key: str, value: object, runs: str) -> NoReturn:
        raise UnsupportedModel(f"'{self.what}': '{_name(key)}' is {shown(value)}, this engine runs {runs}")


def _name(key: str) -> str:
    """A key for a message, of which the file may have any."""
    return key[:120] if key.isprintable() else ascii(key)[1:-1][:120]


def shown(value: object) -> str:
    """A value for a message: one line of printable ASCII, cut at 60 characters."""
    if value is None:
        return "missing"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
