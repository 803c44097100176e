"""Which tables and keys metalchat.toml has, and what their values may be."""

from collections.abc import Mapping
from dataclasses import dataclass

from metalchat_manifest._nearest import nearest
from metalchat_manifest._text import is_printable, quoted
from metalchat_manifest.errors import InvalidSetting
from metalchat_manifest.options import KNOWN_OPTIONS, option_problem, parse_option
from metalchat_manifest.values import Value, describe, from_text, infer, is_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A known key: its dotted name, the type of its value, and the range (both ends included) or the choices."""

    name: str
    kind: type[Value]
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()

    @property
    def expected(self) -> str:
        """What a valid value is, with an article."""
        if self.choices:
            return " or ".join(f"'{choice}'" for choice in self.choices)
        if self.kind is str:
            return "a string"
        return f"{'an integer' if self.kind is int else 'a number'} from {self.low:g} to {_number(self.high)}"

    def problem(self, value: object) -> str | None:
        """What is wrong with `value`, as the end of a sentence that begins with the key; None when nothing is."""
        if type(value) is not self.kind and not (self.kind is float and type(value) is int):
            return f"is {describe(value)}, expected {self.expected}"
        if isinstance(value, str):
            if self.choices and value not in self.choices:
                return f"is {quoted(value)}, expected {self.expected}"
            return None if is_printable(value) else "contains a control or invisible character"
        if isinstance(value, int | float) and not self.low <= value <= self.high:
            return f"is {_number(value)}, expected {self.expected}"
        return None


def _number(value: float) -> str:
    return str(value) if isinstance(value, float) or abs(value) < 10**30 else "far too large"


_SMALL_INTEGER = 2**31 - 1
_SAMPLING = "inference.sampling"

KEYS: Mapping[str, Key] = {
    key.name: key
    for key in (
        Key(name="model.repository", kind=str),
        Key(name="model.architecture", kind=str),
        Key(name="model.partitioning", kind=str),
        Key(name="model.variant", kind=str),
        Key(name="prompt.system", kind=str),
        Key(name="engine.name", kind=str),
        Key(name="inference.max_sequence_length", kind=int, low=1, high=_SMALL_INTEGER),
        Key(name=f"{_SAMPLING}.type", kind=str, choices=("nucleus", "greedy")),
        Key(name=f"{_SAMPLING}.temperature", kind=float, high=100),
        Key(name=f"{_SAMPLING}.probability", kind=float, high=1),
        Key(name=f"{_SAMPLING}.k", kind=int, high=_SMALL_INTEGER),
        Key(name=f"{_SAMPLING}.min_p", kind=float, high=1),
        Key(name=f"{_SAMPLING}.repetition_penalty", kind=float, low=0.01, high=100),
        Key(name=f"{_SAMPLING}.presence_penalty", kind=float, high=2),
        Key(name=f"{_SAMPLING}.frequency_penalty", kind=float, high=2),
        Key(name=f"{_SAMPLING}.seed", kind=int, high=2**63 - 1),
    )
}
"""Every key with a fixed meaning, by dotted name."""

CLOSED_TABLES = frozenset({"model", "prompt", "inference", _SAMPLING})
"""Tables whose keys are all in KEYS. A key close to a known one is a misspelling; another one is reported."""

OPEN_TABLES = frozenset({"options", "engine", "calibration", "quantization", "chat", "tools", "source"})
"""Tables whose keys belong to the model, to an engine or to another package of metalchat."""


def names_in(table: str) -> tuple[str, ...]:
    """The known names directly inside a table, sub-tables included: `system` for `prompt`."""
    start = f"{table}."
    names = (name.removeprefix(start).partition(".")[0] for name in KEYS if name.startswith(start))
    return tuple(dict.fromkeys(names))


def misspelling(key: str) -> str | None:
    """The known dotted key that `key` is a misspelling of, or None: it is known, or it is far from all."""
    table, _, name = key.rpartition(".")
    if key in KEYS or key in CLOSED_TABLES:
        return None
    if table not in CLOSED_TABLES and table != "engine":
        return None
    close = nearest(name, names_in(table))
    return f"{table}.{close}" if close else None


def nearest_key(key: str) -> str | None:
    """The known dotted key that `key`, which may lack its table or have another, was meant to be.

    None where `key` is known, belongs to an engine or another package, or is far from all.
    """
    table, _, name = key.rpartition(".")
    if key in KEYS or (table == "options" and name in KNOWN_OPTIONS):
        return None
    if (meant := misspelling(key)) is not None:
        return meant
    if key.partition(".")[0] in OPEN_TABLES - {"options"}:
        return None
    options = {option: f"options.{option}" for option in KNOWN_OPTIONS}
    ends = options if table == "options" else options | {known.rpartition(".")[2]: known for known in KEYS}
    close = nearest(name, ends)
    return ends[close] if close else None


def check_setting(key: str, value: object) -> None:
    """Raises InvalidSetting when `key` is misspelt or unknown, or `value` is not what it takes.

    Keys of the open tables take any boolean, 64-bit integer, finite float or string.
    """
    problem: str | None = None
    table, _, name = key.partition(".")
    if key in KEYS:
        problem = KEYS[key].problem(value)
    elif table == "options" and name:
        problem = option_problem(name, value)
    elif meant := misspelling(key):
        raise InvalidSetting(f"'{key}' is not a known key; did you mean '{meant}'?", key=key)
    elif table not in OPEN_TABLES or not name:
        raise InvalidSetting(f"'{key}' is not a known key", key=key)
    elif not is_value(value):
        problem = f"is {describe(value)}, expected a finite boolean, integer, number or string"
    if problem is not None:
        raise InvalidSetting(f"'{key}' {problem}", key=key)


def parse_value(key: str, text: str) -> Value:
    """The value that `text`, of a flag or an environment variable, means for `key`.

    Known keys and known options have their type; in open tables it is inferred. Raises InvalidSetting, and
    UnknownOption for an option that is not known.
    """
    table, _, name = key.partition(".")
    if table == "options":
        return parse_option(name, text)
    value = _read_text(key, text)
    check_setting(key, value)
    return value


def _read_text(key: str, text: str) -> Value:
    known = KEYS.get(key)
    if known is None:
        return infer(text)
    value = from_text(text, known.kind)
    if value is None:
        raise InvalidSetting(f"'{key}' is {quoted(text)}, expected {known.expected}", key=key)
    return value
