"""From checked headers to a model of mlx-lm in memory, and nothing of the checkpoint run on the way."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from metalchat_engine import InvalidModel
from mlx import nn
from mlx.utils import tree_flatten

from metalchat_engine_mlx.checkpoint import Checkpoint
from metalchat_engine_mlx.fallback.checkpoint import Fallback
from metalchat_engine_mlx.fallback.decoder import FallbackDecoder, arrays_of, translated
from metalchat_engine_mlx.fallback.library import import_model
from metalchat_engine_mlx.fallback.recall import LastText
from metalchat_engine_mlx.keeping import cache_limit
from metalchat_engine_mlx.load import take_streams
from metalchat_engine_mlx.memory import Demand, is_bound
from metalchat_engine_mlx.model import AnsweringModel
from metalchat_engine_mlx.parameters import load_arrays
from metalchat_engine_mlx.quantization import BITS, FLOATS, GROUP_SIZES
from metalchat_engine_mlx.settings import capabilities
from metalchat_engine_mlx.speculation import Speculation
from metalchat_engine_mlx.streams import give_back

if TYPE_CHECKING:
    from metalchat_prompt import Prompt


def load_fallback(
    demand: Demand, fallback: Fallback, prompt: "Callable[[], Prompt]", *, context_length: int, available: int | None
) -> AnsweringModel[FallbackDecoder]:
    """Raises InvalidModel, OutOfMemory, and UnsupportedRequest for a device that is not there."""
    checkpoint, own = demand.checkpoint, demand.own
    streams = take_streams(own, threads=1)
    try:
        with mx.stream(streams[0]):
            decoder = fallback_decoder(checkpoint, fallback, on_cpu=demand.on_cpu)
        found = prompt()
    except BaseException:
        give_back(streams)
        raise
    mx.clear_cache()
    mx.reset_peak_memory()
    return AnsweringModel(
        decoder,
        found,
        name=checkpoint.name,
        defaults=checkpoint.defaults,
        streams=streams,
        context_length=context_length,
        memory_bound=is_bound(demand, context_length, available),
        chunk=demand.chunk,
        batch=own.batch,
        deterministic=own.deterministic,
        recall=LastText(
            decoder.new_cache,
            limit=cache_limit(demand, context_length, available),
            size=demand.cache,
            budget=own.prefix_cache_bytes,
        ),
        speculation=Speculation(),
        dtype=checkpoint.dtype,
        quantization=checkpoint.quantization,
        capabilities=capabilities(found.output_format, messages=found.has_template, adapters=False),
    )


def fallback_decoder(checkpoint: Checkpoint, fallback: Fallback, *, on_cpu: bool) -> FallbackDecoder:
    """The model alone, on the current stream. Raises InvalidModel and OutOfMemory."""
    if on_cpu:
        # For a CPU MLX runs g++, and loads what that makes out of the folder for temporary files, which others can
        # write to; and a thread that ends with such code while the process does aborts it. It is one switch for all.
        mx.disable_compile()
    try:
        with translated(checkpoint.name, fallback.family):
            return _tried(_network(checkpoint, fallback), checkpoint, fallback)
    finally:
        # Layers begin with random numbers that are never drawn: MLX is to forget how it would.
        state: Any = mx.random.state
        mx.eval(list(state))


def _network(checkpoint: Checkpoint, fallback: Fallback) -> Any:
    """The module with its weights. What mlx-lm raises passes through."""
    library = import_model(fallback.family.module)
    network: Any = library.Model(library.ModelArgs.from_dict(dict(fallback.document)))
    arrays = load_arrays(checkpoint.path, checkpoint.tensors, name=checkpoint.name)
    if hasattr(network, "sanitize"):
        arrays = network.sanitize(arrays)
    _quantise(network, checkpoint, arrays)
    # Until here everything is lazy: no memory has been taken for weights.
    kinds: dict[str, Any] = dict(tree_flatten(network.parameters()))
    for name, array in arrays.items():
        if name in kinds and mx.issubdtype(kinds[name].dtype, mx.floating) != mx.issubdtype(array.dtype, mx.floating):
            dtype = str(array.dtype).rpartition(".")[2]
            raise InvalidModel(f"the tensor '{name[:80]}' is {dtype}, which such a model does not have there")
    network.load_weights(list(arrays.items()), strict=True)
    del arrays
    network.eval()
    # One by one, so that what is read to be stacked or transposed is let go of.
    for array in arrays_of(network.parameters()):
        mx.eval(array)
    return network


def _quantise(network: Any, checkpoint: Checkpoint, arrays: dict[str, mx.array]) -> None:
    """Make packed layers of those that have scales, as config.json says, or else as their shapes tell."""
    quantization = checkpoint.config.quantization
    if quantization.default is None and not quantization.modules:
        return

    def packing(path: str, module: Any) -> bool | dict[str, Any]:
        if not hasattr(module, "to_quantized") or f"{path}.scales" not in arrays:
            return False
        packed, scales = arrays[f"{path}.weight"], arrays[f"{path}.scales"]
        columns = module.weight.shape[-1]
        group_size, bits = columns // scales.shape[-1], packed.shape[-1] * 32 // columns
        mode = "affine"
        if scales.dtype == mx.uint8:
            mode = next((mode for mode, sizes in FLOATS.items() if sizes == (group_size, bits)), "")
        elif group_size not in GROUP_SIZES or bits not in BITS:
            mode = ""
        if not mode:
            raise InvalidModel(
                f"'{path[:80]}' is packed in {bits} bits with a scale for {group_size}, which MLX has not"
            )
        return {"group_size": group_size, "bits": bits, "mode": mode}

    nn.quantize(network, class_predicate=packing)


def _tried(network: Any, checkpoint: Checkpoint, fallback: Fallback) -> FallbackDecoder:
    """A decoder that has computed three tokens: what a config makes impossible shows now. Raises InvalidModel."""
    decoder = FallbackDecoder(network, checkpoint.config, fallback.family, name=checkpoint.name)
    cache = decoder.new_cache()
    decoder.prefill(mx.array([0, 0]), cache, None)
    logits = decoder(mx.array([0]), cache, None)
    mx.eval(logits)
    if logits.ndim != 1 or logits.shape[0] < checkpoint.config.vocab_size:
        raise InvalidModel(
            f"'{checkpoint.name}' gives logits of the shape {logits.shape}, 'vocab_size' is"
            f" {checkpoint.config.vocab_size}"
        )
    decoder.config = dataclasses.replace(checkpoint.config, vocab_size=logits.shape[0])
    return decoder
