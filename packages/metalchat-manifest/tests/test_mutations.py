"""Damaged manifests: each one is read, or refused in one printable line that says where."""

import random
import tomllib
from pathlib import Path

from metalchat_manifest import InvalidManifest, Manifest, ManifestError
from metalchat_manifest._scan import scan

CORPUS = [path.read_bytes() for path in sorted((Path(__file__).parent / "corpus").glob("*.toml"))]
PIECES = [
    *(bytes([byte]) for byte in range(256)),
    *b"[ ] [[ ]] { } = . , # \" ' \"\"\" ''' \\ \\u0000 \\ud800 \n \r\n nan inf 1e999999 1979-05-27 a.b.c".split(b" "),
    *("\u202e", "\u2028", "\U000e0001", "é", "\ufeff"),
]
BLOCKS = [piece if isinstance(piece, bytes) else piece.encode() for piece in PIECES]


def mutated(chance: random.Random) -> bytes:
    data = bytearray(chance.choice(CORPUS))
    for _ in range(chance.randint(1, 6)):
        start = chance.randint(0, len(data))
        end = min(len(data), start + chance.randint(0, 12))
        match chance.randrange(5):
            case 0:
                data[start:end] = b""
            case 1:
                data[start:start] = chance.choice(BLOCKS)
            case 2:
                data[start:end] = chance.choice(BLOCKS)
            case 3:
                data[start:start] = data[start:end] * chance.randint(1, 3)
            case 4:
                other = chance.choice(CORPUS)
                begin = chance.randint(0, len(other))
                data[start:start] = other[begin : begin + chance.randint(0, 40)]
    return bytes(data)


def parsed(data):
    try:
        return Manifest.parse(data, Path("metalchat.toml")), None
    except ManifestError as error:
        return None, error


def leaves(content, path=()):
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for name, value in items:
        yield (*path, name)
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, name))


def test_ten_thousand_damaged_manifests():
    chance = random.Random(20251121)
    read = syntax = 0
    for _ in range(10_000):
        data = mutated(chance)
        manifest, error = parsed(data)
        if manifest is not None:
            read += 1
            assert all(manifest.line(key) is not None for key in manifest.values)
            assert all(each.line is not None for each in manifest.unknown)
            continue
        message = str(error)
        assert message.isprintable()
        assert len(message) < 500
        assert error.exit_code == 2
        assert 1 <= error.line <= data.count(b"\n") + 1
        if type(error) is InvalidManifest:
            syntax += 1
            assert message.startswith(f"metalchat.toml line {error.line} column {error.column}: ")
            assert error.column >= 1
        else:
            assert message.startswith(f"metalchat.toml line {error.line}: ")
    assert read > 1000
    assert syntax > 1000


def test_the_places_agree_with_the_standard_parser_on_what_it_accepts():
    chance = random.Random(7)
    agreed = 0
    for _ in range(3000):
        try:
            text = mutated(chance).decode()
            content = tomllib.loads(text)
        except ValueError:
            continue
        document = scan(text)
        for path in leaves(content):
            line = document.line_of(path)
            assert line is not None, (text, path)
        for entry in document.entries.values():
            value = text[entry.value_start : entry.value_end]
            found = content
            for part in entry.path:
                found = found[part]
            assert repr(tomllib.loads(f"x = {value}")["x"]) == repr(found), (text, entry)
        agreed += 1
    assert agreed > 300
