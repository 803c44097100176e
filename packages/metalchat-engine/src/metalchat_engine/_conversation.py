"""The part of the gate that looks at messages and tools."""

from collections.abc import Mapping

from metalchat_engine.engine import ModelInfo
from metalchat_engine.errors import UnsupportedRequest
from metalchat_engine.messages import (
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from metalchat_engine.request import GenerationRequest

MAX_TOOL_NAME_LENGTH = 128

_PARTS: dict[str, tuple[type, ...]] = {
    "system": (TextPart,),
    "user": (TextPart, ImagePart),
    "assistant": (TextPart, ReasoningPart, ToolCallPart),
    "tool": (ToolResultPart,),
}
_CHOICES = ("auto", "none", "required")


def check_messages(messages: tuple[Message, ...], info: ModelInfo) -> None:
    """Refuse parts that their role cannot hold, that are not declared, or that answer no earlier call."""
    calls: set[str] = set()
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, Message):
            raise _refused(f"{where} must be a Message, not {type(message).__name__}")
        if not isinstance(message.role, str) or message.role not in _PARTS:
            raise _refused(f"{where} must have one of the roles {', '.join(_PARTS)}")
        # An assistant that answered nothing has a turn too.
        if not message.parts and message.role != "assistant":
            raise _refused(f"{where} has no parts")
        for part in message.parts:
            if not isinstance(part, _PARTS[message.role]):
                raise _refused(f"{where} has the role {message.role}, which cannot hold a {type(part).__name__}")
            _check_part(part, where, info)
            if isinstance(part, ToolCallPart):
                calls.add(part.id)
            elif isinstance(part, ToolResultPart) and part.call_id not in calls:
                raise _refused(f"{where} answers a call that no earlier message makes")


def check_tools(request: GenerationRequest, info: ModelInfo) -> None:
    """Refuse tools that are not declared or not distinct, and a choice that names none of them."""
    if request.tools and not info.capabilities.tools:
        raise UnsupportedRequest(
            f"tools are not supported by model {info.name!r} and its engine; ask without tools", option="tools"
        )
    names: set[str] = set()
    for index, tool in enumerate(request.tools):
        if not isinstance(tool, Tool) or not isinstance(tool.parameters, Mapping):
            raise UnsupportedRequest(
                f"tools[{index}] must be a Tool whose parameters are a JSON Schema", option="tools"
            )
        whole_characters(tool.name, f"tools[{index}]", option="tools")
        if (
            not 0 < len(tool.name) <= MAX_TOOL_NAME_LENGTH
            or not tool.name.isascii()
            or not tool.name.isprintable()
            or " " in tool.name
            or tool.name in _CHOICES
        ):
            raise UnsupportedRequest(
                f"tools[{index}] must have a name of 1 to {MAX_TOOL_NAME_LENGTH} printable ASCII characters"
                f" without spaces, and not {', '.join(_CHOICES)}",
                option="tools",
            )
        if tool.name in names:
            raise UnsupportedRequest(f"tools[{index}] repeats the name {tool.name!r}", option="tools")
        names.add(tool.name)
        whole_characters(tool.description, f"tools[{index}]", option="tools")
    choice = request.tool_choice
    whole_characters(choice, "tool_choice", option="tool_choice")
    if choice == "required" and not names:
        raise UnsupportedRequest("tool_choice is 'required', but tools is empty", option="tool_choice")
    if choice not in _CHOICES and choice not in names:
        raise UnsupportedRequest(
            f"tool_choice must be {', '.join(_CHOICES)} or the name of one of the tools", option="tool_choice"
        )


def whole_characters(text: object, where: str, *, option: str) -> None:
    """Refuse what is not text, and lone surrogates: halves of characters that no tokenizer can encode."""
    if not isinstance(text, str):
        raise UnsupportedRequest(f"{where} must hold text, not {type(text).__name__}", option=option)
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnsupportedRequest(
            f"{where} holds half a character (a lone surrogate, at position {error.start})", option=option
        ) from None


def _check_part(part: Part, where: str, info: ModelInfo) -> None:
    if isinstance(part, ImagePart):
        if not info.capabilities.images:
            raise _refused(f"{where} holds an image, which model {info.name!r} and its engine do not support")
        if not part.data or not part.media_type.startswith("image/"):
            raise _refused(f"{where} holds an image without data, or of a media type that is not image/...")
        return
    if isinstance(part, TextPart | ReasoningPart):
        whole_characters(part.text, where, option="messages")
        return
    if not info.capabilities.tools:
        raise _refused(f"{where} holds a tool call or result, which model {info.name!r} and its engine do not support")
    texts = (
        (part.id, part.name, part.arguments)
        if isinstance(part, ToolCallPart)
        else (part.call_id, part.name, part.content)
    )
    for text in texts:
        whole_characters(text, where, option="messages")


def _refused(message: str) -> UnsupportedRequest:
    return UnsupportedRequest(message, option="messages")
