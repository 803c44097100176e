"""uv's settings of package indexes: UV_* variables, then the user's and the system's uv.toml.

Files of a project (`uv.toml`, `pyproject.toml`) are not read: what somebody cloned does not choose where models come
from. Indexes marked `explicit` serve only what a project pins to them, so they are left out.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from metalchat_store.remotes._index_settings import Named, Settings, is_true, read_settings, under_home, unreadable

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.*)", re.DOTALL)
_ROOT = Path("/")


def read(environ: Mapping[str, str], *, root: Path = _ROOT) -> Settings:
    """What uv would use; nothing if uv is not configured. `root` is where `/etc` lies."""
    files = [_File(environ, path, must) for path, must in _files(environ, root)]
    defaults = [
        *_written(environ, "UV_DEFAULT_INDEX"),
        *_written(environ, "UV_INDEX_URL"),
        *(named for file in files for named in file.defaults()),
    ]
    extra = [
        *_written(environ, "UV_INDEX"),
        *_written(environ, "UV_EXTRA_INDEX_URL"),
        *(named for file in files for named in file.extra()),
    ]
    links = [
        *(Named(text=text.strip(), setting="UV_FIND_LINKS") for text in environ.get("UV_FIND_LINKS", "").split(",")),
        *(named for file in files for named in file.strings("find-links")),
    ]
    closed = ["UV_NO_INDEX"] if is_true(environ.get("UV_NO_INDEX", "")) else [file.closed for file in files]
    return Settings(
        default=defaults[0] if defaults else None,
        extra=tuple(extra),
        links=tuple(named for named in links if named.text),
        closed=next(filter(None, closed), None),
    )


def _files(environ: Mapping[str, str], root: Path) -> Iterator[tuple[Path, bool]]:
    """uv's files, the strongest first, and whether each must exist."""
    if is_true(environ.get("UV_NO_CONFIG", "")):
        return
    own = environ.get("UV_CONFIG_FILE")
    if own:
        yield Path(own), True
        return
    configured = environ.get("XDG_CONFIG_HOME")
    users = (Path(configured),) if configured else under_home(environ, ".config")
    shared = [Path(folder) for folder in environ.get("XDG_CONFIG_DIRS", "").split(os.pathsep) if folder]
    folders = [*(shared or [root / "etc/xdg"]), root / "etc"]
    for path in [*(folder / "uv" / "uv.toml" for folder in (*users, *folders))]:
        yield path, False


def _written(environ: Mapping[str, str], variable: str) -> list[Named]:
    return [_named(environ, text, variable, None) for text in environ.get(variable, "").split()]


def _named(environ: Mapping[str, str], text: str, setting: str, base: Path | None, name: str = "") -> Named:
    """An address, or `name=address`; a named index may have its login in variables of its own."""
    found = _NAMED.fullmatch(text)
    if found is not None:
        name, text = found[1], found[2]
    login = None
    if name:
        prefix = f"UV_INDEX_{re.sub('[^A-Z0-9]', '_', name.upper())}"
        user, password = environ.get(f"{prefix}_USERNAME", ""), environ.get(f"{prefix}_PASSWORD", "")
        login = f"{user}:{password}" if user or password else None
    return Named(text=text, setting=setting, base=base, login=login)


class _File:
    """One uv.toml."""

    def __init__(self, environ: Mapping[str, str], path: Path, must: bool) -> None:
        self._environ = environ
        self._path = path
        text = read_settings(path, must=must)
        try:
            self._tables = tomllib.loads(text or "")
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise unreadable(path, "it is not valid TOML") from error

    @property
    def closed(self) -> str | None:
        """The setting that forbids indexes."""
        return self._setting("no-index") if self._tables.get("no-index") is True else None

    def strings(self, key: str) -> Iterator[Named]:
        """The addresses of a key that holds one text or a list of them."""
        value = self._tables.get(key, [])
        for text in cast("list[object]", value) if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                raise unreadable(self._path, f"'{key}' is not made of texts")
            yield _named(self._environ, text, self._setting(key), self._path.parent)

    def defaults(self) -> Iterator[Named]:
        """The default index."""
        yield from self._indexes(default=True)
        yield from self.strings("index-url")

    def extra(self) -> Iterator[Named]:
        """All other indexes."""
        yield from self._indexes(default=False)
        yield from self.strings("extra-index-url")

    def _indexes(self, *, default: bool) -> Iterator[Named]:
        value = self._tables.get("index", [])
        for item in cast("list[object]", value) if isinstance(value, list) else [value]:
            table = cast("dict[str, object]", item) if isinstance(item, dict) else {}
            url, name = table.get("url"), table.get("name", "")
            if not isinstance(url, str) or not isinstance(name, str):
                raise unreadable(self._path, "an [[index]] has no 'url'")
            if (table.get("default") is True) == default and table.get("explicit") is not True:
                yield _named(self._environ, url, self._setting("index"), self._path.parent, name)

    def _setting(self, key: str) -> str:
        return f"'{key}' in {self._path}"
