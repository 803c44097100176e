"""What a loaded model keeps of texts: how much of it, and what makes a saved state its own."""

import hashlib
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

from metalchat_engine_mlx.adapters import CONFIG, Adapter
from metalchat_engine_mlx.draft import DraftModel
from metalchat_engine_mlx.memory import Demand
from metalchat_engine_mlx.prefix import PrefixCache
from metalchat_engine_mlx.recall import Recall
from metalchat_engine_mlx.room import Room
from metalchat_engine_mlx.states import LayerShape, StateFiles, files_identity

if TYPE_CHECKING:
    from metalchat_prompt import Prompt


def cache_limit(demand: Demand, context_length: int, available: int | None) -> int | None:
    """The bytes that all keys and values together may take; those of one whole context at least."""
    if available is None:
        return None
    rest = available - demand.weights - demand.transient(context_length, demand.own.batch)
    return max(rest, demand.cache(context_length))


def recall_of(demand: Demand, prompt: "Prompt", draft: DraftModel | None, *, limit: int | None) -> Recall:
    """What a model of so many bytes for keys and values remembers."""
    checkpoint, own, chunk, on_cpu = demand.checkpoint, demand.own, demand.chunk, demand.on_cpu
    config = checkpoint.config
    grain = chunk if own.deterministic else 1
    prefixes = PrefixCache(config.windows, own.prefix_cache_bytes, grain=grain, bits=own.cache_bits)

    drafted = None if draft is None else draft.prefixes  # whoever holds the room must not hold a draft's weights

    def give_way(most: int) -> None:
        if drafted is not None:
            drafted.shrink(max(most - prefixes.nbytes, 0))
        prefixes.shrink(most)

    room = Room(limit, cache(demand.cache), give_way)
    nothing = own.state_bytes == 0 or own.prefix_cache_bytes == 0
    if own.state_directory is None or nothing or own.cache_bits is not None:
        return Recall(prefixes, room)
    if checkpoint.gguf is not None:
        paths = [checkpoint.gguf.path]
    else:
        weights = {tensor.file for tensor in checkpoint.tensors.values()}
        paths = [checkpoint.path / file for file in (*sorted(weights), "config.json", "tokenizer.json")]
    try:
        files = files_identity(paths)
        adapters = {adapter.name: _digest(adapter) for adapter in demand.adapters}
    except OSError:
        return Recall(prefixes, room)
    versions = [metadata.version(name) for name in ("metalchat-engine-mlx", "mlx")]
    dtype = own.dtype or checkpoint.dtype
    facts = (
        versions,
        files,
        prompt.template_digest,
        config,
        dtype,
        on_cpu,
        own.threads,
        chunk,
        own.deterministic,
        demand.wide,
        own.blas,
    )
    layers = [
        LayerShape(window=attention.window, heads=attention.kv_heads, dim=attention.head_dim)
        for attention in (layer.attention for layer in config.layers)
    ]
    identity = hashlib.sha256(repr(facts).encode()).digest()
    return Recall(prefixes, room, StateFiles(own.state_directory, identity, layers, own.state_bytes, adapters))


def _digest(adapter: Adapter) -> bytes:
    """Of the whole adapter: its name may become another's, and its files are small. Raises OSError."""
    found = hashlib.sha256()
    for path in (adapter.file.with_name(CONFIG), adapter.file):
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.digest()
