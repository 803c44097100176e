"""Headers of GGUF files: what is read, and what is refused before anything is allocated for it."""

import os
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from metalchat_engine import InvalidModel, UnsupportedModel
from metalchat_engine_mlx.gguf import (
    GgufNumbers,
    GgufStrings,
    config_from_gguf,
    load_weights,
    quantization,
    read_header,
    tokenizer_from_gguf,
)
from metalchat_engine_mlx.testing.gguf import byte_level_tokenizer, encode, gguf_bytes, write_llama

U64 = 2**64 - 1


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def head(keys: int = 0, tensors: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def tensor(name: str | bytes, *dimensions: int, kind: int = 0, offset: int = 0) -> bytes:
    return (
        text(name)
        + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        + struct.pack("<IQ", kind, offset)
    )


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises((InvalidModel, UnsupportedModel)) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith("'model.gguf' ")
    assert message.isprintable()
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("version", [2, 3])
def test_what_a_file_says_is_read(path: Path, version: int):
    metadata = {
        "a.text": "é\n",
        "a.yes": True,
        "a.count": 7,
        "a.real": 0.5,
        "a.names": ["x", "", "ü"],
        "a.ids": [1, -2],
    }
    values = np.arange(64, dtype=np.float32).reshape(2, 32)
    tensors = {"matrix": encode(values, "Q8_0"), "vector": encode(values[0], "F32")}
    path.write_bytes(gguf_bytes(metadata, tensors, version=version, alignment=32))

    header = read_header(path)

    strings, numbers = header.metadata["a.names"], header.metadata["a.ids"]
    assert isinstance(strings, GgufStrings)
    assert isinstance(numbers, GgufNumbers)
    assert {**header.metadata, "a.names": strings.values(), "a.ids": list(numbers.values())} == metadata
    assert (header.version, header.size) == (version, path.stat().st_size)
    assert strings[2] == "ü"
    matrix, vector = header.tensors["matrix"], header.tensors["vector"]
    assert (matrix.type, matrix.shape, matrix.nbytes) == ("Q8_0", (2, 32), 68)
    assert (vector.type, vector.shape, vector.nbytes) == ("F32", (32,), 128)
    data = path.read_bytes()
    for each in header.tensors.values():
        assert data[each.offset : each.offset + each.nbytes] == tensors[each.name].data


def test_strings_that_hold_the_separator_are_read_one_by_one(path: Path):
    path.write_bytes(gguf_bytes({"list": ["a\x7fb", "c"], "none": []}, {}))
    strings, none = (read_header(path).metadata[key] for key in ("list", "none"))
    assert isinstance(strings, GgufStrings)
    assert isinstance(none, GgufStrings)
    assert (strings.joined(), strings.values(), none.values()) == (None, ["a\x7fb", "c"], [])


def test_a_header_of_many_megabytes_is_read_whole(path: Path):
    names = [f"token number {i}" for i in range(250_000)]
    path.write_bytes(gguf_bytes({"first": names, "then": list(range(250_000))}, {"t": encode(np.ones(8), "F32")}))
    header = read_header(path)
    strings, numbers = header.metadata["first"], header.metadata["then"]
    assert isinstance(strings, GgufStrings)
    assert isinstance(numbers, GgufNumbers)
    assert strings.values() == names
    assert numbers.values() == tuple(range(250_000))
    assert header.tensors["t"].offset == path.stat().st_size - 32


def test_alignment_is_that_of_the_file(path: Path):
    metadata = {"general.alignment": 4096}
    path.write_bytes(gguf_bytes(metadata, {"t": encode(np.ones(8, np.float32), "F32")}, alignment=4096))
    assert read_header(path).tensors["t"].offset == 4096


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"GGU", "it does not begin with 'GGUF'"),
        (b"GGML" + head()[4:], "it does not begin with 'GGUF'"),
        (b"GGUF\x03", "it ends inside the version"),
        (head()[:-1], "it ends inside the counts"),
        (head(keys=U64), f"it claims {U64} metadata keys, more than 10000"),
        (head(tensors=U64), f"it claims {U64} tensors, more than 100000"),
        (head(keys=1), "it ends inside a metadata key"),
        (head(keys=1) + struct.pack("<Q", U64) + b"key", "it ends inside a metadata key"),
        (head(keys=1) + text(""), "a metadata key is not 1 to 1024 printable characters: ''"),
        (head(keys=1) + text("k" * 1025), "a metadata key is not 1 to 1024 printable characters"),
        (head(keys=1) + text("a\x1b[2J"), r"a metadata key is not 1 to 1024 printable characters: 'a\u001b[2J'"),
        (head(keys=1) + text(b"\xff"), "a metadata key is not UTF-8"),
        (head(keys=1) + text("k"), "it ends inside 'k'"),
        (head(keys=1) + text("k") + struct.pack("<I", 13), "'k' has the unknown value type 13"),
        (head(keys=1) + text("k") + struct.pack("<IB", 7, 2), "'k' is a truth value that is neither 0 nor 1"),
        (head(keys=1) + text("k") + struct.pack("<I", 7), "it ends inside 'k'"),
        (head(keys=1) + text("k") + struct.pack("<IQ", 8, 2**63), "it ends inside 'k'"),
        (head(keys=1) + text("k") + struct.pack("<I", 8) + text(b"\xc3("), "'k' is not UTF-8"),
        (head(keys=1) + text("k") + struct.pack("<IIQ", 9, 4, U64), "it ends inside 'k'"),
        (head(keys=1) + text("k") + struct.pack("<IIQ", 9, 9, 1), "'k' is an array of arrays"),
        (head(keys=1) + text("k") + struct.pack("<IIQ", 9, 99, 1), "'k' is an array of the unknown value type 99"),
        (head(keys=1) + text("k") + struct.pack("<IIQ", 9, 8, U64), f"'k' claims {U64} strings, more than 1000000"),
        (head(keys=1) + text("k") + struct.pack("<IIQ", 9, 8, 999_999), "it ends inside 'k'"),
        (head(keys=1) + text("k") + struct.pack("<IIQQQ", 9, 8, 2, U64, U64), "it ends inside 'k'"),
        (head(keys=1) + text("k") + struct.pack("<IIQQ", 9, 8, 1, 9) + b"12345678", "it ends inside 'k'"),
        (head(keys=2) + 2 * (text("k") + struct.pack("<II", 4, 1)), "the metadata key 'k' is there twice"),
        (head(tensors=1), "it ends inside a tensor name"),
        (head(tensors=1) + tensor("", 1), "a tensor name is not 1 to 1024 printable characters: ''"),
        (head(tensors=1) + tensor("a\0b", 1), r"a tensor name is not 1 to 1024 printable characters: 'a\u0000b'"),
        (head(tensors=1) + tensor("a\nb", 1), r"a tensor name is not 1 to 1024 printable characters: 'a\u000ab'"),
        (head(tensors=1) + tensor("a\u202eb", 1), "a tensor name is not 1 to 1024 printable characters"),
        (head(tensors=1) + tensor("n" * 2**20, 1), "a tensor name is not 1 to 1024 printable characters: 'nnn"),
        (head(tensors=1) + tensor("t"), "the tensor 't' has 0 dimensions, expected 1 to 4"),
        (head(tensors=1) + tensor("t", 1, 1, 1, 1, 1), "the tensor 't' has 5 dimensions, expected 1 to 4"),
        (head(tensors=1) + text("t") + struct.pack("<I", 2**32 - 1), "the tensor 't' has 4294967295 dimensions"),
        (head(tensors=1) + tensor("t", 0, 2), "the tensor 't' has a dimension of length 0"),
        (head(tensors=1) + tensor("t", 2**32, 2**32), "the tensor 't' is larger than the file"),
        (head(tensors=1) + tensor("t", U64, U64, U64, U64), "the tensor 't' is larger than the file"),
        (head(tensors=1) + tensor("t", 1, kind=4), "the tensor 't' has the unknown type 4"),
        (head(tensors=1) + tensor("t", 1, kind=2**31), f"the tensor 't' has the unknown type {2**31}"),
        (head(tensors=1) + tensor("t", 31, kind=2), "the tensor 't' of type Q4_0 has 31 columns, not a multiple of 32"),
        (head(tensors=1) + tensor("t", 1, offset=4), "the offset of tensor 't' is not a multiple of 32"),
        (head(tensors=1) + tensor("t", 1, offset=2**63), "the tensor 't' reaches beyond the end of the file"),
        (head(tensors=1) + tensor("t", 9) + bytes(35), "the tensor 't' reaches beyond the end of the file"),
        (head(tensors=2) + 2 * tensor("t", 1) + bytes(99), "the tensor 't' is there twice"),
        (
            head(tensors=2) + tensor("late", 9) + tensor("early", 1, offset=32) + bytes(999),
            "the tensors 'late' and 'early' overlap",
        ),
        (
            head(tensors=2) + tensor("a", 1, offset=64) + tensor("b", 1, offset=64) + bytes(999),
            "the tensors 'a' and 'b' overlap",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_malformed_header_is_refused_in_one_line(path: Path, data: bytes, reason: str):
    message = refused(path, data)
    assert message.startswith(f"'model.gguf' is not a valid GGUF file: {reason}")
    assert len(message) < 200


@pytest.mark.parametrize("alignment", [0, 1, 7, 12, 48, 2**31, True, -1.0, "32"])
def test_an_alignment_that_is_no_power_of_two_is_refused(path: Path, alignment: object):
    message = refused(path, gguf_bytes({"general.alignment": alignment}, {}))  # type: ignore[dict-item]
    assert message.endswith("'general.alignment' is not a power of two from 8 to 1048576")


@pytest.mark.parametrize("version", [0, 1, 4, 2**31])
def test_other_versions_are_unsupported(path: Path, version: int):
    assert refused(path, head(version=version)) == (
        f"'model.gguf' is a GGUF file of version {version}; versions 2 and 3 are read"
    )


def test_big_endian_files_are_unsupported(path: Path):
    assert "big-endian" in refused(path, b"GGUF" + struct.pack(">IQQ", 3, 0, 0))


def test_a_header_beyond_the_limit_is_refused_without_reading_it_all(path: Path):
    start = head(keys=1) + text("k") + struct.pack("<IIQ", 9, 0, 2**40)
    path.write_bytes(start)
    os.truncate(path, 2**41)  # sparse
    with pytest.raises(InvalidModel, match="its header is larger than 32 MiB"):
        read_header(path)


@pytest.mark.parametrize(
    "data",
    [
        head(keys=1) + text("k") + struct.pack("<IIQ", 9, 8, 1_000_000),
        head(keys=1) + text("k") + struct.pack("<IIQ", 9, 10, 2**60),
        head(tensors=100_000),
        head(keys=10_000),
    ],
)
def test_claims_take_no_memory(path: Path, data: bytes):
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidModel):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(InvalidModel, match=r"'pipe\.gguf' is not a valid GGUF file: it is not a regular file"):
        read_header(tmp_path / "pipe.gguf")
    with pytest.raises(InvalidModel, match=r"'absent\.gguf' cannot be read: No such file"):
        read_header(tmp_path / "absent.gguf")
    with pytest.raises(InvalidModel, match="cannot be read: Is a directory"):
        read_header(tmp_path)


