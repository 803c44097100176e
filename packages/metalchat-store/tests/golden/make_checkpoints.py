"""Writes the checkpoints in `meta/` with the genuine `torch.save`, and what they must become.

Run by hand with an interpreter that has torch, transformers, tokenizers and regex: `python make_checkpoints.py`. The
weights are noise. The forward pass of Meta's order of rows, written out below, and that of `transformers` on the
renamed and permuted weights must agree, so the expected digests do not depend on this project's own conversion.
"""

import base64
import collections
import hashlib
import itertools
import json
from pathlib import Path

import regex
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).parent / "meta"
PARAMS = {
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "vocab_size": 352,
    "ffn_dim_multiplier": 1.0,
    "multiple_of": 8,
    "norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "use_scaled_rope": False,
}
HIDDEN = 88
TEXTS = ["This is a test sentence.", "über 東京, 12345 naïve\n\n  it's", "the the  theatre", "<|eot_id|>"]
CORPUS = "the quick brown fox jumps over the lazy dog; this is a test sentence, isn't it? 12345 über naïve theatre " * 8
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def meta_weights():
    torch.manual_seed(7)
    dim, heads, kv = PARAMS["dim"], PARAMS["n_heads"], PARAMS["n_kv_heads"]
    head = dim // heads
    shapes = {"tok_embeddings.weight": (PARAMS["vocab_size"], dim), "norm.weight": (dim,)}
    for layer in range(PARAMS["n_layers"]):
        shapes |= {
            f"layers.{layer}.attention.wq.weight": (heads * head, dim),
            f"layers.{layer}.attention.wk.weight": (kv * head, dim),
            f"layers.{layer}.attention.wv.weight": (kv * head, dim),
            f"layers.{layer}.attention.wo.weight": (dim, heads * head),
            f"layers.{layer}.feed_forward.w1.weight": (HIDDEN, dim),
            f"layers.{layer}.feed_forward.w2.weight": (dim, HIDDEN),
            f"layers.{layer}.feed_forward.w3.weight": (HIDDEN, dim),
            f"layers.{layer}.attention_norm.weight": (dim,),
            f"layers.{layer}.ffn_norm.weight": (dim,),
        }
    shapes["output.weight"] = (PARAMS["vocab_size"], dim)
    found = {name: torch.randn(shape) * 0.2 + (len(shape) == 1) for name, shape in shapes.items()}
    return {name: value.to(torch.bfloat16) for name, value in found.items()}


