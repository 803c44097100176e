"""The checks that a parsed metalchat.toml passes, and the values that they collect."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalchat_manifest._keys import Path as KeyPath
from metalchat_manifest._keys import join_key
from metalchat_manifest._secrets import TooDeep, secret_path, token_offset
from metalchat_manifest.errors import (
    InvalidManifest,
    InvalidRepository,
    InvalidSpec,
    InvalidValue,
    MisspeltKey,
    SecretInManifest,
)
from metalchat_manifest.options import KNOWN_OPTIONS, option_problem
from metalchat_manifest.schema import CLOSED_TABLES, KEYS, OPEN_TABLES, misspelling
from metalchat_manifest.spec import ModelSpec
from metalchat_manifest.values import Value, describe, is_value

if TYPE_CHECKING:
    from metalchat_manifest._scan import Document

_MAX_UNKNOWN = 1000  # each costs a search for the key that was meant
_MODEL_KEYS = ("repository", "architecture", "partitioning", "variant")


class Places:
    """The lines of a document's keys, found when the first one is asked for."""

    __slots__ = ("_document", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._document: Document | None = None

    def line(self, path: KeyPath) -> int | None:
        """The line, from 1, where the key or table begins; None where the document does not have it."""
        from metalchat_manifest._scan import ScanError, scan

        try:
            self._document = self._document or scan(self._text)
        except ScanError:  # deeper than what is accepted; the document is being refused for something before that
            return None
        return self._document.line_of(path)


class Reader:
    """The checks of one document, and what they collect."""

    def __init__(self, path: Path, places: Places) -> None:
        self.path = path
        self.values: dict[str, Value] = {}
        self.unknown: list[str] = []
        self._places = places

    def not_known(self, key: str) -> None:
        self.unknown.append(key)
        if len(self.unknown) > _MAX_UNKNOWN:
            raise InvalidManifest(f"it has more than {_MAX_UNKNOWN} keys that are not known", path=self.path)

    def refuse_secrets(self, text: str, tables: dict[str, Any]) -> None:
        try:
            path = secret_path(tables)
        except TooDeep as error:
            raise InvalidManifest("tables or arrays are nested too deeply", path=self.path) from error
        line = self._places.line(path) if path else None
        if path is None:
            offset = token_offset(text)
            if offset is None:
                return
            line = text.count("\n", 0, offset) + 1
        raise SecretInManifest(
            "an access token must not be written in the manifest. Remove it and run 'metalchat credential add'",
            path=self.path,
            line=line,
        )

    def top(self, tables: dict[str, Any]) -> None:
        for name, content in tables.items():
            key = join_key((name,))
            if key not in CLOSED_TABLES and key not in OPEN_TABLES:
                self.not_known(key)
            elif not isinstance(content, dict):
                raise self.invalid((name,), f"is {describe(content)}, expected a table")
            elif name in CLOSED_TABLES:
                self.closed((name,), content)
            elif name == "options":
                self.options(content)
            else:
                for path, value in _leaves((name,), content):
                    self.open(path, value)

    def closed(self, table: tuple[str, ...], content: dict[str, Any]) -> None:
        for name, value in content.items():
            path = (*table, name)
            key = join_key(path)
            if key in KEYS:
                self.known(path, key, value)
            elif key not in CLOSED_TABLES:
                self.refuse_misspelling(path, key)
                self.not_known(key)
            elif isinstance(value, dict):
                self.closed(path, value)
            else:
                raise self.invalid(path, f"is {describe(value)}, expected a table")

    def options(self, content: dict[str, Any]) -> None:
        for name, value in content.items():
            path = ("options", name)
            problem = option_problem(name, value)
            if problem is not None:
                raise self.invalid(path, problem)
            key = join_key(path)
            self.values[key] = value
            if name not in KNOWN_OPTIONS:
                self.not_known(key)

    def open(self, path: tuple[str, ...], value: object) -> None:
        key = join_key(path)
        if key in KEYS:
            self.known(path, key, value)
            return
        self.refuse_misspelling(path, key)
        if isinstance(value, bool | int | float | str):
            if not is_value(value):
                raise self.invalid(path, "is not a finite number of 64 bits")
            self.values[key] = value

    def known(self, path: tuple[str, ...], key: str, value: Any) -> None:
        problem = KEYS[key].problem(value)
        if problem is not None:
            raise self.invalid(path, problem)
        self.values[key] = float(value) if KEYS[key].kind is float else value

    def refuse_misspelling(self, path: tuple[str, ...], key: str) -> None:
        meant = misspelling(key)
        if meant is not None:
            message = f"'{key}' is not a known key; did you mean '{meant}'?"
            raise MisspeltKey(message, path=self.path, line=self._places.line(path), key=key)

    def model(self, tables: dict[str, Any]) -> ModelSpec | None:
        content = tables.get("model")
        if content is None:
            return None
        for name in _MODEL_KEYS:
            if name not in content:
                message = f"'model.{name}' is missing; 'metalchat checkout' writes the whole table"
                raise InvalidValue(message, path=self.path, line=self._places.line(("model",)), key=f"model.{name}")
        try:
            return ModelSpec(**{name: content[name] for name in _MODEL_KEYS})
        except InvalidRepository as error:
            raise self.invalid(("model", "repository"), f"is not valid: {error}") from error
        except InvalidSpec as error:
            raise self.invalid(("model", error.key or ""), f"is not valid: {error}") from error

    def invalid(self, path: tuple[str, ...], problem: str) -> InvalidValue:
        key = join_key(path)
        return InvalidValue(f"'{key}' {problem}", path=self.path, line=self._places.line(path), key=key)


def _leaves(path: tuple[str, ...], content: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], object]]:
    for name, value in content.items():
        if isinstance(value, dict) and join_key((*path, name)) not in KEYS:
            yield from _leaves((*path, name), value)
        else:
            yield (*path, name), value
