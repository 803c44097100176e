"""Arguments held against the JSON Schema that a tool declares."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

_DEPTH = 64
_STEPS = 200_000
_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
    ),
}


def problem(value: object, schema: Mapping[str, Any]) -> str | None:
    """The first thing in `value` that the schema does not allow, in one line; None if there is nothing.

    Of JSON Schema it knows type, enum, const, required, properties, additionalProperties, minProperties, maxProperties,
    items, prefixItems, minItems, maxItems, uniqueItems, minLength, maxLength, pattern, minimum, maximum,
    exclusiveMinimum, exclusiveMaximum, multipleOf, anyOf, oneOf, allOf, not, and `$ref` inside the schema. Other
    keywords are annotations.
    """
    return next(_Check(schema).problems(value, schema, "", 0), None)


class _Check:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._steps = 0

    def problems(self, value: Any, schema: Any, where: str, depth: int) -> Iterator[str]:
        name = f"'{where}'" if where else "the arguments"
        if schema is False:
            yield f"{name} may not be there"
            return
        if not isinstance(schema, Mapping):
            return
        self._steps += 1
        if depth > _DEPTH or self._steps > _STEPS:
            yield f"{name} is nested too deeply, or its schema takes too long to check"
            return
        if isinstance(schema.get("$ref"), str):
            yield from self.problems(value, self._resolved(schema["$ref"]), where, depth + 1)
        types = schema.get("type")
        allowed = [types] if isinstance(types, str) else types if isinstance(types, list) else []
        known = [_TYPES[found] for found in allowed if found in _TYPES]
        if known and not any(fits(value) for fits in known):
            yield f"{name} must be of type {' or '.join(map(str, allowed))}"
        if isinstance(schema.get("enum"), list) and not any(_same(value, one) for one in schema["enum"]):
            yield f"{name} must be one of {_short(schema['enum'])}"
        if "const" in schema and not _same(value, schema["const"]):
            yield f"{name} must be {_short(schema['const'])}"
        if isinstance(value, dict):
            yield from self._object(value, schema, where, name, depth)
        elif isinstance(value, list):
            yield from self._array(value, schema, where, name, depth)
        elif isinstance(value, str):
            yield from _string(value, schema, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield from _number(value, schema, name)
        yield from self._combined(value, schema, where, name, depth)

    def _object(
        self, value: dict[str, Any], schema: Mapping[str, Any], where: str, name: str, depth: int
    ) -> Iterator[str]:
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        required = schema.get("required")
        for key in required if isinstance(required, list) else ():
            if key not in value:
                yield f"'{_joined(where, str(key))}' is missing"
        other = schema.get("additionalProperties", True)
        for key, item in value.items():
            path = _joined(where, key)
            if key in properties:
                yield from self.problems(item, properties[key], path, depth + 1)
            elif other is False:
                yield f"'{path}' is not a known key"
            else:
                yield from self.problems(item, other, path, depth + 1)
        yield from _sized(len(value), schema, "minProperties", "maxProperties", f"{name} must have", "keys")

    def _array(self, value: list[Any], schema: Mapping[str, Any], where: str, name: str, depth: int) -> Iterator[str]:
        prefix = schema.get("prefixItems")
        prefix = prefix if isinstance(prefix, list) else []
        for place, item in enumerate(value):
            rule = prefix[place] if place < len(prefix) else schema.get("items", True)
            yield from self.problems(item, rule, f"{where}[{place}]", depth + 1)
        yield from _sized(len(value), schema, "minItems", "maxItems", f"{name} must have", "items")
        if schema.get("uniqueItems") is True:
            seen = [json.dumps(item, sort_keys=True) for item in value]
            if len(set(seen)) < len(seen):
                yield f"{name} must not repeat an item"

    def _combined(self, value: Any, schema: Mapping[str, Any], where: str, name: str, depth: int) -> Iterator[str]:
        for rule in _list(schema.get("allOf")):
            yield from self.problems(value, rule, where, depth + 1)
        for key in ("anyOf", "oneOf"):
            rules = _list(schema.get(key))
            fitting = sum(next(self.problems(value, rule, where, depth + 1), None) is None for rule in rules)
            if rules and (fitting == 0 or (key == "oneOf" and fitting > 1)):
                yield f"{name} must fit {'one' if key == 'anyOf' else 'exactly one'} of the schemas of {key}"
        if "not" in schema and next(self.problems(value, schema["not"], where, depth + 1), None) is None:
            yield f"{name} is what its schema rules out"

    def _resolved(self, reference: str) -> Any:
        """What a reference inside the schema points at; a schema that nothing satisfies if it points nowhere."""
        found: Any = self._root
        if reference != "#" and not reference.startswith("#/"):
            return False
        for part in reference[2:].split("/") if reference != "#" else ():
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and key in found:
                found = found[key]
            elif isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            else:
                return False
        return found


def _string(value: str, schema: Mapping[str, Any], name: str) -> Iterator[str]:
    yield from _sized(len(value), schema, "minLength", "maxLength", f"{name} must have", "characters")
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        try:
            fits = re.search(pattern, value) is not None
        except (re.error, RecursionError, OverflowError):
            return  # a pattern of another dialect says nothing here
        if not fits:
            yield f"{name} must match {_short(pattern)}"


def _number(value: float, schema: Mapping[str, Any], name: str) -> Iterator[str]:
    rules: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
        ("minimum", "at least", lambda bound: value >= bound),
        ("maximum", "at most", lambda bound: value <= bound),
        ("exclusiveMinimum", "above", lambda bound: value > bound),
        ("exclusiveMaximum", "below", lambda bound: value < bound),
    )
    for key, words, fits in rules:
        bound = schema.get(key)
        if isinstance(bound, int | float) and not isinstance(bound, bool) and not fits(bound):
            yield f"{name} must be {words} {bound}"
    step = schema.get("multipleOf")
    if isinstance(step, int | float) and step > 0:
        try:
            whole = value % step == 0 if isinstance(value, int) and isinstance(step, int) else _near(value / step)
        except OverflowError:
            whole = False
        if not whole:
            yield f"{name} must be a multiple of {step}"


def _near(ratio: float) -> bool:
    return abs(ratio - round(ratio)) < 1e-9


def _sized(size: int, schema: Mapping[str, Any], low: str, high: str, words: str, unit: str) -> Iterator[str]:
    if isinstance(schema.get(low), int) and size < schema[low]:
        yield f"{words} at least {schema[low]} {unit}"
    if isinstance(schema.get(high), int) and size > schema[high]:
        yield f"{words} at most {schema[high]} {unit}"


def _same(value: Any, other: Any) -> bool:
    """Equality of JSON: true is not 1, at any depth."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_same, value, other))
    if isinstance(value, dict) and isinstance(other, Mapping):
        return value.keys() == other.keys() and all(_same(value[key], other[key]) for key in value)
    return bool(value == other)


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _joined(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 120 else text[:119] + "…"
