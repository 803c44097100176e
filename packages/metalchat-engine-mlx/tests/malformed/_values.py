"""Random damage to JSON: of its values, its structure and its bytes."""

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

HUGE = "a" * 100_000
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    7,
    63,
    2**31 - 1,
    2**31,
    2**32,
    2**63,
    -(2**63) - 1,
    10**9,
    10**30,
    10**4000,
    0.0,
    -0.0,
    1e-300,
    0.5,
    1e30,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    "x",
    "nan",
    "../../etc/passwd",
    "/dev/zero",
    "\x00",
    "\x1b[2J",
    "\ud800",
    "\u202e",
    "<|im_start|>",
    HUGE,
    [],
    {},
    [None],
    [[]],
    {"": None},
    {"type": "x"},
    {"__class__": "os.system"},
    [0] * 5000,
)
KEYS = (
    "auto_map",
    "trust_remote_code",
    "model_file",
    "quantization",
    "quantization_config",
    "head_dim",
    "rope_scaling",
)


def damaged(document: Any, random: Random) -> tuple[bytes, str]:
    """One to three changes, as bytes, and in words."""
    if random.random() < 0.1:
        data, how = bytes_damaged(json.dumps(document).encode(), random)
        return data, how
    found = copy.deepcopy(document)
    said = []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        found, how = _changed(found, random)
        said.append(how)
    return json.dumps(found).encode(), "; ".join(said)


def bytes_damaged(data: bytes, random: Random) -> tuple[bytes, str]:
    place = random.randrange(len(data)) if data else 0
    kind = random.choice(("cut", "flip", "insert", "drop", "bom", "twice", "nested", "empty"))
    if kind == "cut":
        data = data[:place]
    elif kind == "flip":
        changed = bytearray(data)
        for _ in range(random.choice((1, 1, 2, 8, 64))):
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
        data = bytes(changed)
    elif kind == "insert":
        data = data[:place] + random.randbytes(random.choice((1, 2, 8, 100))) + data[place:]
    elif kind == "drop":
        data = data[:place] + data[place + random.choice((1, 2, 8, 100)) :]
    elif kind == "bom":
        data = b"\xef\xbb\xbf" + data
    elif kind == "twice":
        data = data + data
    elif kind == "nested":
        depth = random.choice((60, 70, 1000, 100_000))
        data = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    else:
        data = random.choice((b"", b"null", b"[]", b"7", b'"text"', b" ", b"\x00" * 64))
    return data, f"bytes: {kind} at {place}"


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys; of long ones only some."""
    if isinstance(value, dict):
        for key in list(value)[:400]:
            yield value, key
            yield from _places(value[key], (*path, key))
    elif isinstance(value, list):
        for key in list(range(len(value)))[:8]:
            yield value, key
            yield from _places(value[key], (*path, key))


def _changed(document: Any, random: Random) -> tuple[Any, str]:
    places = list(_places(document))
    if not places:
        return random.choice(VALUES), "replaced"
    # What lies near the top says more than the thousandth token of a vocabulary.
    top = [(holder, key) for holder, key in places if holder is document]
    holder, key = random.choice(top if top and random.random() < 0.5 else places)
    kind = random.choice(("value", "value", "value", "nudge", "nudge", "drop", "swap", "add", "wrap", "list"))
    old = holder[key]
    where = str(key)[:40]
    if kind == "nudge" and isinstance(old, int | float) and not isinstance(old, bool) and abs(old) < 10**30:
        holder[key] = random.choice((old + 1, old - 1, old * 2, old // 2, -old, old * 1000, float(old), str(old)))
    elif kind == "nudge" and isinstance(old, str) and old:
        at = random.randrange(len(old))
        holder[key] = old[:at] + random.choice(("", "x", "\x00", "\n", "\ud83d", old)) + old[at + 1 :]
    elif kind == "drop":
        del holder[key]
    elif kind == "swap":
        other, there = random.choice(places)
        holder[key] = copy.deepcopy(other[there]) if there in other or isinstance(other, list) else None
    elif kind == "add" and isinstance(holder, dict):
        holder[random.choice((*KEYS, HUGE, "\x1b", ""))] = random.choice(VALUES)
    elif kind == "wrap":
        for _ in range(random.choice((1, 2, 70))):
            old = random.choice(([old], {"a": old}))
        holder[key] = old
    elif kind == "list" and isinstance(old, list):
        holder[key] = random.choice((old * 2, old[: len(old) // 2], [*old, random.choice(VALUES)], old[::-1]))
    else:
        kind = "value"
        holder[key] = random.choice(VALUES)
    return document, f"{kind} of {where!a}"
