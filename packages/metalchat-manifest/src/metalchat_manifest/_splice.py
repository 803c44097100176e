"""Edits of a TOML text that change the text of one key and no other byte."""

from collections.abc import Mapping, Sequence

from metalchat_manifest._keys import join_key, quote
from metalchat_manifest._scan import Document, Entry, Section, scan


class CannotSplice(Exception):
    """The key stands, or would stand, where changing it means rewriting other text."""


def literal(value: object) -> str:
    """`value` as TOML on one line: a Value, or a list or mapping of them. Raises CannotSplice for anything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, Sequence):
        return f"[{', '.join(literal(item) for item in value)}]"
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{join_key((str(name),))} = {literal(item)}" for name, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    raise CannotSplice(f"a {type(value).__name__} has no place in a manifest")


def put(text: str, path: tuple[str, ...], value: object) -> str:
    """`text` with the key at `path` set: its value replaced, or one line added beside its siblings.

    A comment on the line stays. A new line has the line ending and the indentation of its neighbour; a new
    table stands at the end. Raises CannotSplice where the path leads through an array or a plain value.
    """
    document = scan(text)
    entry = document.entries.get(path)
    if entry is not None:
        return text[: entry.value_start] + literal(value) + text[entry.value_end :]
    for length in range(len(path) - 1, 0, -1):
        parent = path[:length]
        if parent in document.inlines:
            return _put_inline(document, parent, f"{join_key(path[length:])} = {literal(value)}")
        if parent in document.entries:
            raise CannotSplice(f"'{join_key(parent)}' is not a table")
    section, sibling = _neighbour(document, path[:-1])
    if section is None:
        return add_table(text, path[:-1], {path[-1]: value})
    start, end = (sibling.start, sibling.value_end) if sibling else (section.start, section.end)
    return _insert_line(text, start, end, f"{join_key(path[len(section.path) :])} = {literal(value)}")


def remove(text: str, path: tuple[str, ...]) -> str:
    """`text` without the key at `path`: without its whole line, or without its place in an inline table.

    Raises CannotSplice when it is not the key of one value.
    """
    document = scan(text)
    entry = document.entries.get(path)
    if entry is None:
        raise CannotSplice(f"'{join_key(path)}' is not one value")
    if entry.inline:
        start, end = _inline_extent(document, entry)
    else:
        start, end = text.rfind("\n", 0, entry.start) + 1, _line_end(text, entry.value_end)
    return text[:start] + text[end:]


def remove_header(text: str, path: tuple[str, ...]) -> str:
    """`text` without the `[header]` of a section that holds nothing, and without one empty line before it."""
    for section in scan(text).sections[1:]:
        if section.path == path and not section.entries and not section.is_item:
            before, after = text[: text.rfind("\n", 0, section.start) + 1], text[_line_end(text, section.end) :]
            for ending in ("\r\n", "\n"):
                if before.endswith("\n" + ending):
                    return before.removesuffix(ending) + after
            return before + after
    return text


def add_table(text: str, path: tuple[str, ...], content: Mapping[str, object]) -> str:
    """`text` with a new table at its end: values first, then a table for each mapping in `content`."""
    ending = _line_ending(text)
    lines = _table_lines(path, content)
    if text and not text.endswith("\n"):
        text += ending
    if text and not text.endswith(("\n\n", "\n\r\n")):
        lines.insert(0, "")
    return text + "".join(line + ending for line in lines)


def _table_lines(path: tuple[str, ...], content: Mapping[str, object]) -> list[str]:
    tables = {name: each for name, each in content.items() if isinstance(each, Mapping) and each}
    lines = [f"[{join_key(path)}]"]
    lines += [f"{join_key((name,))} = {literal(each)}" for name, each in content.items() if name not in tables]
    if len(lines) == 1 and tables:
        lines.clear()
    for name, each in tables.items():
        if lines:
            lines.append("")
        lines += _table_lines((*path, name), each)
    return lines


def _neighbour(document: Document, table: tuple[str, ...]) -> tuple[Section | None, Entry | None]:
    """The section that a new key of `table` belongs to, and the statement that it follows, if any."""
    for section in document.sections[1:]:
        if section.path == table and not section.is_item:
            return section, section.entries[-1] if section.entries else None
    for section in document.sections:
        siblings = [entry for entry in section.entries if _is_dotted_child(entry, section, table)]
        if siblings:
            return section, siblings[-1]
    return None, None


def _is_dotted_child(entry: Entry, section: Section, table: tuple[str, ...]) -> bool:
    """`entry` says `a.b = ...` below a header, and `a` is `table`: only another dotted key can extend it there."""
    length = len(table)
    return len(section.path) < length < len(entry.path) and entry.path[:length] == table


def _put_inline(document: Document, table: tuple[str, ...], statement: str) -> str:
    text, inline = document.text, document.inlines[table]
    if inline.entries:
        end = inline.entries[-1].value_end
        return f"{text[:end]}, {statement}{text[end:]}"
    return f"{text[: inline.start + 1]} {statement} {text[inline.end - 1 :]}"


def _inline_extent(document: Document, entry: Entry) -> tuple[int, int]:
    siblings = document.inlines[entry.table].entries
    index = siblings.index(entry)
    if index:
        return siblings[index - 1].value_end, entry.value_end
    if len(siblings) > 1:
        return entry.start, siblings[1].start
    return entry.start, entry.value_end


def _insert_line(text: str, start: int, end: int, statement: str) -> str:
    """`text` with `statement` on its own line after the statement or header from `start` to `end`."""
    indent = text[text.rfind("\n", 0, start) + 1 : start]
    end = _line_end(text, end)
    if not text.endswith("\n", 0, end):
        return f"{text[:end]}{_line_ending(text)}{indent}{statement}{text[end:]}"
    ending = "\r\n" if text.endswith("\r\n", 0, end) else "\n"
    return f"{text[:end]}{indent}{statement}{ending}{text[end:]}"


def _line_end(text: str, position: int) -> int:
    newline = text.find("\n", position)
    return len(text) if newline < 0 else newline + 1


def _line_ending(text: str) -> str:
    newline = text.find("\n")
    return "\r\n" if newline > 0 and text[newline - 1] == "\r" else "\n"
