"""What is a model, of which kind, and which of its files are wanted."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metalchat_store import IntegrityError, InvalidRepository, NotAModel, RemoteFile, Store
from metalchat_store.detect import config_architecture
from metalchat_store.gguf import read_architecture
from metalchat_store.selection import select, split_file
from metalchat_store.testing import MemoryRemote
from metalchat_store.testing.memory import tiny_model

Make = Callable[[MemoryRemote], Store]
URL = "https://huggingface.co/org/m"
INDEX = "model.safetensors.index.json"


def gguf(*pairs: tuple[str, int, bytes], version: int = 3) -> bytes:
    body = b"".join(
        struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value for key, kind, value in pairs
    )
    return b"GGUF" + struct.pack("<IQQ", version, 0, len(pairs)) + body


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


LLAMA = gguf(("general.architecture", 8, text("llama")))


def chosen(*names: str, file: str | None = None) -> tuple[str, ...]:
    return select(URL, [RemoteFile(path=name, size=1) for name in names], file).names


def test_the_usual_repository_gives_its_usual_files() -> None:
    assert chosen(
        ".gitattributes",
        "LICENSE",
        "README.md",
        "USE_POLICY.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "onnx/model.onnx",
        "original/consolidated.00.pth",
        "modeling_evil.py",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "picture.png",
    ) == (
        "config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "LICENSE",
        "README.md",
        "USE_POLICY.md",
        "model.safetensors",
    )


@pytest.mark.parametrize(
    ("tensors", "weights"),
    [
        (
            ["model.safetensors", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            ["model.safetensors"],
        ),
        (
            ["consolidated.safetensors", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (["weights.safetensors", "adapter_model.safetensors"], ["weights.safetensors"]),
        (["model.safetensors", "sub/model.safetensors"], ["model.safetensors"]),
    ],
)
def test_one_set_of_weights_is_taken(tensors: list[str], weights: list[str]) -> None:
    assert list(chosen("config.json", *tensors)) == ["config.json", *weights]


def test_safetensors_are_preferred_to_gguf() -> None:
    assert chosen("config.json", "model.safetensors", "m.gguf") == ("config.json", "model.safetensors")


def test_the_only_gguf_file_is_taken() -> None:
    assert chosen("config.json", "README.md", "m-q4_0.gguf", "mmproj-m.gguf") == ("README.md", "m-q4_0.gguf")


def test_one_of_several_gguf_files_has_to_be_named() -> None:
    names = [f"m-q{bits}_0.gguf" for bits in (4, 5, 8)]
    with pytest.raises(InvalidRepository) as caught:
        chosen(*names)
    assert str(caught.value) == (
        "'org/m' has 3 GGUF files: add '?file=NAME' to the address, with one of m-q4_0.gguf, m-q5_0.gguf, m-q8_0.gguf"
    )
    assert chosen(*names, file="m-q8_0.gguf") == ("m-q8_0.gguf",)
    with pytest.raises(InvalidRepository, match=r"has no file 'x.gguf' \(found m-q4_0.gguf, "):
        chosen(*names, file="x.gguf")


def test_the_file_is_named_in_the_query() -> None:
    assert split_file(URL + "?file=a%2Fb.gguf") == (URL, "a/b.gguf")
    assert split_file(URL + "?x=1&file=b.gguf") == (URL + "?x=1", "b.gguf")
    assert split_file(URL + "?x=1") == (URL + "?x=1", None)
    for query in ("?file=", "?file=a.bin", "?file=a.gguf&file=b.gguf"):
        with pytest.raises(InvalidRepository):
            split_file(URL + query)


def test_F_1_pickles_are_refused_by_name() -> None:
    with pytest.raises(NotAModel) as caught:
        chosen("config.json", "pytorch_model.bin")
    assert str(caught.value) == (
        "'org/m' has no safetensors weights (found pytorch_model.bin, which can run code and is not read): "
        "find it in safetensors or GGUF with 'metalchat model search m'"
    )
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(
    "names", [(), ("README.md", "data.csv"), ("model.safetensors",), ("adapter_model.safetensors", "config.json")]
)
def test_what_is_not_a_model_says_what_was_found_and_looked_for(names: tuple[str, ...]) -> None:
    with pytest.raises(NotAModel) as caught:
        chosen(*names)
    found = ", ".join(names) or "nothing"
    assert str(caught.value) == (
        f"'org/m' is not a model: found {found}; looked for config.json with *.safetensors, or one *.gguf"
    )


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        ("llama", "llama3"),
        ("qwen2", "qwen2"),
        ("qwen3", "qwen3"),
        ("mistral", "mistral"),
        ("gemma3", "gemma3"),
        ("gemma3_text", "gemma3"),
        ("phi3", "phi3"),
        ("SomethingNew", "somethingnew"),
    ],
)
def test_the_architecture_comes_from_the_config(tmp_path: Path, model_type: str, architecture: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": model_type}))
    assert config_architecture(path) == architecture


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"model_type": null}',
        b'{"model_type": 7}',
        b'{"model_type": ""}',
        b'{"model_type": "a&b=c"}',
        b'{"model_type": "../x"}',
        b'{"model_type": "l\\u001b"}',
        b"[" * 100_000,
        b'{"n": ' + b"9" * 5000 + b"}",
        b"\xff\xfe\x00",
        b"\x80\x04.",
    ],
)
def test_F_8_a_config_that_is_none_is_not_a_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(NotAModel, match=r"config\.json") as caught:
        config_architecture(path)
    assert str(caught.value).isprintable()


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    return path


def test_the_architecture_comes_from_the_gguf_header(tmp_path: Path) -> None:
    pairs = (
        ("general.type", 8, text("model")),
        ("general.tags", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b")),
        ("general.sizes", 9, struct.pack("<IQ", 4, 3) + bytes(12)),
        ("general.flag", 7, b"\1"),
        ("general.architecture", 8, text("qwen3")),
    )
    for version in (2, 3):
        assert read_architecture(write(tmp_path, gguf(*pairs, version=version)), "m.gguf") == "qwen3"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGU",
        b"GGML" + bytes(100),
        LLAMA[:-1],
        LLAMA[:30],
        gguf(version=1),
        gguf(),
        gguf(("general.architecture", 4, bytes(4))),
        gguf(("general.architecture", 8, struct.pack("<Q", 1 << 63))),
        gguf(("a", 9, struct.pack("<IQ", 8, 1 << 62))),
        gguf(("a", 9, struct.pack("<IQ", 9, 1))),
        gguf(("a", 99, b"")),
        gguf(("general.architecture", 8, struct.pack("<Q", 2) + b"\xff\xfe")),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 63) + struct.pack("<Q", 1 << 40),
    ],
)
def test_F_2_a_damaged_gguf_header_is_not_a_model(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(NotAModel, match=r"^'m\.gguf' is not a GGUF model: "):
        read_architecture(write(tmp_path, data), "m.gguf")


@given(st.binary(max_size=200))
def test_F_2_no_gguf_header_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = write(tmp_path_factory.getbasetemp(), b"GGUF\3\0\0\0" + data)
    with pytest.raises(NotAModel):
        read_architecture(path, "m.gguf")


def test_a_gguf_model_is_pulled(make_store: Make) -> None:
    remote = MemoryRemote(files={"a.gguf": LLAMA, "b.gguf": LLAMA + b"\0", "README.md": b"#"})
    entry = make_store(remote).pull("memory://host/org/m?file=b.gguf").entry
    assert entry.spec is not None
    assert (entry.spec.variant, entry.spec.architecture, entry.spec.partitioning) == ("gguf", "llama3", "consolidated")
    assert sorted(path.name for path in entry.path.iterdir()) == ["README.md", "b.gguf", "metalchat.toml"]
    assert make_store(remote).lookup("memory://host/org/m?file=b.gguf") == entry
    assert make_store(remote).lookup("memory://host/org/m") is None


@pytest.mark.parametrize("shard", ["../../x.safetensors", "/etc/passwd", "other.safetensors", "config.json", 7])
def test_F_9_an_index_names_only_files_of_the_model(make_store: Make, home: Path, shard: object) -> None:
    files = tiny_model(shards=2)
    files[INDEX] = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": shard}}).encode()
    remote = MemoryRemote(files=files)
    with pytest.raises(IntegrityError) as caught:
        make_store(remote).pull("memory://host/org/m")
    assert str(caught.value) == f"'{INDEX}' names a file that is not part of the model"
    assert not any("0000" in name for name, _ in remote.reads)


def test_exactly_the_shards_of_the_index_are_fetched(make_store: Make) -> None:
    files = tiny_model(shards=2) | {"model-00001-of-00009.safetensors": b"old", "deep/part.safetensors": b"new"}
    index = json.loads(files[INDEX])
    index["weight_map"]["extra"] = "deep/part.safetensors"
    files[INDEX] = json.dumps(index).encode()
    store = make_store(MemoryRemote(files=files))
    entry = store.pull("memory://host/org/m").entry
    found = {str(path.relative_to(entry.path)) for path in entry.path.rglob("*.safetensors")}
    assert found == {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "deep/part.safetensors"}
    assert store.list() == (entry,)
    assert store.verify(entry.id).ok
