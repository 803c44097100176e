"""The four kinds of value that a setting can have, and how text becomes one."""

import math
import re
from collections.abc import Mapping
from typing import TypeAlias

Value: TypeAlias = bool | int | float | str

LARGEST_INTEGER = 2**63 - 1  # TOML 1.0: integers are 64-bit signed
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_FLOAT = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,4})?")

TYPE_NAMES: Mapping[str, type[Value]] = {"bool": bool, "int": int, "float": float, "str": str}
"""The names that `options set --type` takes."""

_ARTICLES: Mapping[type, str] = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "a table",
}


def describe(value: object) -> str:
    """What kind of TOML value it is, with an article; never the value itself."""
    return _ARTICLES.get(type(value), "a date or time")


def is_value(value: object) -> bool:
    """A boolean, a 64-bit integer, a finite float or a string."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return -LARGEST_INTEGER - 1 <= value <= LARGEST_INTEGER
    return isinstance(value, bool | str)


def from_text(text: str, kind: type[Value]) -> Value | None:
    """`text` as a value of `kind`, or None when it is not one. Booleans are `true` and `false`."""
    if kind is str:
        return text
    if kind is bool:
        return {"true": True, "false": False}.get(text)
    if kind is int:
        number = int(text) if _INTEGER.fullmatch(text) else None
        return number if number is not None and is_value(number) else None
    fraction = float(text) if _FLOAT.fullmatch(text) else math.nan
    return fraction if math.isfinite(fraction) else None


def infer(text: str) -> Value:
    """`text` as the first of boolean, integer, float that it reads as, else as it is."""
    for kind in (bool, int, float):
        value = from_text(text, kind)
        if value is not None:
            return value
    return text
