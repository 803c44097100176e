"""Meta's checkpoints, written by the genuine torch, become exactly the model that transformers makes of them."""

import hashlib
import io
import json
import shutil
from pathlib import Path

import pytest
from metalchat_store import NotAModel
from metalchat_store.checkpoint.model import Traits, members
from metalchat_store.checkpoint.params import read_params
from metalchat_store.checkpoint.tiktoken import read_ranks, special_tokens, tokenizer_json

META = Path(__file__).parent / "golden" / "meta"
EXPECTED = json.loads((META / "expected.json").read_text())
CHAT = Traits(context=512, tokens="llama3_1", rope_factor=8.0, chat=True)


def laid_out(*shards: str) -> dict[str, Path]:
    files = {"params.json": META / "params.json", "tokenizer.model": META / "tokenizer.model"}
    return files | {f"consolidated.{number:02}.pth": META / shard for number, shard in enumerate(shards)}


def converted(files: dict[str, Path], traits: Traits = CHAT) -> dict[str, bytes]:
    found = {}
    for member in members(files, traits):
        with member.open() as stream:
            found[member.path] = stream.read()
        assert len(found[member.path]) == member.size
    return found


def tensors(data: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    body = data[8 + length :]
    ends = [entry["data_offsets"] for entry in header.values()]
    assert [begin for begin, _ in ends] == [0, *(end for _, end in ends[:-1])]
    assert ends[-1][1] == len(body)
    return {
        name: (entry["dtype"], entry["shape"], body[slice(*entry["data_offsets"])]) for name, entry in header.items()
    }


def digests(data: bytes) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, (_, _, content) in tensors(data).items()}


@pytest.mark.parametrize("shards", [("whole.pth",), ("half.00.pth", "half.01.pth")], ids=["one file", "two files"])
def test_every_tensor_is_byte_for_byte_what_transformers_makes(shards: tuple[str, ...]) -> None:
    weights = converted(laid_out(*shards))["model.safetensors"]
    assert digests(weights) == EXPECTED["tensors"]
    assert {dtype for dtype, _, _ in tensors(weights).values()} == {"BF16"}


def test_a_head_that_is_the_embedding_is_left_out() -> None:
    files = converted(laid_out("tied.pth"))
    found = digests(files["model.safetensors"])
    assert "lm_head.weight" not in found
    assert found == {name: digest for name, digest in EXPECTED["tensors"].items() if name != "lm_head.weight"}
    assert json.loads(files["config.json"])["tie_word_embeddings"] is True


def test_the_config_says_what_params_said() -> None:
    config = json.loads(converted(laid_out("whole.pth"))["config.json"])
    assert config["model_type"] == "llama"
    assert (config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]) == (32, 88, 2)
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (4, 2, 8)
    assert (config["vocab_size"], config["max_position_embeddings"]) == (352, 512)
    assert config["rope_scaling"] is None
    assert config["tie_word_embeddings"] is False
    assert (config["bos_token_id"], config["eos_token_id"]) == (327, [328, 335, 336])


def test_a_base_model_ends_with_its_text_and_has_no_template() -> None:
    files = converted(laid_out("whole.pth"), Traits(context=512, tokens="llama3", rope_factor=8.0, chat=False))
    assert json.loads(files["generation_config.json"]) == {"bos_token_id": 327, "eos_token_id": 328}
    assert "chat_template.jinja" not in files


