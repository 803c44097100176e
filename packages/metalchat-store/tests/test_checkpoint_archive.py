"""The zip around a checkpoint: what does not lie where its directory says is refused in one line."""

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from metalchat_store import NotAModel
from metalchat_store.checkpoint import archive
from metalchat_store.checkpoint.tensors import read_tensors

# A dictionary with the tensor "w" of four numbers in the storage "0".
INDEX = (
    b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQK\x00K\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs."
)


def zipped(index: bytes, data: Mapping[str, bytes] | None = None) -> bytes:
    """What torch.save writes around an index."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", index)
        for name, content in ({"data/0": bytes(16)} if data is None else data).items():
            file.writestr(f"archive/{name}", content)
    return written.getvalue()


def refused(path: Path, content: bytes) -> str:
    """The one line with which a file is refused."""
    path.write_bytes(content)
    with pytest.raises(NotAModel) as caught:
        read_tensors(path, "consolidated.00.pth")
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 300
    return line


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.pth"


def test_a_whole_archive_is_read(path: Path) -> None:
    path.write_bytes(zipped(INDEX))
    assert read_tensors(path, "consolidated.00.pth")["w"].shape == (4,)


def broken(change: Callable[[bytearray], object]) -> bytes:
    data = bytearray(zipped(INDEX))
    change(data)
    return bytes(data)


def put(place: int, value: bytes) -> Callable[[bytearray], object]:
    def change(data: bytearray) -> None:
        start = place if place >= 0 else len(data) + place
        data[start : start + len(value)] = value

    return change


CENTRAL = zipped(INDEX).index(b"PK\1\2")
ARCHIVES = {
    "empty": b"",
    "short": b"PK",
    "no zip": b"\x80\x02}." + bytes(100),
    "cut": zipped(INDEX)[:-1],
    "trailing": zipped(INDEX) + b"\0",
    "comment": zipped(INDEX)[:-2] + b"\x03\x00abc",
    "count": broken(put(-14, struct.pack("<2H", 9, 9))),
    "counts": broken(put(-14, struct.pack("<2H", 1, 2))),
    "length": broken(put(-10, struct.pack("<L", 0xFFFFFFF0))),
    "offset": broken(put(-6, struct.pack("<L", 0xFFFFFFF0))),
    "offset by one": broken(put(-6, struct.pack("<L", CENTRAL + 1))),
    "disk": broken(put(-18, b"\1\0")),
    "compressed": broken(put(CENTRAL + 10, b"\x08\0")),
    "encrypted": broken(put(CENTRAL + 8, b"\1\0")),
    "two sizes": broken(put(CENTRAL + 20, b"\1\0\0\0")),
    "size beyond": broken(put(CENTRAL + 20, b"\xf0\xff\xff\x0f" * 2)),
    "place beyond": broken(put(CENTRAL + 42, b"\xf0\xff\xff\x0f")),
    "name beyond": broken(put(CENTRAL + 28, b"\xff\xff")),
    "another name": broken(put(30, b"b")),
    "name of bytes": broken(put(CENTRAL + 46, b"\xff")),
    "no header": broken(put(0, b"XX")),
    "other method": broken(put(8, b"\x08\0")),
    "list damaged": broken(put(CENTRAL, b"XX")),
    "overlap": broken(put(CENTRAL + 20, struct.pack("<2L", len(INDEX) + 8, len(INDEX) + 8))),
    "wide sizes without a field": broken(put(CENTRAL + 20, b"\xff" * 8)),
    "no index": zipped(b"", {}).replace(b"data.pkl", b"dbta.pkl"),
    "code": zipped(INDEX, {"data/0": bytes(16), "code/__torch__.py": b"import os"}),
    "constants": zipped(INDEX, {"data/0": bytes(16), "constants.pkl": b"."}),
    "big-endian": zipped(INDEX, {"data/0": bytes(16), "byteorder": b"big"}),
    "long byte order": zipped(INDEX, {"data/0": bytes(16), "byteorder": b"little" * 100}),
    "no storage": zipped(INDEX, {}),
    "short storage": zipped(INDEX, {"data/0": bytes(15)}),
    "long storage": zipped(INDEX, {"data/0": bytes(17)}),
    "another file": zipped(INDEX, {"data/0": bytes(16), "../../x": b""}),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_lies_is_refused(name: str, path: Path) -> None:
    refused(path, ARCHIVES[name])


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(path: Path) -> None:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as file:
        for _ in range(2):
            file.writestr("archive/data.pkl", INDEX)
    assert "a name is in its list twice" in refused(path, written.getvalue())


def test_many_entries_are_refused_before_they_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MAX_ENTRIES", 3)
    data = {f"data/{key}": b"" for key in range(3)}
    assert "more than 3 entries" in refused(path, zipped(INDEX, data))


def test_a_compressed_bomb_is_never_inflated(path: Path) -> None:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(50 << 20))
    assert "compressed" in refused(path, written.getvalue())
