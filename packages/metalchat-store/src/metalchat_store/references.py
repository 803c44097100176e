"""What a person calls a model, and which entry that is."""

import re
from collections.abc import Mapping, Sequence

from metalchat_store._made_here import made_here
from metalchat_store.entries import Entries
from metalchat_store.errors import AmbiguousModel, ModelNotFound
from metalchat_store.selection import short_name
from metalchat_store.types import Entry

_PREFIX = re.compile(r"[0-9a-f]{4,40}")
_SHORTEST = 7


def find(entries: Entries, reference: str) -> Entry:
    """The entry with that id, that unique prefix of at least 4 characters, or that unique part of its repository.

    What was made here out of a model is meant by its id: the repository names what came from there.

    Raises `ModelNotFound`, or `AmbiguousModel` with the candidates.
    """
    word = reference.strip()
    ids = entries.ids()
    lower = word.lower()
    named = [id for id in ids if id.startswith(lower)] if _PREFIX.fullmatch(lower) else []
    if len(named) == 1:
        return entries.read(named[0])
    if named:
        raise _ambiguous(reference, [entries.read(id) for id in named])
    found = _by_repository(list(entries.all()), word) if word else []
    if not found:
        raise ModelNotFound(f"model '{reference}' not found")
    pulled = [entry for entry in found if not made_here(entry.commit)] or found
    if len(pulled) > 1:
        raise _ambiguous(reference, pulled)
    return pulled[0]


def abbreviate(ids: Sequence[str]) -> Mapping[str, str]:
    """Each id with its first 7 characters, or as many more as set it apart from the other ids."""
    ordered = sorted(set(ids))
    short: dict[str, str] = {}
    for place, id in enumerate(ordered):
        neighbours = ordered[max(place - 1, 0) : place] + ordered[place + 1 : place + 2]
        length = max([_SHORTEST, *(_shared(id, other) + 1 for other in neighbours)])
        short[id] = id[:length]
    return {id: short[id] for id in ids}


def _by_repository(entries: list[Entry], word: str) -> list[Entry]:
    """Exact addresses and older ids first, then whole names, then parts of names."""
    known = [(entry, entry.spec) for entry in entries if entry.spec is not None]
    exact = [entry for entry, spec in known if word == spec.repository or word.lower() in spec.ids]
    if exact:
        return exact
    folded = word.casefold()
    names = [(entry, short_name(spec.repository).casefold()) for entry, spec in known]
    whole = [entry for entry, name in names if folded in (name, name.rpartition("/")[2])]
    return whole or [entry for entry, name in names if folded in name]


def _ambiguous(reference: str, found: list[Entry]) -> AmbiguousModel:
    ids = [entry.id for entry in found]
    short = abbreviate(ids)
    listed = [
        f"{short[entry.id]} {short_name(entry.spec.repository)}" if entry.spec else short[entry.id] for entry in found
    ]
    shown = ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
    return AmbiguousModel(f"'{reference}' names {len(found)} models: {shown}", candidates=ids)


def _shared(left: str, right: str) -> int:
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count
