"""The gate that every request and every setting passes before an engine does any work."""

from collections.abc import Collection, Mapping

from metalchat_engine._conversation import check_messages, check_tools, whole_characters
from metalchat_engine.engine import Capabilities, EngineSettings, ModelInfo
from metalchat_engine.errors import UnsupportedRequest
from metalchat_engine.request import GenerationRequest, Grammar, JsonSchema, Regex, Sampling

MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256
MAX_LOGPROBS = 20
MAX_CONSTRAINT_LENGTH = 65536
MAX_CONVERSATION_LENGTH = 256
MAX_ADAPTER_LENGTH = 64

# Inclusive bounds. A repetition penalty close to 0 would turn logits into infinities.
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 100),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
_NEUTRAL_PENALTIES: dict[str, float] = {"repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}


def check(request: GenerationRequest, info: ModelInfo) -> None:
    """Refuse what the model's capabilities do not declare, and what is out of range or malformed.

    A penalty of its neutral value asks for nothing, and passes without the capability; so does the
    reasoning of an earlier turn, which the chat template may leave out.

    Raises:
        UnsupportedRequest: with `option`, the name of the field of the request or of its sampling.
    """
    if request.prompt is None:
        if not request.messages:
            raise UnsupportedRequest("neither messages nor prompt is given; give one of them", option="messages")
        if not info.capabilities.messages:
            raise UnsupportedRequest(f"{_model(info)} has no chat format; give prompt, not messages", option="messages")
        check_messages(request.messages, info)
    else:
        if request.messages:
            raise UnsupportedRequest("both messages and prompt are given; give one of them", option="prompt")
        if not isinstance(request.prompt, str) or not request.prompt:
            raise UnsupportedRequest("prompt must be a text that is not empty", option="prompt")
        whole_characters(request.prompt, "prompt", option="prompt")
    check_tools(request, info)
    _check_constraint(request, info)
    _check_sampling(request.sampling, info)
    if request.max_tokens is not None:
        _integer("max_tokens", request.max_tokens, low=1)
    if request.logprobs is not None:
        _declared("logprobs", info.capabilities.logprobs, info)
        _integer("logprobs", request.logprobs, low=0, high=MAX_LOGPROBS)
    _check_stop(request.stop)
    conversation = request.conversation
    if conversation is not None and not (
        isinstance(conversation, str) and 0 < len(conversation) <= MAX_CONVERSATION_LENGTH
    ):
        raise UnsupportedRequest(
            f"conversation must be a text of 1 to {MAX_CONVERSATION_LENGTH} characters", option="conversation"
        )
    if request.adapter is not None:
        _check_adapter(request.adapter, info)


def check_settings(settings: EngineSettings, *, known: Collection[str] = ()) -> None:
    """Refuse lengths that are not positive, and every key of `extra` that is not in `known`.

    Raises:
        UnsupportedRequest: with `option`, the name of the setting.
    """
    if settings.context_length is not None:
        _integer("context_length", settings.context_length, low=1)
    if settings.prefill_chunk is not None:
        _integer("prefill_chunk", settings.prefill_chunk, low=1)
    for key in settings.extra:
        if key not in known:
            choice = ", ".join(sorted(known)) or "none"
            raise UnsupportedRequest(f"unknown engine setting {key!r}; known settings: {choice}", option=str(key))


def _check_constraint(request: GenerationRequest, info: ModelInfo) -> None:
    constraint = request.constraint
    if constraint is None:
        return
    capabilities: Capabilities = info.capabilities
    if isinstance(constraint, JsonSchema):
        _declared("constraint", capabilities.json_schema, info, "a JSON Schema")
        if not isinstance(constraint.schema, Mapping):
            raise UnsupportedRequest("constraint must hold a JSON Schema that is an object", option="constraint")
        return
    if isinstance(constraint, Regex):
        _declared("constraint", capabilities.regex, info, "a regular expression")
        text = constraint.pattern
    elif isinstance(constraint, Grammar):
        _declared("constraint", capabilities.grammar, info, "a grammar")
        text = constraint.grammar
    else:
        raise UnsupportedRequest("constraint must be a JsonSchema, a Regex or a Grammar", option="constraint")
    if not isinstance(text, str) or not 0 < len(text) <= MAX_CONSTRAINT_LENGTH:
        raise UnsupportedRequest(
            f"constraint must be a text of 1 to {MAX_CONSTRAINT_LENGTH} characters", option="constraint"
        )
    whole_characters(text, "constraint", option="constraint")


def _check_sampling(sampling: Sampling, info: ModelInfo) -> None:
    for name, (low, high) in _RANGES.items():
        value = getattr(sampling, name)
        if value is not None:
            _number(name, value, low=low, high=high)
            if name in _NEUTRAL_PENALTIES and value != _NEUTRAL_PENALTIES[name]:
                _declared(name, info.capabilities.penalties, info)
    if sampling.top_p is not None:
        _number("top_p", sampling.top_p, low=0, high=1)
        if sampling.top_p == 0:
            raise UnsupportedRequest("top_p must be above 0 and at most 1, not 0", option="top_p")
    if sampling.top_k is not None:
        _integer("top_k", sampling.top_k, low=0)
    if sampling.seed is not None:
        _declared("seed", info.capabilities.seed, info)
        _integer("seed", sampling.seed, low=0, high=2**64 - 1)
    if not isinstance(sampling.logit_bias, Mapping):
        raise UnsupportedRequest("logit_bias must map token ids to numbers", option="logit_bias")
    if sampling.logit_bias:
        _declared("logit_bias", info.capabilities.logit_bias, info)
        for token, bias in sampling.logit_bias.items():
            _integer("logit_bias", token, low=0, high=info.vocab_size - 1, what="token id of logit_bias")
            _number("logit_bias", bias, low=-100, high=100)


def _check_adapter(adapter: str, info: ModelInfo) -> None:
    _declared("adapter", info.capabilities.adapters, info)
    if not isinstance(adapter, str) or not 0 < len(adapter) <= MAX_ADAPTER_LENGTH:
        raise UnsupportedRequest(f"adapter must be a text of 1 to {MAX_ADAPTER_LENGTH} characters", option="adapter")
    if adapter not in info.adapters:
        loaded = ", ".join(info.adapters) or "none"
        raise UnsupportedRequest(
            f"{_model(info)} has no adapter {adapter!r}; it was loaded with: {loaded}", option="adapter"
        )


def _check_stop(stop: tuple[str, ...]) -> None:
    if not isinstance(stop, tuple) or len(stop) > MAX_STOP_STRINGS:
        raise UnsupportedRequest(f"stop must be a tuple of at most {MAX_STOP_STRINGS} texts", option="stop")
    for text in stop:
        if not isinstance(text, str) or not 0 < len(text) <= MAX_STOP_LENGTH:
            raise UnsupportedRequest(f"stop must hold texts of 1 to {MAX_STOP_LENGTH} characters", option="stop")
        whole_characters(text, "stop", option="stop")


def _model(info: ModelInfo) -> str:
    return f"model {info.name!r}"


def _declared(option: str, honoured: bool, info: ModelInfo, what: str = "") -> None:
    if not honoured:
        subject = f"{option} with {what}" if what else option
        raise UnsupportedRequest(f"{subject} is not supported by {_model(info)} and its engine", option=option)


def _number(option: str, value: object, *, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnsupportedRequest(f"{option} must be a number, not {type(value).__name__}", option=option)
    # NaN compares false with everything; a Python integer of any size compares without overflow.
    if not low <= value <= high:
        raise UnsupportedRequest(f"{option} must be from {low} to {high}{_instead(value)}", option=option)


def _integer(option: str, value: object, *, low: int, high: int | None = None, what: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UnsupportedRequest(f"{what or option} must be an integer, not {type(value).__name__}", option=option)
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise UnsupportedRequest(f"{what or option} must be {bounds}{_instead(value)}", option=option)


def _instead(value: float) -> str:
    # An integer of more than 4,300 digits has no decimal text in Python.
    return f", not {value!r}" if isinstance(value, float) or value.bit_length() <= 64 else ""
