"""The weights of a GGUF file as a folder that mlx_lm opens: the same quantised values, in MLX's layout."""

import hashlib
import json
import shutil
from pathlib import Path

GROUP = 32


def peer_folder(gguf: Path, cache: Path) -> Path:
    """The converted folder of `gguf` below `cache`; made once for each content.

    The integers are the file's own, and scales and biases hold the file's values exactly. On a CPU they are float32,
    which mlx_lm then computes with too: by far the fastest there of what it can be given. On a GPU they stay float16.
    """
    import mlx.core as mx
    from metalchat_engine_mlx.gguf import (
        config_from_gguf,
        load_weights,
        quantization,
        read_header,
        tokenizer_from_gguf,
    )

    dtype = mx.float32 if mx.default_device() == mx.Device(mx.cpu) else mx.float16
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = cache / f"mlx-lm-{digest[:16]}-{str(dtype).rpartition('.')[2]}"
    if folder.is_dir():
        return folder
    header = read_header(gguf)
    config = {key: value for key, value in config_from_gguf(header).items() if value is not None}
    if config.get("rope_scaling", {}).get("rope_type") == "gguf_factors":
        raise SystemExit(f"{gguf}: mlx_lm has no configuration for rotary factors that only GGUF files hold")
    packings: dict[str, object] = {"group_size": GROUP, "bits": 4}
    for module, packing in quantization(header).items():
        packings[module] = False if packing is None else {"bits": packing[0], "group_size": packing[1]}
    tokenizer = tokenizer_from_gguf(header)
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = load_weights(gguf, header, dtype=dtype)
    mx.save_safetensors(str(partial / "model.safetensors"), weights, metadata={"format": "mlx"})
    (partial / "config.json").write_text(json.dumps(config | {"quantization": packings}), encoding="utf-8")
    (partial / "tokenizer.json").write_bytes(tokenizer.tokenizer_json)
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": tokenizer.chat_template,
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
    }
    (partial / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")
    partial.rename(folder)
    return folder
