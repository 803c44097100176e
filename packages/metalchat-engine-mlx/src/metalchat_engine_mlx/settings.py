"""The engine's own settings: the keys of a manifest's [engine] table that it knows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from metalchat_engine import Capabilities, EngineSettings, UnsupportedRequest, check_settings

if TYPE_CHECKING:
    from metalchat_prompt import OutputFormat

KNOWN = (
    "adapters",
    "batch",
    "blas",
    "cache_bits",
    "deterministic",
    "device",
    "draft",
    "draft_tokens",
    "dtype",
    "lookup",
    "memory_limit",
    "prefix_cache_bytes",
    "save_states",
    "state_bytes",
    "state_directory",
    "threads",
    "weights",
)
PREFIX_CACHE_BYTES = 2**30
STATE_BYTES = 2**31
BATCH = 16
DRAFT_TOKENS = 4
_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MlxSettings:
    """`device` None takes the GPU where there is one. `dtype` None keeps that of the checkpoint; it is the dtype of
    weights that are not quantised and, on a GPU, of the arithmetic. `threads` is the number of CPU streams, None one a
    core. `prefix_cache_bytes` bounds the keys and values that are kept for prompts with the same beginning.
    `state_directory` is where those of long prompts are saved, None nowhere, and `state_bytes` bounds what lies there.
    `cache_bits` are those of keys and values, None as many as the arithmetic has. `batch` answers are computed together
    at most, `deterministic` ones each as if it were alone. `lookup` tokens are guessed ahead where the text repeats
    itself, 0 never; else, where there is a model in `draft`, `draft_tokens` of what that says. `memory_limit` bounds
    the bytes of weights, keys and values, and of what is computed from them; None is what the machine has. A request
    may name one of the `adapters`, each in a folder. `weights` on a CPU are kept packed, or as float32; None is what is
    faster and fits. `blas` is the library that multiplies there, None is MKL where it is installed, else NumPy's own.
    """

    device: Literal["cpu", "gpu"] | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    threads: int | None = None
    cache_bits: Literal[4, 8] | None = None
    batch: int = BATCH
    deterministic: bool = False
    lookup: int = 0
    draft: Path | None = None
    draft_tokens: int = DRAFT_TOKENS
    memory_limit: int | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)
    weights: Literal["packed", "float32"] | None = None
    blas: Path | None = None
    prefix_cache_bytes: int = PREFIX_CACHE_BYTES
    state_directory: Path | None = None
    state_bytes: int = STATE_BYTES

    @property
    def ahead(self) -> int:
        """The most tokens that are guessed at a time."""
        return max(self.lookup, 0 if self.draft is None else self.draft_tokens)


def read_settings(settings: EngineSettings) -> MlxSettings:
    """Raises UnsupportedRequest for an unknown key, or a value that a key does not take."""
    check_settings(settings, known=KNOWN)
    extra = settings.extra

    def take(key: str, allowed: Callable[[Any], bool], expected: str) -> Any:
        value = extra.get(key)
        if value is not None and not allowed(value):
            raise UnsupportedRequest(f"engine setting '{key}' must be {expected}", option=key)
        return value

    def whole(low: int, high: int) -> Callable[[Any], bool]:
        return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    def is_path(value: Any) -> bool:
        return isinstance(value, str | Path) and "\0" not in str(value) and Path(value).is_absolute()

    def is_name(value: Any) -> bool:
        return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable()

    prefix_cache = take("prefix_cache_bytes", whole(0, 2**50), "a number of bytes")
    batch = take("batch", whole(1, 256), "1 to 256")
    deterministic = take("deterministic", lambda value: isinstance(value, bool), "true or false")
    blas = take("blas", is_path, "the absolute path of a library")
    lookup = take("lookup", whole(0, 64), "0 to 64")
    draft = take("draft", is_path, "the absolute path of a model")
    draft_tokens = take("draft_tokens", whole(1, 64), "1 to 64")
    for key, value in (("lookup", lookup), ("draft", draft)):
        if deterministic and value:
            # Several tokens at once are computed by other kernels than one.
            raise UnsupportedRequest(f"engine setting '{key}' and deterministic exclude each other", option=key)
    if draft_tokens is not None and draft is None:
        raise UnsupportedRequest("engine setting 'draft_tokens' needs a draft", option="draft_tokens")
    adapters = take(
        "adapters",
        lambda value: isinstance(value, Mapping) and all(map(is_name, value)) and all(map(is_path, value.values())),
        f"a table of names of 1 to {_LONGEST_NAME} printable characters, with the absolute paths of folders",
    )
    saves = take("save_states", lambda value: isinstance(value, bool), "true or false") is not False
    states = take("state_directory", is_path, "an absolute path") or settings.state_directory
    state_bytes = take("state_bytes", whole(0, 2**50), "a number of bytes")
    return MlxSettings(
        device=take("device", lambda value: value in ("cpu", "gpu"), "cpu or gpu"),
        dtype=take("dtype", lambda value: value in ("float32", "float16", "bfloat16"), "float32, float16 or bfloat16"),
        threads=take("threads", whole(1, 16), "1 to 16"),
        cache_bits=take("cache_bits", lambda value: value in (4, 8) and isinstance(value, int), "4 or 8"),
        batch=BATCH if batch is None else batch,
        deterministic=deterministic is True,
        lookup=lookup or 0,
        draft=None if draft is None else Path(draft),
        draft_tokens=draft_tokens or DRAFT_TOKENS,
        weights=take("weights", lambda value: value in ("packed", "float32"), "packed or float32"),
        blas=None if blas is None else Path(blas),
        memory_limit=take("memory_limit", whole(1, 2**50), "a number of bytes"),
        adapters={name: Path(path) for name, path in (adapters or {}).items()},
        prefix_cache_bytes=PREFIX_CACHE_BYTES if prefix_cache is None else prefix_cache,
        state_directory=None if states is None or not saves else Path(states),
        state_bytes=STATE_BYTES if state_bytes is None else state_bytes,
    )


def capabilities(layout: "OutputFormat", *, messages: bool, adapters: bool = True) -> Capabilities:
    """What this engine honours; messages, tools and reasoning need a chat template that knows them.

    Only a model that its own decoder runs takes `adapters`.
    """
    return Capabilities(
        messages=messages,
        tools=messages and layout.takes_tools,
        json_schema=True,
        regex=True,
        grammar=True,
        logprobs=True,
        logit_bias=True,
        penalties=True,
        seed=True,
        adapters=adapters,
        reasoning=messages and layout.reasoning is not None,
    )
