"""The engine: looks at models without MLX, and loads them with it."""

import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from metalchat_engine import (
    SPI_VERSION,
    Capabilities,
    EngineError,
    EngineSettings,
    Inspection,
    InvalidModel,
    Model,
    ModelSource,
    OutOfMemory,
)

from metalchat_engine_mlx.checkpoint import Checkpoint, read_checkpoint
from metalchat_engine_mlx.settings import capabilities, read_settings

if TYPE_CHECKING:
    from metalchat_prompt import Prompt

_T = TypeVar("_T")
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class MlxEngine:
    """Decoders of many families in the safetensors and GGUF formats, on Apple, NVIDIA and CPU devices."""

    spi_version: ClassVar[int] = SPI_VERSION

    def inspect(self, source: ModelSource) -> Inspection:
        try:
            checkpoint = read_checkpoint(source)
            declared = _declared(checkpoint)
        except EngineError as error:
            return Inspection(loadable=False, reason=str(error))
        on_cpu = _expects_cpu()
        value_bytes = 4 if on_cpu else _BYTES[checkpoint.dtype]
        return Inspection(
            loadable=True,
            architecture=checkpoint.config.model_type,
            parameters=checkpoint.parameters,
            dtype=checkpoint.dtype,
            quantization=checkpoint.quantization,
            context_length=checkpoint.config.context_length,
            weights_bytes=loaded_bytes(checkpoint, on_cpu=on_cpu),
            cache_bytes_per_token=checkpoint.config.cache_values_per_token * value_bytes,
            capabilities=declared,
        )

    def load(self, source: ModelSource, settings: EngineSettings) -> Model:
        own = read_settings(settings)
        checkpoint = read_checkpoint(source)
        need, have = loaded_bytes(checkpoint, on_cpu=_expects_cpu()), _memory()
        if have is not None and need > have:
            raise OutOfMemory(f"'{checkpoint.name}' needs {need} bytes of memory, this machine has {have}")
        # The tokenizer is read by Rust code while the weights are.
        prompt = _Future(lambda: _warm(read_prompt(checkpoint)))
        try:
            from metalchat_engine_mlx.load import load_model

            return load_model(checkpoint, settings, own, prompt.result)
        except BaseException:
            prompt.discard(lambda found: found.close())
            raise


def loaded_bytes(checkpoint: Checkpoint, *, on_cpu: bool) -> int:
    """The bytes of the weights once loaded: a CPU computes with scales and biases of float32."""
    scales = checkpoint.scale_values * (4 if on_cpu else _BYTES[checkpoint.dtype])
    return checkpoint.packed_bytes + scales + checkpoint.plain_bytes


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
            return capabilities(output_format(template), messages=True)
    prompt = read_prompt(checkpoint)
    return capabilities(prompt.output_format, messages=prompt.has_template)


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


def _expects_cpu() -> bool:
    """Whether MLX will have no GPU, told without importing it."""
    if sys.platform == "darwin":
        return False
    from importlib import metadata

    for distribution in ("mlx-cuda-12", "mlx-cuda-13"):
        try:
            metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        return False
    return True


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