def renamed(weights):
    dim, heads, kv = PARAMS["dim"], PARAMS["n_heads"], PARAMS["n_kv_heads"]

    def permuted(value, count):
        return value.view(count, value.shape[0] // count // 2, 2, dim).transpose(1, 2).reshape(value.shape)

    names = {"attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj"}
    names |= {
        "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
    }
    names |= {"feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm"}
    names |= {"ffn_norm": "post_attention_layernorm"}
    out = {"model.embed_tokens.weight": weights["tok_embeddings.weight"], "model.norm.weight": weights["norm.weight"]}
    out["lm_head.weight"] = weights["output.weight"]
    for layer in range(PARAMS["n_layers"]):
        for old, new in names.items():
            value = weights[f"layers.{layer}.{old}.weight"]
            value = permuted(value, heads) if old == "attention.wq" else value
            value = permuted(value, kv) if old == "attention.wk" else value
            out[f"model.layers.{layer}.{new}.weight"] = value.contiguous()
    return out


def meta_forward(weights, tokens):
    """Logits in float32, the rotation as a product of complex numbers of neighbouring values."""
    weights = {name: value.float() for name, value in weights.items()}
    dim, heads, kv = PARAMS["dim"], PARAMS["n_heads"], PARAMS["n_kv_heads"]
    head, length = dim // heads, len(tokens)
    x = weights["tok_embeddings.weight"][tokens]
    periods = PARAMS["rope_theta"] ** (-torch.arange(0, head, 2).float() / head)
    turns = torch.polar(torch.ones(length, head // 2), torch.outer(torch.arange(length).float(), periods))

    def norm(value, name):
        return value * torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + PARAMS["norm_eps"]) * weights[name]

    def rotated(value):
        pairs = torch.view_as_complex(value.reshape(length, -1, head // 2, 2))
        return torch.view_as_real(pairs * turns[:, None]).flatten(2)

    for layer in range(PARAMS["n_layers"]):
        own = f"layers.{layer}."
        y = norm(x, own + "attention_norm.weight")
        q = rotated((y @ weights[own + "attention.wq.weight"].T).view(length, heads, head))
        k = rotated((y @ weights[own + "attention.wk.weight"].T).view(length, kv, head)).repeat_interleave(2, 1)
        v = (y @ weights[own + "attention.wv.weight"].T).view(length, kv, head).repeat_interleave(2, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / head**0.5
        scores += torch.full((length, length), float("-inf")).triu(1)
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(length, dim)
        x = x + mixed @ weights[own + "attention.wo.weight"].T
        y = norm(x, own + "ffn_norm.weight")
        gate = torch.nn.functional.silu(y @ weights[own + "feed_forward.w1.weight"].T)
        up = y @ weights[own + "feed_forward.w3.weight"].T
        x = x + (gate * up) @ weights[own + "feed_forward.w2.weight"].T
    return norm(x, "norm.weight") @ weights["output.weight"].T


def split(weights, count):
    """The shards of `count` devices."""
    columns = ("attention.wo.weight", "feed_forward.w2.weight")
    shards = [collections.OrderedDict() for _ in range(count)]
    for name, value in weights.items():
        axis = 1 if name.endswith(columns) else 0
        parts = [value] * count if value.dim() == 1 else value.chunk(count, axis)
        for shard, part in zip(shards, parts, strict=True):
            shard[name] = part.clone()
    return shards


def make_ranks():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [CORPUS], trainers.BpeTrainer(vocab_size=336, initial_alphabet=alphabet, show_progress=False)
    )
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in visible]
    back = {chr(0x100 + place): byte for place, byte in enumerate(others)} | {chr(byte): byte for byte in visible}
    vocabulary = sorted(made.get_vocab().items(), key=lambda item: item[1])
    return [bytes(back[character] for character in token) for token, _ in vocabulary]


def encode(tokens, text):
    """Byte pairs by rank, as tiktoken does it."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    ids = []
    for piece in regex.findall(SPLIT, text):
        parts = [bytes([byte]) for byte in piece.encode()]
        while len(parts) > 1:
            found = [(ranks.get(a + b, 1 << 30), place) for place, (a, b) in enumerate(itertools.pairwise(parts))]
            rank, place = min(found)
            if rank == 1 << 30:
                break
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        ids += [ranks[part] for part in parts]
    return ids


def digest(value):
    return hashlib.sha256(value.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def main():
    OUT.mkdir(exist_ok=True)
    weights = meta_weights()
    converted = renamed(weights)
    ranks = make_ranks()
    tokens = torch.tensor([len(ranks), *encode(ranks, TEXTS[0])])
    config = LlamaConfig(
        vocab_size=PARAMS["vocab_size"],
        hidden_size=PARAMS["dim"],
        intermediate_size=HIDDEN,
        num_hidden_layers=PARAMS["n_layers"],
        num_attention_heads=PARAMS["n_heads"],
        num_key_value_heads=PARAMS["n_kv_heads"],
        rms_norm_eps=PARAMS["norm_eps"],
        rope_theta=PARAMS["rope_theta"],
        tie_word_embeddings=False,
    )
    theirs = LlamaForCausalLM(config)
    theirs.load_state_dict({name: value.float() for name, value in converted.items()}, strict=True)
    with torch.no_grad():
        expected = meta_forward(weights, tokens)
        torch.testing.assert_close(theirs(tokens[None]).logits[0], expected, rtol=1e-3, atol=1e-3)
    torch.save(weights, OUT / "whole.pth")
    for number, shard in enumerate(split(weights, 2)):
        torch.save(shard, OUT / f"half.{number:02}.pth")
    tied = dict(weights) | {"output.weight": weights["tok_embeddings.weight"]}
    torch.save(tied, OUT / "tied.pth")
    torch.save({"model": weights["norm.weight"], "epoch": 3}, OUT / "training.pth")
    torch.save(torch.nn.Linear(2, 2), OUT / "module.pth")
    torch.save({"norm.weight": weights["norm.weight"]}, OUT / "old.pth", _use_new_zipfile_serialization=False)
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(ranks)]
    (OUT / "tokenizer.model").write_text("".join(lines))
    (OUT / "params.json").write_text(json.dumps(PARAMS) + "\n")
    record = {
        "torch": torch.__version__,
        "tensors": {name: digest(value) for name, value in converted.items()},
        "text": TEXTS[0],
        "logprobs": [round(value, 4) for value in expected[-1].log_softmax(-1).tolist()],
        "texts": {text: encode(ranks, text) for text in TEXTS},
    }
    (OUT / "expected.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
