"""The contract between a language model and whoever talks to it."""

from importlib import import_module

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from metalchat_engine._check import check, check_settings
    from metalchat_engine.calibration import Standing, Trial, calibrate, standings, winner
    from metalchat_engine.discovery import EnginePoint, engines, load_engine
    from metalchat_engine.engine import (
        SPI_VERSION,
        Capabilities,
        Engine,
        EngineSettings,
        Inspection,
        MemoryEstimate,
        Model,
        ModelInfo,
        ModelSource,
        Perplexity,
        Quantization,
        SupportsDiagnosis,
        SupportsEmbedding,
        SupportsMemoryEstimate,
        SupportsPromptState,
        SupportsQuantization,
        SupportsTokenCount,
    )
    from metalchat_engine.errors import (
        ContextTooLong,
        EngineConflict,
        EngineError,
        EngineNotFound,
        IncompatibleEngine,
        InvalidModel,
        ModelClosed,
        OutOfMemory,
        UnsupportedModel,
        UnsupportedRequest,
    )
    from metalchat_engine.events import (
        CallProblem,
        Event,
        Finish,
        FinishReason,
        PromptProgress,
        ReasoningDelta,
        RejectedToolCall,
        SampledToken,
        TextDelta,
        Timings,
        TokenLogprob,
        ToolCall,
        Usage,
    )
    from metalchat_engine.measuring import BatchRun, Spread, Timed, bench, measure
    from metalchat_engine.messages import (
        ImagePart,
        Message,
        Part,
        ReasoningPart,
        Role,
        TextPart,
        Tool,
        ToolCallPart,
        ToolResultPart,
    )
    from metalchat_engine.plugins import PluginPoint, load_plugin, plugin_points, select_plugin
    from metalchat_engine.request import Constraint, GenerationRequest, Grammar, JsonSchema, Regex, Sampling
    from metalchat_engine.stopping import StopStrings

__all__ = [
    "SPI_VERSION",
    "BatchRun",
    "CallProblem",
    "Capabilities",
    "Constraint",
    "ContextTooLong",
    "Engine",
    "EngineConflict",
    "EngineError",
    "EngineNotFound",
    "EnginePoint",
    "EngineSettings",
    "Event",
    "Finish",
    "FinishReason",
    "GenerationRequest",
    "Grammar",
    "ImagePart",
    "IncompatibleEngine",
    "Inspection",
    "InvalidModel",
    "JsonSchema",
    "MemoryEstimate",
    "Message",
    "Model",
    "ModelClosed",
    "ModelInfo",
    "ModelSource",
    "OutOfMemory",
    "Part",
    "Perplexity",
    "PluginPoint",
    "PromptProgress",
    "Quantization",
    "ReasoningDelta",
    "ReasoningPart",
    "Regex",
    "RejectedToolCall",
    "Role",
    "SampledToken",
    "Sampling",
    "Spread",
    "Standing",
    "StopStrings",
    "SupportsDiagnosis",
    "SupportsEmbedding",
    "SupportsMemoryEstimate",
    "SupportsPromptState",
    "SupportsQuantization",
    "SupportsTokenCount",
    "TextDelta",
    "TextPart",
    "Timed",
    "Timings",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolCallPart",
    "ToolResultPart",
    "Trial",
    "UnsupportedModel",
    "UnsupportedRequest",
    "Usage",
    "bench",
    "calibrate",
    "check",
    "check_settings",
    "engines",
    "load_engine",
    "load_plugin",
    "measure",
    "plugin_points",
    "select_plugin",
    "standings",
    "winner",
]

# Importing the package imports none of this; a name is imported when it is first used.
_MODULES = {
    "messages": "ImagePart Message Part ReasoningPart Role TextPart Tool ToolCallPart ToolResultPart",
    "request": "Constraint GenerationRequest Grammar JsonSchema Regex Sampling",
    "events": (
        "CallProblem Event Finish FinishReason PromptProgress ReasoningDelta RejectedToolCall SampledToken TextDelta "
        "Timings TokenLogprob ToolCall Usage"
    ),
    "engine": (
        "Capabilities Engine EngineSettings Inspection MemoryEstimate Model ModelInfo ModelSource SPI_VERSION "
        "Perplexity Quantization SupportsDiagnosis SupportsEmbedding SupportsMemoryEstimate SupportsPromptState "
        "SupportsQuantization SupportsTokenCount"
    ),
    "errors": (
        "ContextTooLong EngineConflict EngineError EngineNotFound IncompatibleEngine InvalidModel ModelClosed "
        "OutOfMemory UnsupportedModel UnsupportedRequest"
    ),
    "_check": "check check_settings",
    "stopping": "StopStrings",
    "measuring": "BatchRun Spread Timed bench measure",
    "calibration": "Standing Trial calibrate standings winner",
    "plugins": "PluginPoint load_plugin plugin_points select_plugin",
    "discovery": "EnginePoint engines load_engine",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
