"""The engine: looks at models without MLX, and loads them with it."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from metalchat_engine import (
    SPI_VERSION,
    Capabilities,
    EngineError,
    EngineSettings,
    Inspection,
    InvalidModel,
    MemoryEstimate,
    Model,
    ModelSource,
    OutOfMemory,
    Perplexity,
    Quantization,
)

from metalchat_engine_mlx.checkpoint import Checkpoint, read_checkpoint, read_own
from metalchat_engine_mlx.fallback.library import installed_version
from metalchat_engine_mlx.libraries import with_weights
from metalchat_engine_mlx.machine import available_memory, expects_cpu, gpu_memory
from metalchat_engine_mlx.memory import Demand, fitting_context, size
from metalchat_engine_mlx.settings import MlxSettings, capabilities, read_settings

if TYPE_CHECKING:
    from metalchat_prompt import Prompt

_T = TypeVar("_T")


class MlxEngine:
    """Decoders of many families in the safetensors and GGUF formats, on Apple, NVIDIA and CPU devices."""

    spi_version: ClassVar[int] = SPI_VERSION

    def inspect(self, source: ModelSource) -> Inspection:
        try:
            checkpoint = read_checkpoint(source)
            declared = _declared(checkpoint)
        except EngineError as error:
            return Inspection(loadable=False, reason=str(error))
        settings = EngineSettings()
        demand = Demand.of(checkpoint, settings, MlxSettings(), on_cpu=expects_cpu())
        if demand.on_cpu:
            demand, _ = with_weights(demand, settings, available_memory())
        return Inspection(
            loadable=True,
            architecture=checkpoint.config.model_type,
            parameters=checkpoint.parameters,
            dtype=checkpoint.dtype,
            quantization=checkpoint.quantization,
            context_length=checkpoint.config.context_length,
            weights_bytes=demand.weights,
            cache_bytes_per_token=demand.cache_per_token,
            capabilities=declared,
        )

    def estimate(self, source: ModelSource, settings: EngineSettings, *, requests: int = 1) -> MemoryEstimate:
        own = read_settings(settings)
        checkpoint = read_checkpoint(source)
        demand = Demand.of(checkpoint, settings, own, on_cpu=own.device == "cpu" or expects_cpu())
        available = _available(demand)
        demand, reason = with_weights(demand, settings, available)
        longest = checkpoint.config.context_length
        tokens = min(settings.context_length or longest, longest)
        return MemoryEstimate(
            context_length=tokens,
            requests=requests,
            weights=demand.weights,
            cache=requests * demand.cache(tokens),
            transient=demand.transient(tokens, requests),
            available=available,
            largest_context=None if available is None else demand.largest(available, requests),
            reason=reason,
        )

    def quantize(
        self,
        source: ModelSource,
        destination: Path,
        quantization: Quantization,
        progress: Callable[[int, int], None] | None = None,
    ) -> Quantization:
        from metalchat_engine_mlx.quantize import quantize, read_packing

        packing = read_packing(quantization)
        papers = source.path if source.path.is_dir() else None
        quantize(read_own(source, "be quantised here"), destination, packing, progress, papers=papers)
        return Quantization(bits=packing.bits, group_size=packing.group_size, mode=packing.mode)

    def perplexity(self, source: ModelSource, text: str, *, tokens: int = 2048) -> Perplexity:
        from metalchat_engine_mlx.perplexity import perplexity

        checkpoint = read_own(source, "be measured by itself")
        prompt = read_prompt(checkpoint)
        try:
            return perplexity(checkpoint, prompt, text, tokens=tokens)
        finally:
            prompt.close()

    def diagnose(self, settings: EngineSettings) -> Sequence[str]:
        own = read_settings(settings)
        if not (own.device == "cpu" or expects_cpu()):
            memory = gpu_memory()
            return ["on a GPU" if memory is None else f"on a GPU with {size(memory)} for a model", *_others()]
        from metalchat_engine_mlx.speed import products

        memory = available_memory()
        said = [] if memory is None else [f"{size(memory)} of memory available to a model"]
        return [f"on the CPU, {products(own)}", *said, *_others()]

    def load(self, source: ModelSource, settings: EngineSettings) -> Model:
        own = read_settings(settings)
        checkpoint = read_checkpoint(source)
        # The tokenizer is read by Rust code while the weights are.
        prompt = _Future(lambda: _warm(read_prompt(checkpoint)))
        try:
            from metalchat_engine_mlx.load import computes_on_cpu, load_model

            demand = Demand.of(checkpoint, settings, own, on_cpu=computes_on_cpu(own))
            available = _available(demand)
            demand, _ = with_weights(demand, settings, available)
            context = fitting_context(demand, settings, available)
            if checkpoint.fallback is not None:
                from metalchat_engine_mlx.fallback.load import load_fallback

                return load_fallback(
                    demand, checkpoint.fallback, prompt.result, context_length=context, available=available
                )
            return load_model(demand, prompt.result, context_length=context, available=available)
        except BaseException:
            prompt.discard(lambda found: found.close())
            raise


def _others() -> list[str]:
    version = installed_version()
    return [] if version is None else [f"mlx-lm {version} runs families that this engine does not have"]


def _available(demand: Demand) -> int | None:
    """Bytes for one model: what the machine or its GPU has, and no more than the settings allow."""
    found = [demand.own.memory_limit, available_memory() if demand.on_cpu else gpu_memory()]
    return min((limit for limit in found if limit is not None), default=None)


def _declared(checkpoint: Checkpoint) -> Capabilities:
    """What the model can be asked for, told from its chat template, without its tokenizer where it has one.

    Raises InvalidModel.
    """
    from metalchat_prompt import PromptError, output_format, template_text

    if checkpoint.has_template:
        try:
            if checkpoint.gguf is None:
                template = template_text(checkpoint.path)
            else:
                template = str(checkpoint.gguf.metadata.get("tokenizer.chat_template", ""))
        except PromptError as error:
            raise InvalidModel(f"'{checkpoint.name}': {error}") from error
        if template:
            return capabilities(output_format(template), messages=True, adapters=checkpoint.fallback is None)
    prompt = read_prompt(checkpoint)
    return capabilities(prompt.output_format, messages=prompt.has_template, adapters=checkpoint.fallback is None)


def read_prompt(checkpoint: Checkpoint) -> "Prompt":
    """The tokenizer and chat template of a model. Raises InvalidModel, and OutOfMemory."""
    from metalchat_prompt import Prompt, PromptError

    try:
        if checkpoint.gguf is None:
            return Prompt.from_directory(checkpoint.path)
        from metalchat_engine_mlx.gguf.tokenizer import tokenizer_from_gguf

        found = tokenizer_from_gguf(checkpoint.gguf)
        return Prompt.from_parts(
            tokenizer_json=found.tokenizer_json,
            chat_template=found.chat_template,
            bos_token=found.bos_token,
            eos_token=found.eos_token,
            name=found.name,
        )
    except PromptError as error:
        raise InvalidModel(f"'{checkpoint.name}': {error}") from error
    except MemoryError as error:
        raise OutOfMemory(f"'{checkpoint.name}' does not fit in memory") from error


def _warm(prompt: "Prompt") -> "Prompt":
    prompt.warm()
    return prompt


class _Future(Generic[_T]):
    """A call that runs in a thread of its own."""

    def __init__(self, call: Callable[[], _T]) -> None:
        self._found: list[_T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def result(self) -> _T:
        self._thread.join()
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return self._found[0]
        finally:
            del error  # or it would keep this frame and, with its callers', all weights until the next collection

    def discard(self, close: Callable[[_T], None]) -> None:
        self._thread.join()
        for found in self._found:
            close(found)

    def _run(self, call: Callable[[], _T]) -> None:
        try:
            self._found.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is wanted
            self._error = error
