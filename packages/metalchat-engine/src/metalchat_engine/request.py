"""What a model is asked for: one generation, with everything that shapes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from metalchat_engine.messages import Message, Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen from the model's logits.

    A field that is None leaves the choice to the model's own generation_config.json, then to the
    neutral value. `temperature=0` is greedy: the largest logit, the lowest id on a tie.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonSchema:
    """The answer is one JSON value that satisfies `schema`."""

    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Regex:
    """The whole answer matches `pattern`."""

    pattern: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """The whole answer derives from `grammar`, in Lark notation."""

    grammar: str


Constraint: TypeAlias = JsonSchema | Regex | Grammar


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One generation.

    Exactly one of `messages` and `prompt` is given: `messages` go through the model's chat template,
    `prompt` is fed as it is. `tool_choice` is "auto", "none", "required" or the name of a declared tool.
    `max_tokens` counts answer tokens; None means up to the context length. `stop` strings end the
    answer and are not part of it. `logprobs` asks for that many alternatives per token. Requests
    that share `conversation` are likely to share a prefix; it never changes the answer. `adapter` names one of those
    that the model was loaded with; None asks the model as it is.
    """

    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: Literal["auto", "none", "required"] | str = "auto"
    constraint: Constraint | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    conversation: str | None = None
    adapter: str | None = None