def test_a_file_name_cannot_write_to_the_terminal(tmp_path: Path):
    path = tmp_path / "a\x1b[2Jb.gguf"
    path.write_bytes(b"no")
    with pytest.raises(InvalidModel) as caught:
        read_header(path)
    assert str(caught.value).startswith(r"'a\u001b[2Jb.gguf' is not")


def open_all(path: Path) -> None:
    header = read_header(path)
    config_from_gguf(header)
    quantization(header)
    tokenizer_from_gguf(header)
    load_weights(path, header)


def small_file(path: Path) -> bytes:
    """A whole model whose header is short, so that mutations hit all of it."""
    tokens = {**byte_level_tokenizer(("h e",)), "tokenizer.ggml.tokens": ["<s>", "</s>", "h", "e", "he"]}
    tokens |= {"tokenizer.ggml.token_type": [3, 3, 1, 1, 1], "tokenizer.ggml.eos_token_id": 1}
    write_llama(path, types="Q4_1", layers=1, hidden=32, heads=2, kv_heads=1, intermediate=32, tokenizer=tokens)
    return path.read_bytes()


def test_a_file_cut_off_anywhere_is_refused(path: Path):
    data = small_file(path)
    end = max(tensor.offset + tensor.nbytes for tensor in read_header(path).tensors.values())
    assert end == len(data)
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        with pytest.raises(InvalidModel):
            read_header(path)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_raise_only_errors_of_the_contract(path: Path, seed: int):
    data = small_file(path)
    header_end = min(tensor.offset for tensor in read_header(path).tensors.values())
    extremes = [0, 1, 2, 31, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, U64 - 7, U64]
    randomness = random.Random(seed)
    opened, messages = 0, list[str]()
    tracemalloc.start()
    try:
        for _ in range(1000):
            damaged = bytearray(data)
            for _ in range(randomness.choice((1, 1, 1, 2, 8))):
                at = randomness.randrange(4, header_end)
                match randomness.randrange(5):
                    case 0:
                        damaged[at] = randomness.randrange(256)
                    case 1:
                        damaged[at] ^= 1 << randomness.randrange(8)
                    case 2:
                        damaged[at : at + 8] = struct.pack("<Q", randomness.choice(extremes))
                    case 3:
                        damaged[at : at + 4] = struct.pack("<I", randomness.choice(extremes) % 2**32)
                    case _:
                        other = randomness.randrange(4, header_end)
                        damaged[at : at + randomness.randrange(16)] = data[other : other + randomness.randrange(16)]
            path.write_bytes(damaged)
            try:
                open_all(path)
                opened += 1
            except (InvalidModel, UnsupportedModel) as error:
                messages.append(str(error))
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()
    assert opened > 50
    assert len(messages) > 50
    assert [message for message in messages if not message.isprintable() or len(message) > 300] == []


def test_100_000_tensors_are_read_and_no_more(path: Path):
    entries = b"".join(tensor(f"t{i}", 1, offset=32 * i) for i in range(100_000))
    path.write_bytes(head(tensors=100_000) + entries + bytes(32 * 100_001))
    assert len(read_header(path).tensors) == 100_000
