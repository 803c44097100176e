"""What a model is and needs is known from some kilobytes of headers, and nothing is written."""

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from metalchat_store import Description, IntegrityError, NotAModel, NotFound, Store, StoreError
from metalchat_store.remotes.manifest import ManifestRemote
from metalchat_store.testing import FakeFiles, FakeHub
from metalchat_store.testing.memory import MemoryRemote

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}
WORKING = 4 * (512 * (6 * 64 + 2 * 160) + 1000)


def safetensors(tensors: Mapping[str, tuple[str, list[int]]], *, padding: int = 0) -> bytes:
    """A file with these types and shapes, its values 0."""
    widths = {"BF16": 2, "F32": 4, "U32": 4, "F16": 2}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "notes": "x" * padding}}
    at = 0
    for name, (dtype, shape) in tensors.items():
        length = widths[dtype]
        for size in shape:
            length *= size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(at)


TENSORS = {"model.embed_tokens.weight": ("BF16", [1000, 64]), "model.norm.weight": ("BF16", [64])}
PLAIN = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": safetensors(TENSORS), "tokenizer.json": b"{}"}


def gguf(*entries: tuple[str, int, bytes], tail: bytes = b"") -> bytes:
    """A GGUF file with that metadata."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    body = b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in entries)
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + body + tail


def word(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def number(value: int) -> bytes:
    return struct.pack("<I", value)


VOCABULARY = struct.pack("<IQ", 8, 50_000) + b"".join(word(f"token{index:06}") for index in range(50_000))
GGUF = gguf(
    ("general.architecture", 8, word("llama")),
    ("general.parameter_count", 10, struct.pack("<Q", 1_235_814_432)),
    ("general.file_type", 4, number(15)),
    ("llama.block_count", 4, number(16)),
    ("llama.context_length", 4, number(131072)),
    ("llama.embedding_length", 4, number(2048)),
    ("llama.feed_forward_length", 4, number(8192)),
    ("llama.attention.head_count", 4, number(32)),
    ("llama.attention.head_count_kv", 4, number(8)),
    ("llama.vocab_size", 4, number(128256)),
    ("tokenizer.ggml.tokens", 9, VOCABULARY),
    tail=bytes(3_000_000),
)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


@pytest.fixture
def look(home: Path, hub: FakeHub) -> Callable[..., Description]:
    def look(files: Mapping[str, bytes] = PLAIN, **options: Any) -> Description:
        hub.add_repo("org/m", files=files, license="apache-2.0")
        try:
            return Store(home, environ={}, sleep=lambda _: None).describe(f"{hub.url}/org/m", **options)
        finally:
            assert not home.exists()

    return look


def test_a_model_is_described_by_its_headers(look: Callable[..., Description], hub: FakeHub) -> None:
    found = look()
    assert found.repository == f"{hub.url}/org/m"
    assert (found.license, found.gated, found.accessible, found.refusal) == ("apache-2.0", False, True, None)
    assert (found.architecture, found.parameters) == ("llama3", 1000 * 64 + 64)
    assert (found.dtype, found.quantization, found.context_length) == ("bfloat16", None, 131072)
    assert found.weights == 2 * (1000 * 64 + 64)
    assert found.size == found.download == sum(map(len, PLAIN.values()))
    assert found.files == ("config.json", "tokenizer.json", "model.safetensors")
    assert found.fetched < 20_000


def test_memory_is_weights_and_cache_and_what_computing_needs(look: Callable[..., Description]) -> None:
    found = look(context=1000)
    assert found.cache_per_token == 2 * 2 * 2 * 16 * 2
    assert found.memory == found.weights + 1000 * found.cache_per_token + WORKING
    assert found.machine is not None
    assert found.fits is True


def test_memory_is_for_8192_tokens_unless_the_model_is_shorter(look: Callable[..., Description]) -> None:
    assert look().context == 8192
    assert look(PLAIN | {"config.json": json.dumps(CONFIG | {"max_position_embeddings": 512}).encode()}).context == 512


def test_a_model_that_is_too_large_for_the_machine_does_not_fit(
    look: Callable[..., Description], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metalchat_store.describe.machine_memory", lambda: 1000)
    assert look().fits is False
    monkeypatch.setattr("metalchat_store.describe.machine_memory", lambda: None)
    assert look().fits is None


def test_of_large_weights_only_the_header_is_fetched(look: Callable[..., Description], hub: FakeHub) -> None:
    large = {"model.embed_tokens.weight": ("F32", [30_000, 64])}
    found = look(PLAIN | {"model.safetensors": safetensors(large, padding=40_000)})
    assert found.parameters == 30_000 * 64
    assert found.dtype == "float32"
    assert found.cache_per_token == 2 * 2 * 2 * 16 * 4
    assert 40_000 < found.fetched < 60_000
    assert sum(request.sent for request in hub.of("cdn")) < 60_000


def test_all_shards_count(look: Callable[..., Description]) -> None:
    names = [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    files = {name: safetensors({f"layer.{name}.weight": ("BF16", [10, 64])}) for name in names}
    index = {"metadata": {}, "weight_map": {f"layer.{name}.weight": name for name in names}}
    config = {"config.json": PLAIN["config.json"], "model.safetensors.index.json": json.dumps(index).encode()}
    found = look(config | files)
    assert (found.parameters, found.weights) == (3 * 640, 3 * 1280)


def test_packed_weights_count_as_what_is_in_them(look: Callable[..., Description]) -> None:
    config = CONFIG | {"quantization": {"group_size": 64, "bits": 4}}
    tensors = {
        "lm_head.weight": ("U32", [100, 8]),
        "lm_head.scales": ("F16", [100, 1]),
        "lm_head.biases": ("F16", [100, 1]),
        "norm.weight": ("F16", [64]),
    }
    found = look({"config.json": json.dumps(config).encode(), "model.safetensors": safetensors(tensors)})
    assert (found.parameters, found.dtype) == (100 * 64 + 64, "float16")
    assert found.quantization == "4-bit, groups of 64"
    assert found.weights == 100 * 32 + 100 * 4 + 128


def test_another_quantisation_is_named_and_not_counted(look: Callable[..., Description]) -> None:
    config = CONFIG | {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}
    found = look(PLAIN | {"config.json": json.dumps(config).encode()})
    assert (found.quantization, found.parameters) == ("gptq, 4-bit, groups of 128", None)


def test_a_model_that_reads_more_than_text_has_its_numbers_inside(look: Callable[..., Description]) -> None:
    config = {"model_type": "gemma3", "text_config": CONFIG}
    found = look(PLAIN | {"config.json": json.dumps(config).encode()})
    assert (found.architecture, found.context_length) == ("gemma3", 131072)


def test_a_gguf_file_is_described_by_its_header(look: Callable[..., Description], hub: FakeHub) -> None:
    found = look({"model-q4_k_m.gguf": GGUF}, context=1)
    assert (found.architecture, found.parameters, found.quantization) == ("llama3", 1_235_814_432, "Q4_K_M")
    assert (found.dtype, found.context_length, found.weights) == (None, 131072, len(GGUF))
    assert found.cache_per_token == 2 * 16 * 8 * 64 * 2
    assert found.memory == len(GGUF) + found.cache_per_token + 4 * (512 * (6 * 2048 + 2 * 8192) + 128256)
    assert found.fetched < 1_800_000  # the header has 950 kB, the file 4 MB
    assert sum(request.sent for request in hub.of("cdn")) < 1_800_000


def tensors(*shapes: list[int]) -> bytes:
    """What follows the metadata, and the values after it."""
    found = b""
    for index, shape in enumerate(shapes):
        found += word(f"t{index}") + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", 2, 0)
    return found


def quantized(*shapes: list[int], count: int | None = None, room: int = 3_000_000) -> bytes:
    """A file as llama-quantize writes it: no count of parameters, the file type behind the vocabulary."""
    data = gguf(
        ("general.architecture", 8, word("llama")),
        ("llama.block_count", 4, number(16)),
        ("tokenizer.ggml.tokens", 9, VOCABULARY),
        ("tokenizer.chat_template", 8, word("{{ messages }}" * 100)),
        ("general.file_type", 4, number(2)),
        tail=tensors(*shapes) + bytes(room),
    )
    return data[:8] + struct.pack("<Q", len(shapes) if count is None else count) + data[16:]


def test_parameters_and_type_behind_the_vocabulary_are_found(look: Callable[..., Description], hub: FakeHub) -> None:
    found = look({"m.gguf": quantized([2048, 1000], [64], [3, 4, 5, 6])})
    assert (found.parameters, found.quantization) == (2_048_000 + 64 + 360, "Q4_0")
    assert found.fetched < 1_800_000  # the header has 950 kB
    assert found.template == hashlib.sha256(b"{{ messages }}" * 100).hexdigest()


def test_F_6_the_digest_of_the_template_is_told_and_is_that_of_the_lock(home: Path, hub: FakeHub) -> None:
    configured = json.dumps({"chat_template": "{{ configured }}"}).encode()
    for number, (files, text) in enumerate(
        [
            ({"tokenizer_config.json": configured}, "{{ configured }}"),
            ({"tokenizer_config.json": configured, "chat_template.jinja": b"{{ own }}"}, "{{ own }}"),
            ({}, None),
        ]
    ):
        hub.add_repo(f"org/m{number}", files=PLAIN | files)
        store, address = Store(home, environ={}), f"{hub.url}/org/m{number}"
        digest = None if text is None else hashlib.sha256(text.encode()).hexdigest()
        assert store.describe(address).template == digest
        assert store.lock(store.pull(address).entry.id).template == digest


def test_tensors_that_lie_are_refused(look: Callable[..., Description]) -> None:
    with pytest.raises(NotAModel, match=r"too short for its 1,048,576,000,000 parameters$"):
        look({"m.gguf": quantized([1 << 20, 1_000_000])})
    for broken in (
        quantized([1, 1, 1, 1, 1]),
        quantized([1 << 40, 1 << 40]),
        quantized([1], count=1 << 62),
        quantized([1], count=5, room=0),
    ):
        with pytest.raises(NotAModel, match="is not a GGUF model"):
            look({"m.gguf": broken})


@pytest.mark.parametrize("size", [4, 20, 40, 100])
def test_a_gguf_file_that_ends_in_its_header_is_refused(look: Callable[..., Description], size: int) -> None:
    with pytest.raises(NotAModel):
        look({"m.gguf": GGUF[:size]})


def test_a_gated_model_is_described_as_far_as_its_listing_goes(home: Path, hub: FakeHub) -> None:
    hub.add_repo("org/m", files=PLAIN, gated="manual", license="llama3.2")
    hub.add_token("hf_granted", user="alice")
    hub.add_token("hf_other", user="mallory")
    hub.grant("org/m", "alice")
    store, address = Store(home, environ={}), f"{hub.url}/org/m"
    anonymous = store.describe(address)
    assert (anonymous.gated, anonymous.accessible, anonymous.license) == (True, False, "llama3.2")
    assert f"needs its licence accepted at {address}" in str(anonymous.refusal)
    assert (anonymous.architecture, anonymous.size) == (None, sum(map(len, PLAIN.values())))
    other = store.describe(address, authorize=lambda _: "Bearer hf_other")
    assert (other.accessible, other.architecture) == (False, None)
    assert f"ask for access at {address}" in str(other.refusal)
    granted = store.describe(address, authorize=lambda _: "Bearer hf_granted")
    assert (granted.gated, granted.accessible, granted.architecture) == (True, True, "llama3")


def test_a_repository_that_does_not_exist_is_an_error(home: Path, hub: FakeHub) -> None:
    hub.add_token("hf_x", user="alice")
    with pytest.raises(NotFound):
        Store(home, environ={}).describe(f"{hub.url}/org/m", authorize=lambda _: "Bearer hf_x")


def test_what_is_in_the_store_is_not_counted_as_a_download(home: Path, hub: FakeHub) -> None:
    hub.add_repo("org/m", files=PLAIN)
    store = Store(home, environ={})
    store.pull(f"{hub.url}/org/m")
    assert store.describe(f"{hub.url}/org/m").download == 0


def test_a_folder_and_a_list_of_files_are_described_too(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in PLAIN.items():
        (folder / name).write_bytes(content)
    found = Store(home, environ={}).describe(folder.as_uri())
    assert (found.parameters, found.download, found.gated) == (64_064, 0, None)
    with FakeFiles() as server:
        large = {"model.embed_tokens.weight": ("F32", [30_000, 64])}
        files = PLAIN | {"model.safetensors": safetensors(large, padding=40_000)}
        repository = server.add_list(server.add_model(files))
        found = Store(home, environ={}, remotes={"manifest": ManifestRemote}).describe(repository)
    assert found.parameters == 30_000 * 64


def test_a_server_that_fails_once_is_asked_again(look: Callable[..., Description], hub: FakeHub) -> None:
    hub.fault(role="hub", path="/resolve/", status=503)
    hub.fault(role="cdn", cut=100)
    assert look().parameters == 64_064


def test_a_server_that_ignores_ranges_costs_no_more_than_the_headers(
    look: Callable[..., Description], hub: FakeHub
) -> None:
    hub.fault(role="cdn", norange=True, times=-1)
    large = {"model.embed_tokens.weight": ("F32", [30_000, 64])}
    assert look(PLAIN | {"model.safetensors": safetensors(large)}).fetched < 1 << 20


def test_a_flipped_byte_of_the_configuration_is_found(look: Callable[..., Description], hub: FakeHub) -> None:
    hub.fault(role="hub", path="resolve-cache", flip=5, times=-1)
    with pytest.raises(IntegrityError, match=r"'config.json' is damaged"):
        look()


def spoiled(header: bytes, body: int = 4) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(body)


def entry(**changes: object) -> bytes:
    return json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | changes}).encode()


BAD = {
    "empty": b"",
    "short": b"1234567",
    "no length": bytes(16),
    "a huge length": b"\xff" * 16,
    "a length beyond": (1000).to_bytes(8, "little") + b"{}",
    "no JSON": spoiled(b"\xff\xff\xff"),
    "an array": spoiled(b"[]", 0),
    "deep": spoiled(b"[" * 9000),
    "twice": spoiled(b'{"a":1,"a":2}'),
    "no table": spoiled(b'{"a":1}'),
    "an escape": spoiled(b'{"\\u001b":{}}'),
    "another type": spoiled(entry(dtype="F33")),
    "no type": spoiled(entry(dtype=None)),
    "a shape below": spoiled(entry(shape=[-1])),
    "a shape of truth": spoiled(entry(shape=[True])),
    "a shape of text": spoiled(entry(shape="1")),
    "a huge shape": spoiled(entry(shape=[1 << 50])),
    "a product": spoiled(entry(shape=[1 << 40, 1 << 40])),
    "one offset": spoiled(entry(data_offsets=[0])),
    "reversed": spoiled(entry(data_offsets=[4, 0])),
    "beyond": spoiled(entry(data_offsets=[4, 8])),
    "a gap": spoiled(entry(), 8),
    "trailing": spoiled(entry(), 5),
    "nothing but trailing": spoiled(b"{}", 5),
}


@pytest.mark.parametrize("name", BAD)
def test_weights_that_lie_are_refused(look: Callable[..., Description], name: str) -> None:
    with pytest.raises(StoreError, match=r"'model.safetensors' is not a valid safetensors file") as caught:
        look(PLAIN | {"model.safetensors": BAD[name]})
    assert caught.value.exit_code == 6
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 0},
        {"hidden_size": -1},
        {"num_attention_heads": "4"},
        {"vocab_size": 1e30},
        {"max_position_embeddings": True},
        {"head_dim": [1]},
        {"model_type": "\x1b[2J"},
        {"model_type": None},
    ],
)
def test_a_configuration_that_no_model_has_is_refused(
    look: Callable[..., Description], change: dict[str, object]
) -> None:
    with pytest.raises(NotAModel) as caught:
        look(PLAIN | {"config.json": json.dumps(CONFIG | change).encode()})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("data", [b"", b"[]", b"{" * 50_000, b'{"a": NaN}', b"\xff"])
def test_a_configuration_that_is_no_object_is_refused(look: Callable[..., Description], data: bytes) -> None:
    with pytest.raises(NotAModel, match=r"'config.json' is not"):
        look(PLAIN | {"config.json": data})


def test_what_is_no_model_is_refused(home: Path) -> None:
    remote = MemoryRemote(files={"model.safetensors": b"", "pytorch_model.bin": b""})
    with pytest.raises(NotAModel):
        Store(home, environ={}, remotes={"memory": lambda: remote}).describe("memory://host/x")
