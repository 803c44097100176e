"""Edits of a metalchat.toml that keep every byte they are not about."""

import copy
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from metalchat_manifest import _atomic, _splice
from metalchat_manifest._keys import KeySyntaxError, join_key, split_key
from metalchat_manifest._scan import ScanError
from metalchat_manifest._toml import BOM, parse_toml
from metalchat_manifest.errors import EditRefused, InvalidSetting, ManifestNotFound
from metalchat_manifest.manifest import Manifest
from metalchat_manifest.schema import OPEN_TABLES, check_setting
from metalchat_manifest.spec import ModelSpec
from metalchat_manifest.values import Value, describe, is_value

Content: TypeAlias = Value | Sequence["Content"] | Mapping[str, "Content"]
"""What a table of another package may hold: values, arrays of them, and tables of them."""

_Path: TypeAlias = tuple[str, ...]


@contextmanager
def edit(path: Path, create: bool = True) -> Iterator["Editor"]:
    """An Editor of the manifest at `path`, saved when the block ends without an exception.

    The save is atomic, keeps the mode and follows a symbolic link to the file that it names; it is left out
    when no byte has changed. With `create` a missing file starts empty. What is saved reads back as a valid
    manifest, or InvalidManifest is raised instead. Raises ManifestNotFound, ManifestUnreadable, ManifestChanged
    and ManifestNotWritten; the file then is as it was.
    """
    before = _atomic.current(path)
    if before is None and not create:
        raise ManifestNotFound("there is no such file", path=path)
    editor = Editor(before or b"", path)
    yield editor
    after = editor.data
    if after != (before or b""):
        Manifest.parse(after, path)
        _atomic.replace(path, after, before)


class Editor:
    """The text of one manifest with the edits made to it so far. `edit` makes one and saves it.

    After each edit the text is parsed again and must mean exactly the old content with that edit; else
    EditRefused is raised and the text stays as it was.
    """

    def __init__(self, data: bytes, path: Path) -> None:
        self._path = path
        self._text, self._tables = parse_toml(data, path)
        self._mark = BOM if data.startswith(BOM.encode()) else ""

    @property
    def data(self) -> bytes:
        """The bytes of the edited file."""
        return (self._mark + self._text).encode()

    @property
    def tables(self) -> Mapping[str, Any]:
        """The content with the edits so far; read-only."""
        return MappingProxyType(self._tables)

    def set(self, key: str, value: Value) -> None:
        """Sets one dotted key, such as `inference.sampling.temperature` or `options.rms_norm_eps`.

        Raises InvalidSetting for a key or value that metalchat.toml does not take.
        """
        path = _parts(key)
        check_setting(join_key(path), value)
        self._apply({path: value}, ())

    def unset(self, key: str) -> bool:
        """Removes one dotted key with its line; False when it was not there. A table's header stays."""
        path = _parts(key)
        if _lookup(self._tables, path) is None:
            return False
        self._apply({}, (path,))
        return True

    def set_model(self, spec: ModelSpec) -> None:
        """Makes `spec` the content of `[model]`; everything else stays, other keys of that table included."""
        words = {
            "repository": spec.repository,
            "architecture": spec.architecture,
            "partitioning": spec.partitioning,
            "variant": spec.variant,
        }
        self._apply({("model", name): word for name, word in words.items()}, ())

    def set_table(self, name: str, mapping: Mapping[str, Content]) -> None:
        """Makes `mapping` the whole content of an open table: `source`, `tools`, `chat`, `engine`, `options` and so on.

        Keys that `mapping` has not are removed; the others keep their place and comments.
        """
        if name not in OPEN_TABLES:
            raise InvalidSetting(f"'{name}' is not a table that can be set as a whole", key=name)
        wanted = dict(_leaves((name,), mapping))
        for path, value in wanted.items():
            _check_content(path, value)
        present = [path for path, _ in _leaves((name,), self._tables.get(name, {}))]
        self._apply(wanted, [path for path in present if path not in wanted])

    def drop_empty(self, name: str) -> bool:
        """Removes the header of a table that holds nothing, and the empty line before it; False where there is none."""
        text = _splice.remove_header(self._text, (name,)) if self._tables.get(name) == {} else self._text
        if text == self._text:
            return False
        self._text, self._tables = text, tomllib.loads(text)
        return True

    def _apply(self, wanted: Mapping[_Path, Content], gone: Iterable[_Path]) -> None:
        text, expected = self._text, copy.deepcopy(self._tables)
        path: _Path = ()
        try:
            for path in gone:
                text = _splice.remove(text, path)
                _delete(expected, path)
            changed = {path: value for path, value in wanted.items() if not _same(_lookup(expected, path), value)}
            for path, value in changed.items():
                if path[0] not in expected:
                    text = _splice.add_table(text, path[:1], _nested(changed, path[0]))
                    expected[path[0]] = _nested(changed, path[0])
                elif not _same(_lookup(expected, path), value):
                    text = _splice.put(text, path, value)
                    _store(expected, path, value)
            text.encode()
            tables = tomllib.loads(text)
        except (_splice.CannotSplice, ScanError, ValueError, RecursionError) as error:
            raise self._refused(path) from error
        if not _same(_without_empty(tables), _without_empty(expected)):
            raise self._refused(path)
        self._text, self._tables = text, tables

    def _refused(self, path: _Path) -> EditRefused:
        key = join_key(path)
        message = f"'{key}' cannot be changed without rewriting other parts of the file. Change it by hand"
        return EditRefused(message, path=self._path, key=key)


