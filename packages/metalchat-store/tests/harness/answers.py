"""Malformed answers of a hub. Usage: answers.py SEED COUNT. Prints one JSON line.

A pull's list and reads, over a transport that answers from memory, with a fixed corpus and `COUNT` random mutations of
true answers, in a process of at most 2 GiB. Each ends in a success or in an error of one line. `slowest` is told,
not judged.
"""

import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

import httpx
from _common import authorize, problem_of, report
from metalchat_store._http import Http
from metalchat_store.remote import RemoteContext
from metalchat_store.remotes.huggingface import HuggingFaceRemote
from metalchat_store.testing.hub_state import git_sha1, sha256

HUB, CDN = "https://hub.test", "https://cdn.test"
COMMIT = "1" * 40
WEIGHTS = bytes(range(256)) * 8
SMALL = b'{"model_type": "llama"}'
REVISION = json.dumps({"sha": COMMIT, "tags": ["license:mit"], "cardData": {"license": "mit"}}).encode()
TREE = json.dumps(
    [
        {"type": "file", "oid": git_sha1(SMALL), "size": len(SMALL), "path": "config.json"},
        {
            "type": "file",
            "oid": "3" * 40,
            "size": len(WEIGHTS),
            "path": "model.safetensors",
            "lfs": {"oid": sha256(WEIGHTS), "size": len(WEIGHTS), "pointerSize": 134},
        },
        {"type": "directory", "oid": "4" * 40, "size": 0, "path": "folder"},
    ]
).encode()
RESOLVE = {
    "X-Repo-Commit": COMMIT,
    "X-Linked-Etag": f'"{sha256(WEIGHTS)}"',
    "X-Linked-Size": str(len(WEIGHTS)),
    "Location": f"{CDN}/blob",
}
VALUES = (
    None, True, 0, -1, 1.5, 1e308, 2**63, 10**30, "", "x", "../../x", "a\x00b", "\ud800", "a" * 100_000, [], {}, [[]],
    "A" * 40, "1" * 64, "1" * 40 + "\n", "０" * 64, "sha256:" + "1" * 64, {"oid": 1}, ["x"] * 1000,
)  # fmt: skip
TEXTS = (
    b"", b"null", b"[]", b"{}", b"1", b"NaN", b'"x"', b"[" * 100_000, b'{"a":' * 50_000, b"<html></html>", b"\xff\xfe",
    b'{"sha":5}', b'{"sha":"1","sha":"2"}', b'["\\ud800"]', b"[" + b"9" * 5000 + b"]", b"[-Infinity]", b"{'sha': 1}",
    b"[1,]", b"\xef\xbb\xbf{}", b"[[[]]]", b'[{"type":"file"}]', b'[{"type":"link","path":"x"}]', b"\x00" * 100,
)  # fmt: skip
HEADERS = ("", "x", "-1", "9" * 25, "1" * 40, '""', '"../../x"', "W/" + "1" * 64, "\x7f", "a" * 9000, "0", "1.5")


def answer(status: int, content: bytes, headers: object = None) -> httpx.Response:
    """An answer whose bytes are still to come."""
    return httpx.Response(status, headers=headers, stream=httpx.ByteStream(content))  # type: ignore[arg-type]


class Answers(httpx.BaseTransport):
    """A hub and its CDN, one answer of which is replaced."""

    def __init__(self) -> None:
        self.spoiled: dict[str, httpx.Response] = {}
        self.abroad = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.url.host != "hub.test" and "authorization" in request.headers:
            self.abroad += 1
        part = next((part for part in ("revision", "tree", "resolve") if f"/{part}/" in path), "blob")
        if part in self.spoiled:
            return self.spoiled[part]
        if part == "revision":
            return answer(200, REVISION)
        if part == "tree":
            return answer(200, TREE)
        if part == "resolve" and path.endswith("config.json"):
            return answer(200, SMALL, {"X-Repo-Commit": COMMIT, "ETag": f'"{git_sha1(SMALL)}"'})
        if part == "resolve":
            return answer(302, b"", RESOLVE)
        return answer(200, WEIGHTS, {"ETag": f'"{sha256(WEIGHTS)}"'})


