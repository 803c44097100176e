"""F-1, F-2 and F-9: only whole safetensors files are read, and only those that belong to the model."""

import json
import random
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine import EngineSettings, InvalidModel, ModelSource, UnsupportedModel
from metalchat_engine_mlx import MlxEngine
from metalchat_engine_mlx.testing import write_tiny_model
from metalchat_engine_mlx.weights import read_header


def raw(header: bytes, buffer: bytes = b"", *, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + buffer


def file(buffer: bytes = b"", **tensors: Any) -> bytes:
    return raw(json.dumps(tensors).encode(), buffer)


def tensor(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


EIGHT = bytes(8)
ENTRY = json.dumps(tensor()).encode()
GOOD = file(EIGHT, a=tensor())
MALFORMED = {
    "empty": b"",
    "7 bytes": bytes(7),
    "no header": raw(b""),
    "length of the whole of 64 bits": raw(b"{}", length=2**64 - 1),
    "length with the sign bit": raw(b"{}", length=2**63),
    "length beyond the file": raw(b"{}", length=3),
    "length above the format's limit": raw(b"{}", length=100_000_001),
    "length above our limit": raw(b" " * 25_000_001),
    "not UTF-8": raw(b'{"\xff": 1}'),
    "not JSON": raw(b'{"a": '),
    "an array": raw(b"[]"),
    "a number": raw(b"7"),
    "leading space": raw(b" {}"),
    "a key twice": raw(
        b'{"a":' + json.dumps(tensor()).encode() + b',"a":' + json.dumps(tensor()).encode() + b"}", EIGHT
    ),
    "a nested key twice": raw(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', EIGHT),
    "nested without end": raw(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "NaN": raw(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', EIGHT),
    "a number of 5,000 digits": raw(
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}', EIGHT
    ),
    "offsets reversed": file(EIGHT, a=tensor(offsets=(8, 0))),
    "offsets overlap": file(bytes(12), a=tensor(), b=tensor(offsets=(4, 12))),
    "one tensor twice": file(EIGHT, a=tensor(), b=tensor()),
    "a gap between tensors": file(bytes(20), a=tensor(), b=tensor(offsets=(12, 20))),
    "a gap before the first": file(bytes(12), a=tensor(offsets=(4, 12))),
    "offsets beyond the file": file(bytes(4), a=tensor()),
    "bytes after the last": file(bytes(9), a=tensor()),
    "a buffer without tensors": file(EIGHT),
    "offsets that are not two": file(EIGHT, a=tensor(offsets=(0, 4, 8))),
    "offsets that are texts": file(EIGHT, a=tensor(offsets=("0", "8"))),
    "offsets that are true": file(bytes(1), a=tensor("U8", (1,), (False, True))),
    "an unknown dtype": file(EIGHT, a=tensor("F33")),
    "a dtype that is a number": file(EIGHT, a=tensor(32)),
    "a shape that does not fit": file(EIGHT, a=tensor(shape=(3,))),
    "a shape whose product overflows": file(EIGHT, a=tensor(shape=(2**62, 2**62, 4))),
    "a shape with a negative length": file(EIGHT, a=tensor(shape=(-1, -2))),
    "a shape that is no list": file(EIGHT, a={"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}),
    "a shape with fractions": file(EIGHT, a=tensor(shape=(2.0,))),
    "a shape of 9 dimensions": file(EIGHT, a=tensor(shape=(1,) * 8 + (2,))),
    "data_offsets missing": file(EIGHT, a={"dtype": "F32", "shape": [2]}),
    "another key": file(EIGHT, a=tensor() | {"file": "/etc/passwd"}),
    "a tensor that is a list": file(EIGHT, a=[]),
    "a name of half a character": raw(b'{"\\ud800":' + json.dumps(tensor()).encode() + b"}", EIGHT),
    "metadata that is a list": file(EIGHT, __metadata__=[], a=tensor()),
    "metadata that is not text": file(EIGHT, __metadata__={"format": 1}, a=tensor()),
}
# The library reads these.
DANGEROUS = {
    "an escape in a name": file(EIGHT, **{"a\x1b[2K\0": tensor()}),
    "a line break in a name": file(EIGHT, **{"a\nb": tensor()}),
    "a name of 1 MB": file(EIGHT, **{"a" * 2**20: tensor()}),
    "200,000 tensors": file(**{f"t{place}": tensor("U8", (0,), (0, 0)) for place in range(200_000)}),
}


@pytest.mark.parametrize("case", [*MALFORMED, *DANGEROUS])
def test_f_2_a_malformed_file_is_refused(case: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((MALFORMED | DANGEROUS)[case])
    with pytest.raises(InvalidModel, match=r"^'model\.safetensors' is not a valid safetensors file: ") as caught:
        read_header(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_whole_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    assert {name: (entry.shape, entry.nbytes) for name, entry in read_header(path).items()} == {"a": ((2,), 8)}
    path.write_bytes(
        file(
            bytes(9),
            __metadata__={"format": "pt"},
            half=tensor("F4", (2,), (8, 9)),
            empty=tensor("I64", (0, 7), (8, 8)),
            scalar=tensor("F64", (), (0, 8)),
        )
    )
    starts = {name: entry.start for name, entry in read_header(path).items()}
    assert starts["half"] == starts["empty"] == starts["scalar"] + 8


def test_f_2_a_damaged_header_raises_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    source = random.Random(7)
    whole = file(bytes(24), __metadata__={"a": "b"}, a=tensor(), b=tensor("U8", (4, 4), (8, 24)))
    refused = 0
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(source.randint(1, 4)):
            place = source.randrange(len(data))
            if source.random() < 0.6:
                data[place] = source.randrange(256)
            elif source.random() < 0.5:
                del data[place : place + source.randint(1, 8)]
            else:
                data[place:place] = source.choice([b"[", b'"', b"\\", b"9" * 30, b"1e999", b"{}", b"null", b"\xf0"])
        path.write_bytes(data)
        try:
            read_header(path)
        except InvalidModel:
            refused += 1
    assert refused > 2000


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
def test_f_1_weights_that_can_run_code_are_not_read(name: str, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "m")
    (model / "model.safetensors").unlink()
    canary = tmp_path / "canary"
    # What a pickle that opens a file for writing looks like.
    (model / name).write_bytes(b"cbuiltins\nopen\n(V" + str(canary).encode() + b"\nVw\ntR.")
    source = ModelSource(path=model, name="org/m")
    reason = f"'org/m' has no safetensors weights (found {name}, which can run code and is not read)"
    opened: list[str] = []
    watching = [True]
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if watching and event == "open" else None)
    with pytest.raises(UnsupportedModel) as caught:
        MlxEngine().load(source, EngineSettings())
    assert str(caught.value) == reason
    assert MlxEngine().inspect(source).reason == reason
    watching.clear()
    assert opened
    assert str(model / name) not in opened
    assert not canary.exists()


@pytest.mark.parametrize(
    "shard",
    ["../../x.safetensors", "/etc/passwd", "absent.safetensors", "tokenizer.json", "./model.safetensors", "", 7, None],
)
def test_f_9_an_index_names_only_files_of_the_model(shard: Any, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(GOOD)
    model = write_tiny_model(tmp_path / "a" / "m", shards=2)
    index = model / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    document["weight_map"]["model.norm.weight"] = shard
    index.write_text(json.dumps(document))
    inspection = MlxEngine().inspect(ModelSource(path=model))
    assert inspection.reason == "'model.safetensors.index.json' names a file that is not part of the model"


@pytest.mark.parametrize("weight_map", [None, [], {}, "x"])
def test_an_index_without_a_map_is_refused(weight_map: Any, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "m", shards=2)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "'weight_map' is not a map" in str(MlxEngine().inspect(ModelSource(path=model)).reason)


def test_an_index_that_disagrees_with_its_shards_is_refused(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "m", shards=2)
    index = model / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    del document["weight_map"]["model.norm.weight"]
    index.write_text(json.dumps(document))
    assert "the tensor 'model.norm.weight'" in str(MlxEngine().inspect(ModelSource(path=model)).reason)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("model.norm.weight", None, "the tensor 'model.norm.weight' is missing"),
        (
            "model.layers.1.mlp.up_proj.weight",
            {"shape": [64, 128]},
            "'model.layers.1.mlp.up_proj.weight' in 'model.safetensors' has the shape [64, 128], expected [128, 64]",
        ),
        ("model.norm.weight", {"dtype": "I32"}, "has the dtype I32, expected F32, F16 or BF16"),
    ],
)
def test_tensors_must_be_those_of_the_config(name: str, change: Any, reason: str, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "m")
    _edit_header(model / "model.safetensors", name, change)
    assert reason in str(MlxEngine().inspect(ModelSource(path=model)).reason)


def test_a_tensor_that_a_llama_does_not_have_is_refused(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "m", attention_bias=True)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"attention_bias": False}))
    reason = str(MlxEngine().inspect(ModelSource(path=model)).reason)
    assert reason == (
        "the weights have the tensor 'model.layers.0.self_attn.q_proj.bias', which this llama model does not have"
    )


def _edit_header(path: Path, name: str, change: Any) -> None:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    if change is None:
        header["model.renamed.weight"] = header.pop(name)
    else:
        header[name] |= change
    path.write_bytes(raw(json.dumps(header).encode(), data[8 + length :]))
