"""Edits of one sub-table of a TOML document that leave every other byte as it was."""

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from metalchat_credentials.errors import InvalidIndex

_BOM = "\ufeff"


def put(data: bytes, table: str, name: str, values: Mapping[str, str]) -> bytes:
    """`data` with `[table.name]` holding `values`; other keys that it has stay. A new one goes to the end."""
    import tomlkit

    text = data.decode("utf-8")
    expected = _plain(text)
    document: Any = tomlkit.parse(text.removeprefix(_BOM))
    if name in expected.get(table, {}):
        entry = document[table][name]
        before = expected[table][name]
        for key in [key for key in ("purpose", "variable") if key in before and key not in values]:
            del entry[key]
            del before[key]
        for key, value in values.items():
            if before.get(key) != value:
                entry[key] = value
        before.update(values)
        edited = tomlkit.dumps(document)
    else:
        expected.setdefault(table, {})[name] = dict(values)
        edited = _appended(text.removeprefix(_BOM), table, name, values)
        if not _is(edited, expected):
            # The table is written inline or with dotted keys, and cannot be continued by a header.
            document[table][name] = dict(values)
            edited = tomlkit.dumps(document)
    return _checked(text, edited, expected)


def drop(data: bytes, table: str, names: Iterable[str]) -> bytes:
    """`data` without the sub-tables `names`; comments after their last key, which belong to what follows, stay."""
    import tomlkit

    for name in names:
        text = data.decode("utf-8")
        expected = _plain(text)
        document: Any = tomlkit.parse(text.removeprefix(_BOM))
        tables = document[table]
        tail = _tail(tables[name])
        del tables[name]
        edited = _with_tail(text.removeprefix(_BOM), tomlkit.dumps(document), tail)
        del expected[table][name]
        if not expected[table]:
            del expected[table]
        data = _checked(text, edited, expected)
    return data


def _appended(text: str, table: str, name: str, values: Mapping[str, str]) -> str:
    import tomlkit

    section = tomlkit.table()
    section.update(values)
    document: Any = tomlkit.document()
    document[table] = tomlkit.table(is_super_table=True)
    document[table][name] = section
    gap = "" if not text or text.endswith(("\n\n", "\r\n\r\n")) else "\n" if text.endswith("\n") else "\n\n"
    return text + gap + tomlkit.dumps(document)


def _tail(entry: Any) -> str:
    """Comments and empty lines after the last key of a table."""
    pieces: list[str] = []
    body = getattr(getattr(entry, "value", None), "body", [])
    for key, item in reversed(body):
        if key is not None:
            break
        pieces.insert(0, item.as_string())
    return "".join(pieces)


def _with_tail(text: str, shortened: str, tail: str) -> str:
    """`shortened` is `text` less one piece that ended with `tail`; the tail is put back where it was."""
    if not tail.strip():
        return shortened
    size = len(text) - len(shortened)
    start = next((i for i, (a, b) in enumerate(zip(text, shortened, strict=False)) if a != b), len(shortened))
    while start >= 0 and text[:start] + text[start + size :] == shortened:
        if text[start : start + size].endswith(tail):
            return text[:start] + tail.lstrip("\r\n") + text[start + size :]
        start -= 1
    return shortened


def _checked(before: str, after: str, expected: dict[str, Any]) -> bytes:
    """The edited document as bytes, with the line ends and the byte-order mark of the original."""
    if "\r\n" in before and "\n" not in before.replace("\r\n", ""):
        after = after.replace("\r\n", "\n").replace("\n", "\r\n")
    if not _is(after, expected):
        raise InvalidIndex("config.toml could not be edited without changing more than was meant. Edit it by hand")
    return ((_BOM if before.startswith(_BOM) else "") + after).encode("utf-8")


def _plain(text: str) -> dict[str, Any]:
    return tomllib.loads(text.removeprefix(_BOM))


def _is(text: str, expected: dict[str, Any]) -> bool:
    try:
        values = _plain(text)
    except tomllib.TOMLDecodeError:
        return False
    # A table that became empty may still have its header.
    return {key: value for key, value in values.items() if value != {} or key in expected} == expected
