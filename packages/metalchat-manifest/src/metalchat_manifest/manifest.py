"""One metalchat.toml, read and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from metalchat_manifest._keys import KeySyntaxError, split_key
from metalchat_manifest._nearest import nearest
from metalchat_manifest._reader import Places, Reader
from metalchat_manifest._toml import parse_toml, read_manifest
from metalchat_manifest.options import KNOWN_OPTIONS
from metalchat_manifest.schema import CLOSED_TABLES, OPEN_TABLES
from metalchat_manifest.spec import ModelSpec
from metalchat_manifest.values import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownKey:
    """A key or table that metalchat does not read: kept by every edit, reported, and without effect.

    An option that no known model has does take effect and is reported all the same. `nearest` is a known
    name that resembles it, if there is one.
    """

    key: str
    line: int | None
    nearest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of one metalchat.toml.

    `values` holds, by dotted key, every known key, every option, and the scalars of the open tables (`engine`,
    `calibration`, `quantization`, `chat`, `tools`, `source`). Keys of metalchat's own with a float's meaning are
    floats even where the file has an integer. `tables` is the whole document as the parser gives it; treat it as
    read-only.
    """

    path: Path
    model: ModelSpec | None
    values: Mapping[str, Value]
    tables: Mapping[str, Any]
    _unknown: tuple[str, ...]
    _places: Places

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """The manifest at `path`. Raises ManifestNotFound, ManifestUnreadable, InvalidManifest."""
        return cls.parse(read_manifest(path), path)

    @classmethod
    def parse(cls, data: bytes, path: Path) -> "Manifest":
        """The manifest of these bytes; `path` is what messages name. Raises InvalidManifest."""
        text, tables = parse_toml(data, path)
        places = Places(text)
        reader = Reader(path, places)
        reader.refuse_secrets(text, tables)
        reader.top(tables)
        return cls(
            path=path,
            model=reader.model(tables),
            values=MappingProxyType(reader.values),
            tables=MappingProxyType(tables),
            _unknown=tuple(reader.unknown),
            _places=places,
        )

    @property
    def unknown(self) -> tuple[UnknownKey, ...]:
        """What the file holds that metalchat does not know, in the order of the document."""
        return tuple(UnknownKey(key=key, line=self.line(key), nearest=_nearest_key(key)) for key in self._unknown)

    def line(self, key: str) -> int | None:
        """The line, from 1, of a dotted key or table; None where the file does not have it."""
        try:
            return self._places.line(split_key(key))
        except KeySyntaxError:
            return None

    def section(self, table: str) -> Mapping[str, Value]:
        """The values whose keys begin with `table`, without that beginning."""
        start = f"{table}."
        return {key.removeprefix(start): value for key, value in self.values.items() if key.startswith(start)}


def _nearest_key(key: str) -> str | None:
    table, _, name = key.rpartition(".")
    if table == "options":
        return nearest(name, KNOWN_OPTIONS)
    return None if table else nearest(name, sorted(OPEN_TABLES | CLOSED_TABLES))
