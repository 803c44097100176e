"""Writes gguf_tokenizer.json: what llama.cpp itself makes of a set of texts, for several vocabularies.

Needs llama.cpp (`pip install xllamacpp`), `sentencepiece`, `tokenizers` and this package. Run it as

    python make_gguf_tokenizer.py [SmolLM2-135M-Instruct.Q4_1.gguf]

The vocabularies are trained here on the texts. The byte-level one is trained without any cuts, so that its merges reach
over spaces, digits and punctuation and every difference between two ways of cutting shows.
"""

import json
import os
import sys
import tempfile
import urllib.request
from pathlib import Path

import sentencepiece
import xllamacpp
from metalchat_engine_mlx.gguf.pretokenizers import PRETOKENIZERS
from metalchat_engine_mlx.testing.gguf import SPECIAL, write_llama
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

TEXTS = [
    "",
    "a",
    " ",
    "Hello, world!  How are  you?",
    "   leading and trailing   ",
    "\n\n\n",
    "a\n b\n\n  c\t\td \r\n\r\nx\r\ry",
    "I'm don't we'll they've he'd it's I'M DON'T WE'LL 'S 'tis",
    "1 12 123 1234 12345 1234567890 3.14159 1,000,000 -42 0x1F ½ Ⅻ ٣٤٥ ²³",
    "def f(x):\n    return x**2  # square\n\nclass A(object):\n\tpass\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] << 2; } // ok?\n",
    '{"key": [1, 2.5, null, true], "s": "\\u00e9\\n"}',
    "https://example.com/path?x=1&y=2#frag user@example.org",
    "Grüße aus München, où êtes-vous? naïve façade Ångström",
    "Привет, мир! Как дела? Γειά σου Κόσμε",
    "こんにちは世界。今日は元気ですか？你好，世界！안녕하세요",
    "مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดีชาวโลก",
    "🙂😀👍🏽👨‍👩‍👧‍👦🇩🇪❤️ ok",
    "e\u0301 é n\u0303 ñ ﬁ Ａ１",
    "a\u00a0b\u2003c\u200bd\u3000e\u2028f\u0085g\u0000\u0001\u001f\u007f",
    "<|im_start|>system\nYou are<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n",
    "a<|im_start|>b <|im_start |im_end|> <|endoftext|>",
    "<s>[INST] hi [/INST]</s> x <unk> <0x0A> <0xFF>",
    "▁ ▁▁ a▁b Ġ Ċ Ġhello",
    "CamelCaseAndSNAKE_case-kebab.dot/slash\\back iPhone eBay ALL",
    "!!! ??? ... --- *** ### $$$ %%% ^^^ &&& ((( ))) ~`| a=b+c; x<=y>=z",
    "      six spaces      and more        ",
    "word\n\n\n\n\nword  \n  b   \n",
    "\ufeffBOM 𝒜𝓁𝓅𝒽𝒶 𐍈 ß ẞ ı İ ǅ",
    "x" * 70 + "9" * 40 + " " * 33,
    '"quoted" ‘single’ “double” «guillemets» –—―…•·',
    "1st 2nd 3rd 10:30am 2024-05-06T12:34:56Z R$ 10,50 €20 £30 ¥40",
    "\\begin{equation} \\frac{a}{b} \\end{equation} <b class='x'>&nbsp;</b>",
]


def llama_cpp(path: Path) -> list[list[list[int] | None]]:
    """Of each text: ids with special tokens recognised; as plain text and with the ends added, or None where equal."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = 128
    params.warmup = False
    server = xllamacpp.Server(params)

    def ids(text: str, parse: bool, add: bool) -> list[int]:
        body = json.dumps({"content": text, "parse_special": parse, "add_special": add}).encode()
        request = urllib.request.Request(
            f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["tokens"]

    found = [[ids(text, True, False), ids(text, False, False), ids(text, True, True)] for text in TEXTS]
    return [[first, *(None if other == first else other for other in others)] for first, *others in found]


def byte_level() -> dict:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL),
        max_token_length=12,
        show_progress=False,
    )
    tokenizer.train_from_iterator([text * 2 for text in TEXTS], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [*tokens, "user@"],
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in tokens] + [4],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
    }


def sentence_piece() -> dict:
    with tempfile.TemporaryDirectory() as directory:
        corpus = Path(directory, "corpus")
        corpus.write_text("\n".join(TEXTS).replace("\0", ""))
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus),
            model_prefix=f"{directory}/m",
            vocab_size=1000,
            model_type="bpe",
            byte_fallback=True,
            character_coverage=0.98,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            minloglevel=2,
        )
        model = sentencepiece.SentencePieceProcessor(model_file=f"{directory}/m.model")
    count = model.get_piece_size()
    kinds = [
        2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1 for i in range(count)
    ]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*(model.id_to_piece(i) for i in range(count)), "<|im_start|>", "<|im_end|>", "user@"],
        "tokenizer.ggml.scores": [*(model.get_score(i) for i in range(count)), 0.0, 0.0, 0.0],
        "tokenizer.ggml.token_type": [*kinds, 3, 3, 4],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def main() -> None:
    vocabularies = {"byte_level": byte_level(), "sentencepiece": sentence_piece()}
    different = {cut: name for name, cut in reversed(PRETOKENIZERS.items())}  # the first name of each
    cases = [["byte_level", {"tokenizer.ggml.pre": name}] for name in different.values()]
    cases.append(["byte_level", {"tokenizer.ggml.pre": "smollm", "tokenizer.ggml.add_bos_token": True}])
    cases.append(["sentencepiece", {}])
    cases.append(["sentencepiece", {"tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.add_eos_token": True}])
    ids = []
    with tempfile.TemporaryDirectory() as directory:
        for name, settings in cases:
            path = Path(directory, "tiny.gguf")
            write_llama(path, tokenizer=vocabularies[name] | settings, layers=1)
            ids.append(llama_cpp(path))
    golden = {
        "made by": f"llama.cpp in xllamacpp {xllamacpp.__version__}",
        "texts": TEXTS,
        "vocabularies": vocabularies,
    }
    golden["cases"] = [[*case, found] for case, found in zip(cases, ids, strict=True)]
    golden["smollm2"] = llama_cpp(Path(sys.argv[1])) if len(sys.argv) > 1 else None
    target = Path(__file__).with_name("gguf_tokenizer.json")
    target.write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")) + "\n")
    sys.stdout.flush()
    os._exit(0)  # llama.cpp's servers have no stop


if __name__ == "__main__":
    main()
