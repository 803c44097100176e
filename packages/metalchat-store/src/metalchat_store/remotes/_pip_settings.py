"""pip's settings of package indexes: PIP_* variables, then its files, as pip's documentation orders them.

Of the sections of a file, `[download]` wins over `[install]`, and that over `[global]`. PIP_CONFIG_FILE takes the
place of the user's file; with the name of the null device no file is read.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from metalchat_store.remotes._index_settings import Named, Settings, is_true, read_settings, under_home, unreadable

_SECTIONS = ("download", "install", "global")
_ROOT = Path("/")

Value = tuple[str, str]
"""A value as it is written, and the setting that it comes from."""


def read(environ: Mapping[str, str], *, system: str = sys.platform, root: Path = _ROOT) -> Settings:
    """What pip would use. `root` is where `/etc` lies."""
    files = _values(files_of(environ, system=system, root=root))

    def value(key: str) -> Value | None:
        variable = f"PIP_{key.upper().replace('-', '_')}"
        if environ.get(variable):
            return environ[variable], variable
        return next((files[section, key] for section in _SECTIONS if files.get((section, key), ("",))[0]), None)

    def listed(key: str) -> tuple[Named, ...]:
        found = value(key)
        return () if found is None else tuple(Named(text=text, setting=found[1]) for text in found[0].split())

    closed = value("no-index")
    return Settings(
        default=next(iter(listed("index-url")), None),
        extra=listed("extra-index-url"),
        links=listed("find-links"),
        closed=closed[1] if closed is not None and is_true(closed[0]) else None,
    )


def files_of(environ: Mapping[str, str], *, system: str, root: Path) -> tuple[Path, ...]:
    """pip's files, the weakest first, whether they exist or not."""
    own = environ.get("PIP_CONFIG_FILE")
    if own == os.devnull:
        return ()
    mac = system == "darwin"
    if mac:
        found = [root / "Library/Application Support/pip/pip.conf"]
    else:
        folders = [path for path in environ.get("XDG_CONFIG_DIRS", "").split(os.pathsep) if path]
        found = [Path(folder, "pip", "pip.conf") for folder in folders or [root / "etc/xdg"]] + [root / "etc/pip.conf"]
    if not own or not Path(own).exists():
        found += [*under_home(environ, ".pip", "pip.conf"), *_users(environ, mac=mac)]
    found.append(Path(sys.prefix, "pip.conf"))
    return (*found, Path(own)) if own else tuple(found)


def _users(environ: Mapping[str, str], *, mac: bool) -> tuple[Path, ...]:
    if mac:
        support = under_home(environ, "Library", "Application Support", "pip")
        if any(folder.is_dir() for folder in support):
            return tuple(folder / "pip.conf" for folder in support)
        return under_home(environ, ".config", "pip", "pip.conf")
    configured = environ.get("XDG_CONFIG_HOME")
    if configured:
        return (Path(configured, "pip", "pip.conf"),)
    return under_home(environ, ".config", "pip", "pip.conf")


def _values(paths: tuple[Path, ...]) -> dict[tuple[str, str], Value]:
    """The values of all files by section and key; a stronger file replaces those of a weaker one."""
    from configparser import Error, RawConfigParser

    values: dict[tuple[str, str], Value] = {}
    for path in paths:
        text = read_settings(path)
        if text is None:
            continue
        parser = RawConfigParser()
        try:
            parser.read_string(text)
        except Error as error:
            raise unreadable(path, "it is not made of [sections] with lines of the form 'key = value'") from error
        for section in _SECTIONS:
            for key, value in parser.items(section) if parser.has_section(section) else ():
                plain = key.lower().replace("_", "-").removeprefix("--")
                values[section, plain] = (value, f"'{plain}' in {path}")
    return values
