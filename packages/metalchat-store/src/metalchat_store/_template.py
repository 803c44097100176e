"""What a model's chat template and tokenizer are, as digests that tell two of them apart."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from metalchat_store.blobs import Blobs, hash_path
from metalchat_store.detect import read_json
from metalchat_store.errors import NotAModel
from metalchat_store.gguf import tokenizer_digests
from metalchat_store.snapshots import Snapshot

TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
"""Where a chat template is looked for, in this order."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


def digests(
    files: Mapping[str, Path], known: Mapping[str, str] = MappingProxyType({})
) -> tuple[str | None, str | None]:
    """The SHA-256 of the chat template's text and that of the tokenizer, of a model with these files.

    Several named templates count as one JSON object of them. The tokenizer is `tokenizer.json`, else
    `tokenizer.model`, else what the header of a GGUF file has. None for what is missing or cannot be read. `known`
    has the SHA-256 of whole files, which are then not read for it.
    """
    try:
        template = _template(files, known)
        tokenizer = next((_hash(name, files, known) for name in TOKENIZER_FILES if name in files), None)
        weights = next((name for name in files if name.endswith(".gguf")), None)
        if weights is not None:
            inner = tokenizer_digests(files[weights], weights)
            template, tokenizer = template or inner[0], tokenizer or inner[1]
    except (OSError, NotAModel):
        return None, None
    return template, tokenizer


def snapshot_digests(blobs: Blobs, snapshot: Snapshot) -> tuple[str | None, str | None]:
    """The same for the content of a snapshot."""
    return digests(
        {file.path: blobs.path(file.digest) for file in snapshot.files},
        {file.path: file.digest.hex for file in snapshot.files},
    )


def template_of(config: object) -> str | None:
    """The SHA-256 of a `chat_template` value: a text, or several with names."""
    if isinstance(config, list):
        config = {item.get("name"): item.get("template") for item in config if isinstance(item, dict)}
    if isinstance(config, dict):
        named = {key: text for key, text in config.items() if isinstance(key, str) and isinstance(text, str)}
        config = json.dumps(named, sort_keys=True, ensure_ascii=False) if named else None
    if not isinstance(config, str) or not config:
        return None
    return hashlib.sha256(config.encode(errors="surrogatepass")).hexdigest()


def template_in(name: str, data: bytes) -> str | None:
    """The SHA-256 of the template in a file that `TEMPLATE_FILES` names, given its content."""
    if name.endswith(".jinja"):
        return hashlib.sha256(data).hexdigest()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return template_of(value.get("chat_template")) if isinstance(value, dict) else None


def _template(files: Mapping[str, Path], known: Mapping[str, str]) -> str | None:
    if "chat_template.jinja" in files:
        return _hash("chat_template.jinja", files, known)
    for name in TEMPLATE_FILES[1:]:
        found = template_of(read_json(files[name], name).get("chat_template")) if name in files else None
        if found is not None:
            return found
    return None


def _hash(name: str, files: Mapping[str, Path], known: Mapping[str, str]) -> str:
    return known[name] if name in known else hash_path(files[name]).hex