def asked(transport: Answers) -> None:
    """What a pull asks a remote."""
    remote = HuggingFaceRemote()
    context = RemoteContext(authorize=authorize, client=Http(transport=transport))
    listing = remote.list(f"{HUB}/alice/m", revision=None, context=context)
    for file in listing.files[:3]:
        with remote.read(listing, file, offset=0, context=context) as body:
            for _ in body:
                pass


def corpus() -> Iterator[tuple[str, httpx.Response]]:
    for part in ("revision", "tree"):
        for text in TEXTS:
            yield part, answer(200, text)
        for status in (100, 199, 204, 206, 300, 304, 305, 399, 418, 499, 599, 600, 999):
            yield part, answer(status, b"{}")
    for name in ("X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size", "Location", "Content-Encoding", "Link"):
        for value in HEADERS:
            yield "resolve", answer(302, b"", {**RESOLVE, name: value})
            yield "blob", answer(200, WEIGHTS, [(name.encode(), value.encode())])
            yield "tree", answer(200, TREE, [(name.encode(), value.encode())])


def mutations(dice: random.Random) -> Iterator[tuple[str, httpx.Response]]:
    makers: tuple[Callable[[bytes, random.Random], bytes], ...] = (_bytes, _cut, _value, _value, _key)
    while True:
        part, text = dice.choice((("revision", REVISION), ("tree", TREE), ("tree", TREE)))
        if dice.random() < 0.15:
            name, value = dice.choice(list(RESOLVE)), "".join(chr(dice.randrange(33, 255)) for _ in range(40))
            raw = [(key.encode(), item.encode()) for key, item in RESOLVE.items() if key != name]
            yield "resolve", answer(302, b"", [*raw, (name.encode(), value.encode("latin-1"))])
            continue
        for _ in range(dice.randrange(1, 4)):
            text = dice.choice(makers)(text, dice)
        yield part, answer(200, text)


def _bytes(text: bytes, dice: random.Random) -> bytes:
    data = bytearray(text)
    for _ in range(dice.randrange(1, 5)):
        if data:
            data[dice.randrange(len(data))] = dice.randrange(256)
    return bytes(data)


def _cut(text: bytes, dice: random.Random) -> bytes:
    start, end = sorted((dice.randrange(len(text) + 1), dice.randrange(len(text) + 1)))
    return text[:start] + text[end:] if dice.random() < 0.7 else text[:end] + text[start:end] * 3


def _value(text: bytes, dice: random.Random) -> bytes:
    """Another value somewhere in the JSON."""
    return _edited(text, dice, lambda holder, key: holder.__setitem__(key, dice.choice(VALUES)))


def _key(text: bytes, dice: random.Random) -> bytes:
    """A member or an item less."""
    return _edited(text, dice, lambda holder, key: holder.__delitem__(key))


def _edited(text: bytes, dice: random.Random, edit: Callable) -> bytes:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    places: list[tuple] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        places += [(holder, key) for key in keys]
        waiting += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    if places:
        edit(*dice.choice(places))
    return json.dumps(value).encode()


def main() -> None:
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    wrong: list[str] = []
    outcomes: Counter[str] = Counter()
    slowest, cases = 0.0, 0
    abroad = 0
    asked(Answers())  # what is not spoiled is accepted
    random_ones = mutations(random.Random(seed))
    fixed = list(corpus())
    for number in range(len(fixed) + count):
        part, spoiled = fixed[number] if number < len(fixed) else next(random_ones)
        transport = Answers()
        transport.spoiled[part] = spoiled
        started = time.monotonic()
        try:
            asked(transport)
            outcomes["accepted"] += 1
        except Exception as error:  # noqa: BLE001 - what is raised is what is looked at
            problem = problem_of(error)
            if problem:
                wrong.append(f"case {number} ({part}): {problem}")
            outcomes[f"exit {getattr(error, 'exit_code', '?')}"] += 1
        slowest = max(slowest, time.monotonic() - started)
        abroad += transport.abroad
        cases += 1
    wrong += [f"the token went elsewhere {abroad} times"] if abroad else []
    report(fixed=len(fixed), cases=cases, outcomes=outcomes, slowest=slowest, wrong=wrong)


if __name__ == "__main__":
    main()