def test_a_scaled_rope_has_the_factor_of_its_release(tmp_path: Path) -> None:
    params = json.loads((META / "params.json").read_text()) | {"use_scaled_rope": True}
    (tmp_path / "params.json").write_text(json.dumps(params))
    files = laid_out("whole.pth") | {"params.json": tmp_path / "params.json"}
    config = json.loads(
        converted(files, Traits(context=512, tokens="llama3_1", rope_factor=32.0, chat=True))["config.json"]
    )
    assert config["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


@pytest.mark.parametrize("text", EXPECTED["texts"])
def test_the_tokenizer_cuts_text_as_the_ranks_say(text: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    ranks = read_ranks((META / "tokenizer.model").read_bytes())
    special = special_tokens(25, "llama3_1")
    made = tokenizers.Tokenizer.from_str(tokenizer_json(ranks, special).decode())
    if text in special:
        assert made.encode(text, add_special_tokens=False).ids == [327 + special.index(text)]
        return
    assert made.encode(text).ids == [327, *EXPECTED["texts"][text]]
    assert made.decode(made.encode(text).ids) == text


def test_special_tokens_have_the_places_that_meta_gave_them() -> None:
    later, first = special_tokens(256, "llama3_1"), special_tokens(256, "llama3")
    assert [later.index(f"<|{name}|>") for name in ("begin_of_text", "eom_id", "eot_id", "python_tag")] == [0, 8, 9, 10]
    assert (later[2], later[3], later[11], later[255]) == tuple(
        f"<|reserved_special_token_{number}|>" for number in (0, 1, 2, 246)
    )
    assert (first[5], first[9], first[255]) == (
        "<|reserved_special_token_3|>",
        "<|eot_id|>",
        "<|reserved_special_token_250|>",
    )


def test_the_weights_are_read_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from metalchat_store.checkpoint import llama

    monkeypatch.setattr(llama, "_PIECE", 256)
    largest = 0
    real = llama.read_at

    def counted(descriptor: int, start: int, length: int) -> bytes:
        nonlocal largest
        largest = max(largest, length)
        return real(descriptor, start, length)

    monkeypatch.setattr(llama, "read_at", counted)
    weights = converted(laid_out("half.00.pth", "half.01.pth"))["model.safetensors"]
    assert digests(weights) == EXPECTED["tensors"]
    assert largest <= 8 * 32 * 2  # the rows of one head


@pytest.mark.parametrize(
    ("shard", "reason"),
    [
        ("training.pth", "'epoch' is not a tensor"),
        ("module.pth", "it calls 'torch.nn.modules.linear.Linear', which can run code and is not done"),
        ("old.pth", "it is not a zip file as torch writes it"),
    ],
)
def test_what_torch_saves_besides_tensors_is_refused(shard: str, reason: str) -> None:
    with pytest.raises(NotAModel) as caught:
        converted(laid_out(shard))
    assert str(caught.value) == f"'consolidated.00.pth' is not a checkpoint that can be read: {reason}"


@pytest.mark.parametrize(
    ("shards", "reason"),
    [
        (("half.00.pth",), "has 'layers.0.attention.wq.weight' as BF16 16x32, 'params.json' needs 32x32"),
        (("half.00.pth", "whole.pth"), "has 'tok_embeddings.weight' as BF16 352x32, 'params.json' needs 176x32"),
        (("whole.pth", "whole.pth", "whole.pth"), "the 4 heads of the model cannot be split into 3 files"),
    ],
)
def test_shards_that_do_not_belong_together_are_refused(shards: tuple[str, ...], reason: str) -> None:
    with pytest.raises(NotAModel, match=reason):
        converted(laid_out(*shards))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n_layers": 3}, "has no 'layers.2.attention_norm.weight'"),
        ({"n_layers": 1}, "has 'layers.1.attention.wk.weight', which no Llama text model has"),
        ({"n_layers": 10**9}, "'n_layers' is not a whole number from 1 to 1,000"),
        ({"dim": 64}, "needs"),
        ({"dim": 0}, "'dim' is not a whole number"),
        ({"dim": True}, "'dim' is not a whole number"),
        ({"n_heads": 3}, "cannot be shared by 3 heads"),
        ({"n_kv_heads": 3}, "cannot be shared"),
        ({"norm_eps": "x"}, "'norm_eps' is not a number above 0"),
        ({"norm_eps": float("nan")}, "'norm_eps' is not a number above 0"),
        ({"rope_theta": -1}, "'rope_theta' is not a number above 0"),
        ({"use_scaled_rope": 1}, "'use_scaled_rope' is not true or false"),
        ({"vision_chunk_size": 448}, "reads images"),
        ({"quantization_args": {"group_size": 256}}, "is quantised"),
        ({"lora_args": {"rank": 16}}, "has adapters"),
        ({"moe_args": {"num_experts": 16}}, "mixture of experts"),
    ],
)
def test_params_that_contradict_the_weights_or_reason_are_refused(
    change: dict[str, object], reason: str, tmp_path: Path
) -> None:
    params = json.loads((META / "params.json").read_text()) | change
    (tmp_path / "params.json").write_text(json.dumps(params))
    with pytest.raises(NotAModel, match=reason) as caught:
        converted(laid_out("whole.pth") | {"params.json": tmp_path / "params.json"})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 100_000, b"{" + b" " * (1 << 20) + b"}"])
def test_params_that_are_no_object_are_refused(data: bytes) -> None:
    with pytest.raises(NotAModel, match=r"'params.json' is not"):
        read_params(data)


@pytest.mark.parametrize(
    "data", [b"", b"\x0a\x05<unk>", b"AA== 1\n", b"AA== 0\nAA== 1\n", b"!!!! 0\n", b"AA==  0\n", b" 0\n", b"AA== 0 0\n"]
)
def test_a_tokenizer_that_is_no_list_of_ranks_is_refused(data: bytes) -> None:
    with pytest.raises(NotAModel, match=r"'tokenizer.model'"):
        read_ranks(data)


@pytest.mark.parametrize("missing", ["params.json", "tokenizer.model", "consolidated.00.pth"])
def test_what_is_missing_is_named(missing: str) -> None:
    files = laid_out("whole.pth")
    del files[missing]
    with pytest.raises(NotAModel, match=f"there is no '{missing}'"):
        converted(files)


def test_a_stream_that_is_left_early_leaves_nothing_open(tmp_path: Path) -> None:
    shutil.copy(META / "whole.pth", tmp_path / "whole.pth")
    files = laid_out("whole.pth") | {"consolidated.00.pth": tmp_path / "whole.pth"}
    weights = list(members(files, CHAT))[-1]
    with weights.open() as stream:
        assert len(stream.read(100)) == 100
    assert stream.closed
    (tmp_path / "whole.pth").write_bytes(b"")
    with weights.open() as stream, pytest.raises(NotAModel, match="it ends too early"):
        io.BytesIO().writelines(stream)
