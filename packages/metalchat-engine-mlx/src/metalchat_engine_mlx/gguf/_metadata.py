"""Typed access to the metadata of a GGUF header; whatever is absent or out of range is named."""

import math

from metalchat_engine import InvalidModel, UnsupportedModel

from metalchat_engine_mlx.gguf.header import GgufHeader, GgufNumbers, GgufStrings


def text(header: GgufHeader, key: str, *, default: str | None = None) -> str:
    """The string at `key`; without a default it must be there."""
    value = header.metadata.get(key, default)
    if value is None:
        raise invalid(header, f"'{key}' is missing")
    if not isinstance(value, str):
        raise invalid(header, f"'{key}' is not a string")
    return value


def _number(header: GgufHeader, key: str, default: float | None) -> int | float:
    """A number, or the one number that an array with a value for each layer repeats."""
    value = header.metadata.get(key, default)
    if value is None:
        raise invalid(header, f"'{key}' is missing")
    if isinstance(value, GgufNumbers):
        values = set(value.values())
        if len(values) > 1:
            raise UnsupportedModel(f"'{header.file}': '{key}' differs by layer, which is not supported")
        if values:
            value = values.pop()
    if isinstance(value, (bool, str, GgufNumbers, GgufStrings)):
        raise invalid(header, f"'{key}' is not a number")
    return value


def flag(header: GgufHeader, key: str, *, default: bool) -> bool:
    """The truth value at `key`."""
    value = header.metadata.get(key, default)
    if not isinstance(value, bool):
        raise invalid(header, f"'{key}' is not true or false")
    return value


def whole(header: GgufHeader, key: str, *, high: int, default: int | None = None) -> int:
    """The whole number at `key`, from 1 (or a smaller default) to `high`."""
    value = _number(header, key, default)
    low = 1 if default is None else min(1, default)
    if not isinstance(value, int) or not low <= value <= high:
        raise invalid(header, f"'{key}' is {value}, expected a whole number from {low} to {high}")
    return value


def real(header: GgufHeader, key: str, *, low: float, high: float, default: float | None = None) -> float:
    """The finite number at `key`, from `low` to `high`."""
    value = float(_number(header, key, default))
    if not math.isfinite(value) or not low <= value <= high:
        raise invalid(header, f"'{key}' is {value}, expected {low:g} to {high:g}")
    return value


def invalid(header: GgufHeader, reason: str) -> InvalidModel:
    """The error for a file that contradicts itself."""
    return InvalidModel(f"'{header.file}' is not a valid GGUF file: {reason}")


def token_id(header: GgufHeader, name: str, count: int) -> int | None:
    """The id that 'tokenizer.ggml.<name>_token_id' names, or None. Raises InvalidModel unless it is below `count`."""
    key = f"tokenizer.ggml.{name}_token_id"
    value = header.metadata.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(header, f"'{key}' is not a whole number")
    if value in (-1, 2**32 - 1):  # how writers spell "none"
        return None
    if not 0 <= value < count:
        raise invalid(header, f"'{key}' is {value}, expected 0 to {count - 1}")
    return value
