"""From checked headers to a model in memory."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np
from metalchat_engine import EngineSettings, InvalidModel, OutOfMemory, UnsupportedRequest

from metalchat_engine_mlx.adapters import Adapter
from metalchat_engine_mlx.cache import cache_group
from metalchat_engine_mlx.checkpoint import Checkpoint
from metalchat_engine_mlx.config import ModelConfig
from metalchat_engine_mlx.decoder import Decoder
from metalchat_engine_mlx.device import Blocks, DeviceBlocks
from metalchat_engine_mlx.draft import DraftModel, check_draft
from metalchat_engine_mlx.drawing import numbers
from metalchat_engine_mlx.engine import read_prompt
from metalchat_engine_mlx.gemm import choose
from metalchat_engine_mlx.host import HostBlocks
from metalchat_engine_mlx.keeping import cache_limit, recall_of
from metalchat_engine_mlx.lowrank import load_additions
from metalchat_engine_mlx.machine import default_threads
from metalchat_engine_mlx.memory import Demand, is_bound
from metalchat_engine_mlx.model import MlxModel
from metalchat_engine_mlx.parameters import Parameters, load_arrays
from metalchat_engine_mlx.settings import MlxSettings, capabilities
from metalchat_engine_mlx.speculation import Speculation
from metalchat_engine_mlx.streams import borrow, give_back
from metalchat_engine_mlx.weights import matrices

if TYPE_CHECKING:
    from metalchat_prompt import Prompt

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
_HOST_CACHE = 32 * 2**20
# What MLX had set before a model was loaded with a limit.
_USUAL: dict[str, int] = {}


def load_model(
    demand: Demand, prompt: "Callable[[], Prompt]", *, context_length: int, available: int | None
) -> MlxModel:
    """A model that takes no more than the `available` bytes.

    Raises InvalidModel, OutOfMemory, and UnsupportedRequest for a device that is not there.
    """
    checkpoint, own, chunk = demand.checkpoint, demand.own, demand.chunk
    dims = {layer.attention.head_dim for layer in checkpoint.config.layers}
    if own.cache_bits is not None and not all(map(cache_group, dims)):
        raise UnsupportedRequest(
            f"engine setting 'cache_bits' takes heads of a multiple of 32 values; those of '{checkpoint.name}' have"
            f" {min(dims)}",
            option="cache_bits",
        )
    streams = take_streams(own, threads=own.threads or default_threads())
    try:
        with mx.stream(streams[0]):
            decoder = _build(checkpoint, _blocks(demand, streams), own.cache_bits, demand.adapters)
        found = prompt()
        draft = None if demand.draft is None else _draft(demand.draft, checkpoint, found, own, streams)
    except BaseException:
        give_back(streams)
        raise
    mx.clear_cache()
    mx.reset_peak_memory()
    return MlxModel(
        decoder,
        found,
        name=checkpoint.name,
        defaults=checkpoint.defaults,
        streams=streams,
        context_length=context_length,
        memory_bound=is_bound(demand, context_length, available),
        chunk=chunk,
        batch=own.batch,
        deterministic=own.deterministic,
        recall=recall_of(demand, found, draft, limit=cache_limit(demand, context_length, available)),
        speculation=Speculation(lookup=own.lookup, draft=draft, draft_tokens=own.draft_tokens),
        dtype=own.dtype or checkpoint.dtype,
        quantization=checkpoint.quantization,
        capabilities=capabilities(found.output_format, messages=found.has_template),
        adapters=tuple(own.adapters),
    )


def _draft(
    demand: Demand, checkpoint: Checkpoint, prompt: "Prompt", own: MlxSettings, streams: Sequence[mx.Stream]
) -> DraftModel:
    """A model that guesses ahead for that of `checkpoint`. Raises UnsupportedRequest where it cannot."""
    found = demand.checkpoint
    own_prompt = read_prompt(found)
    try:
        check_draft(found, own_prompt, checkpoint, prompt)
    finally:
        own_prompt.close()
    with mx.stream(streams[0]):
        decoder = _build(found, _blocks(demand, streams), None)
    return DraftModel(
        decoder,
        vocab_size=checkpoint.config.vocab_size,
        chunk=demand.chunk,
        context_length=found.config.context_length,
        prefix_cache_bytes=own.prefix_cache_bytes,
    )


def take_streams(own: MlxSettings, *, threads: int) -> list[mx.Stream]:
    """Streams of the device that the settings mean, so many on a CPU, with MLX's memory limited for a model there.

    Raises UnsupportedRequest for a device that is not there.
    """
    device = _device(own)
    if device == mx.cpu:
        # Freed memory that MLX keeps for itself is memory that others lack; small pieces are all a CPU needs.
        mx.set_cache_limit(_HOST_CACHE)
        return borrow(device, threads)
    _limit_gpu(own.memory_limit)
    return borrow(device, 1)


def computes_on_cpu(own: MlxSettings) -> bool:
    """Raises UnsupportedRequest for a device that is not there."""
    return _device(own) == mx.cpu


def decoder_of(checkpoint: Checkpoint, *, cache_bits: int | None = None) -> Decoder:
    """The decoder alone, on one stream of the device that there is. Raises what `load_model` does."""
    own = MlxSettings()
    device = _device(own)
    streams = borrow(device, 1)
    with mx.stream(streams[0]):
        demand = Demand.of(checkpoint, EngineSettings(), own, on_cpu=device == mx.cpu)
        return _build(checkpoint, _blocks(demand, streams), cache_bits)


def _device(own: MlxSettings) -> mx.Device:
    default = mx.default_device()
    if own.device == "cpu" or (own.device is None and default.type == mx.cpu):
        return mx.Device(mx.cpu, 0)
    if default.type != mx.gpu and not mx.is_available(mx.gpu):
        raise UnsupportedRequest("engine setting 'device' is gpu, but MLX has none here", option="device")
    return mx.Device(mx.gpu, 0)


def _blocks(demand: Demand, streams: Sequence[mx.Stream]) -> Blocks:
    own = demand.own
    if demand.on_cpu:
        dtype = None if own.dtype is None else _DTYPES[own.dtype]
        return HostBlocks(streams, dtype, wide=demand.wide, library=choose(own.blas))
    return DeviceBlocks(_DTYPES[own.dtype or demand.checkpoint.dtype])


def _limit_gpu(limit: int | None) -> None:
    """Have MLX free what it keeps for later before it takes more than that, and fail where it would swap."""
    usual = _USUAL.setdefault("memory_limit", mx.get_memory_limit())
    mx.set_memory_limit(usual if limit is None else limit)


def _build(checkpoint: Checkpoint, blocks: Blocks, cache_bits: int | None, adapters: Sequence[Adapter] = ()) -> Decoder:
    try:
        with np.errstate(all="ignore"):
            config, parameters = _read(checkpoint, adapters)
            return Decoder(config, parameters, blocks, cache_bits=cache_bits)
    except MemoryError as error:
        raise OutOfMemory(f"'{checkpoint.name}' does not fit in memory") from error
    except (OSError, RuntimeError, ValueError) as error:
        if "allocate" in str(error):
            raise OutOfMemory(f"'{checkpoint.name}' does not fit in memory") from error
        reason = " ".join(str(error).split())[:200]
        raise InvalidModel(f"'{checkpoint.name}' could not be loaded: {reason}") from error


def _read(checkpoint: Checkpoint, adapters: Sequence[Adapter] = ()) -> tuple[ModelConfig, Parameters]:
    config = checkpoint.config
    if checkpoint.gguf is None:
        arrays = load_arrays(checkpoint.path, checkpoint.tensors, name=checkpoint.name)
        if config.tie_word_embeddings:
            arrays = {name: array for name, array in arrays.items() if not name.startswith(f"{config.head}.")}
        if config.quantization.scheme is not None:
            from metalchat_engine_mlx.schemes_load import convert

            biases = {module: bias for module, _, bias in matrices(config, checkpoint.tensors)}
            modules = [(module, biases[module]) for module in checkpoint.foreign]
            convert(config.quantization.scheme, modules, arrays)
    else:
        from metalchat_engine_mlx.gguf.weights import load_weights

        arrays = load_weights(checkpoint.gguf.path, checkpoint.gguf)
        if checkpoint.factors:
            factors = tuple(numbers(arrays.pop("rope_freqs")))
            config = config.with_factors(factors)
    return config, Parameters(arrays, checkpoint.packings, *load_additions(adapters))