def _parts(key: str) -> _Path:
    try:
        return split_key(key)
    except KeySyntaxError as error:
        raise InvalidSetting(f"'{key}' is not a dotted key", key=key) from error


def _check_content(path: _Path, value: object) -> None:
    key = join_key(path)
    if isinstance(value, Mapping):
        for name, item in value.items():
            _check_content((*path, name), item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            _check_content(path, item)
    elif not is_value(value):
        raise InvalidSetting(f"'{key}' is {describe(value)} that a manifest cannot hold", key=key)


def _leaves(path: _Path, content: Mapping[str, Any]) -> Iterator[tuple[_Path, Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves((*path, name), value)
        else:
            yield (*path, name), value


def _nested(leaves: Mapping[_Path, Content], table: str) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for path, value in leaves.items():
        if path[0] == table:
            _store(content, path[1:], value)
    return content


def _lookup(tables: Mapping[str, Any], path: _Path) -> Any:
    content: Any = tables
    for part in path:
        if not isinstance(content, dict) or part not in content:
            return None
        content = content[part]
    return content


def _store(tables: dict[str, Any], path: _Path, value: Content) -> None:
    for part in path[:-1]:
        tables = tables.setdefault(part, {})
        if not isinstance(tables, dict):
            raise _splice.CannotSplice(f"'{part}' is not a table")
    tables[path[-1]] = value


def _delete(tables: dict[str, Any], path: _Path) -> None:
    for part in path[:-1]:
        tables = tables[part]
    del tables[path[-1]]


def _same(left: object, right: object) -> bool:
    """Equal in type and value; NaN is the same as NaN, and a tuple the same as a list."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_same(value, right[name]) for name, value in left.items())
    if isinstance(left, str) or isinstance(right, str):
        return left == right
    if isinstance(left, Sequence) and isinstance(right, Sequence):
        return len(left) == len(right) and all(map(_same, left, right))
    return type(left) is type(right) and (left == right or (left != left and right != right))


def _without_empty(content: Any) -> Any:
    """`content` without empty tables: a header may stay when its last key goes, a dotted key cannot."""
    if not isinstance(content, dict):
        return content
    kept = {name: _without_empty(value) for name, value in content.items()}
    return {name: value for name, value in kept.items() if value != {}}
