"""The two Protocols that an engine implements, the optional ones, and the data they exchange."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from metalchat_engine.events import Event
from metalchat_engine.messages import Message
from metalchat_engine.request import GenerationRequest

SPI_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model on disk: a directory, or a single file such as a GGUF.

    `options` override the model's own config.json, key by key. `name` is what a message calls the
    model; the path is shown where it is empty.
    """

    path: Path
    name: str = ""
    options: Mapping[str, bool | int | float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How an engine loads and runs a model.

    `context_length` caps the tokens of prompt and answer together; None takes the model's own.
    `prefill_chunk` is the number of prompt tokens per step. `extra` is the manifest's [engine]
    table less `name`; an engine refuses a key it does not know. `state_directory` is where an engine may
    keep what it can compute again, such as the KV state of a prompt, in private files; None is nowhere.
    """

    context_length: int | None = None
    prefill_chunk: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    state_directory: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine honours for one model; `check` refuses everything else."""

    messages: bool = True
    tools: bool = False
    images: bool = False
    json_schema: bool = False
    regex: bool = False
    grammar: bool = False
    logprobs: bool = False
    logit_bias: bool = False
    penalties: bool = False
    seed: bool = False
    reasoning: bool = False
    adapters: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What reading a model's headers tells, in milliseconds and without loading it.

    `reason` says in one line why the engine cannot load it, None if it can. Sizes are bytes:
    `weights_bytes` once loaded, `cache_bytes_per_token` for each token of context.
    """

    loadable: bool
    reason: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    dtype: str | None = None
    quantization: str | None = None
    context_length: int | None = None
    weights_bytes: int | None = None
    cache_bytes_per_token: int | None = None
    capabilities: Capabilities = field(default_factory=Capabilities)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """What a model takes at its peak, in bytes, while it answers `requests` at once of `context_length` tokens each.

    `weights` as they lie in memory once loaded, the keys and values in the `cache` of all requests, and what is there
    for a while only, when a prompt is computed (`transient`). `available` is what the machine or a setting leaves for
    all of it, None where that is unknown. `largest_context` is the longest that would fit for as many requests, 0
    where none would. `reason` says in one line why the engine keeps the weights as it does, where it had a choice.
    """

    context_length: int
    requests: int
    weights: int
    cache: int
    transient: int
    available: int | None = None
    largest_context: int | None = None
    reason: str | None = None

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.transient

    @property
    def fits(self) -> bool | None:
        """None where nobody knows what is available."""
        return None if self.available is None else self.total <= self.available


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A loaded model. `memory_bytes` is what it holds now, weights and caches; `adapters` are the names of its own."""

    name: str
    architecture: str
    context_length: int
    vocab_size: int
    dtype: str
    memory_bytes: int
    capabilities: Capabilities
    quantization: str | None = None
    adapters: tuple[str, ...] = ()


class Model(Protocol):
    """A loaded model; a context manager that closes it."""

    @property
    def info(self) -> ModelInfo: ...

    def generate(self, request: GenerationRequest) -> Iterator[Event]:
        """Stream one answer; exactly one `Finish` ends it.

        Safe to call from several threads at once. Closing the iterator cancels within one token.

        Raises:
            UnsupportedRequest: before any work, for what `info.capabilities` does not declare.
            ContextTooLong: before any work, when the prompt leaves no room for an answer.
            ModelClosed: after `close`.
        """
        ...

    def close(self) -> None:
        """Free the memory. Closing twice is fine; a generation under way ends with ModelClosed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Engine(Protocol):
    """A way to run models; found through the entry-point group `metalchat.engines`."""

    spi_version: ClassVar[int]

    def inspect(self, source: ModelSource) -> Inspection:
        """Read headers only, and say whether and how this engine can load the model. Never raises for a bad model."""
        ...

    def load(self, source: ModelSource, settings: EngineSettings) -> Model:
        """Load a model.

        Raises:
            UnsupportedModel: a whole model that this engine cannot run.
            InvalidModel: a damaged or dishonest file, found before anything is allocated for it.
            UnsupportedRequest: a setting this engine does not know.
            OutOfMemory: the weights do not fit, or not with the context that the settings ask for.
        """
        ...


@runtime_checkable
class SupportsEmbedding(Protocol):
    """A model that turns texts into vectors."""

    def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]: ...


@runtime_checkable
class SupportsTokenCount(Protocol):
    """A model that counts the prompt tokens of messages without running them."""

    def count_tokens(self, messages: Sequence[Message]) -> int: ...


@runtime_checkable
class SupportsPromptState(Protocol):
    """A model that saves and restores the KV state of a conversation."""

    def save_state(self, conversation: str, path: Path) -> None: ...

    def restore_state(self, conversation: str, path: Path) -> None: ...


@runtime_checkable
class SupportsMemoryEstimate(Protocol):
    """An engine that predicts how much memory a model takes from its headers, without loading it."""

    def estimate(self, source: ModelSource, settings: EngineSettings, *, requests: int = 1) -> MemoryEstimate:
        """The peak of so many requests at once, for `settings.context_length` or the model's own.

        Raises UnsupportedModel, InvalidModel and UnsupportedRequest, as `load` does.
        """
        ...


@runtime_checkable
class SupportsDiagnosis(Protocol):
    """An engine that says what it found on this machine."""

    def diagnose(self, settings: EngineSettings) -> Sequence[str]:
        """A line for each fact. Raises UnsupportedRequest for a setting that cannot be honoured here."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How weights are stored in fewer bits: `group_size` neighbours in a row share a scale.

    `mode` is the engine's own name of the format, "affine" for whole numbers with a scale and an offset. What is None
    is left to the mode.
    """

    bits: int | None = None
    group_size: int | None = None
    mode: str = "affine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """How well a model foresees a text of so many `tokens`: the mean number of tokens that it wavers between."""

    value: float
    tokens: int


@runtime_checkable
class SupportsQuantization(Protocol):
    """An engine that writes models with smaller weights, and measures what that costs."""

    def quantize(
        self,
        source: ModelSource,
        destination: Path,
        quantization: Quantization,
        progress: Callable[[int, int], None] | None = None,
    ) -> Quantization:
        """Write a whole model into the folder `destination`, which is empty; what became of it, nothing left None.

        `progress` is told how many of all parameters are done. Raises UnsupportedRequest for a quantisation that the
        engine does not have, UnsupportedModel for a model that it cannot quantise, InvalidModel.
        """
        ...

    def perplexity(self, source: ModelSource, text: str, *, tokens: int = 2048) -> Perplexity:
        """Of the beginning of a text, at most so many tokens. Raises what `load` does."""
        ...
