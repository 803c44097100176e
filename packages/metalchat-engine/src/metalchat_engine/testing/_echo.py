"""An engine without a model: it answers with the last text it was given, or with what a test scripts."""

import re
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import ClassVar, Self, TypeAlias

from metalchat_engine._check import check, check_settings
from metalchat_engine.engine import (
    SPI_VERSION,
    Capabilities,
    EngineSettings,
    Inspection,
    ModelInfo,
    ModelSource,
)
from metalchat_engine.errors import ContextTooLong, EngineError, InvalidModel, ModelClosed
from metalchat_engine.events import Event, Finish, FinishReason, PromptProgress, TextDelta, Timings, ToolCall, Usage
from metalchat_engine.messages import Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart
from metalchat_engine.request import GenerationRequest
from metalchat_engine.stopping import StopStrings

Reply: TypeAlias = str | Sequence[Event | EngineError]

_VOCAB_SIZE = 65536
_CHUNK = 512


class EchoEngine:
    """Answers with the words of the last user message, or of the prompt; the path must exist, nothing in it is read.

    A token is a run of letters and digits with the blank before it, or one other character.

    `replies` are used up first, one a generation, in order. A text is cut into tokens like an echo;
    a sequence of events is passed on as it is, an error in it is raised, and a `Finish` is added
    where it has none. `capabilities` is what the models declare: beyond `messages` and `seed`, only a
    scripted reply can honour it. `on_token` is called before every token, in the thread that
    consumes the stream: a test that blocks there, or acts there, is in the middle of an answer.
    `requests` collects what was asked, after `check` let it pass, and `settings` what models were loaded with.
    """

    spi_version: ClassVar[int] = SPI_VERSION

    def __init__(
        self,
        replies: Iterable[Reply] = (),
        *,
        capabilities: Capabilities | None = None,
        context_length: int = 4096,
        on_token: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.requests: list[GenerationRequest] = []
        self.settings: list[EngineSettings] = []
        self._replies = deque(replies)
        self._capabilities = Capabilities(seed=True) if capabilities is None else capabilities
        self._context_length = context_length
        self._on_token = on_token
        self._clock = clock

    def inspect(self, source: ModelSource) -> Inspection:
        if not source.path.exists():
            return Inspection(loadable=False, reason=f"{source.path} does not exist", capabilities=self._capabilities)
        return Inspection(
            loadable=True,
            architecture="echo",
            parameters=0,
            dtype="text",
            context_length=self._context_length,
            weights_bytes=0,
            cache_bytes_per_token=0,
            capabilities=self._capabilities,
        )

    def load(self, source: ModelSource, settings: EngineSettings) -> "EchoModel":
        check_settings(settings, known=("adapters",) if self._capabilities.adapters else ())
        if not source.path.exists():
            raise InvalidModel(f"{source.path} does not exist")
        self.settings.append(settings)
        context_length = self._context_length
        if settings.context_length is not None:
            context_length = min(context_length, settings.context_length)
        info = ModelInfo(
            name=source.name or str(source.path),
            architecture="echo",
            context_length=context_length,
            vocab_size=_VOCAB_SIZE,
            dtype="text",
            memory_bytes=0,
            capabilities=self._capabilities,
            adapters=tuple(settings.extra.get("adapters", ())),
        )
        return EchoModel(
            info,
            replies=self._replies,
            requests=self.requests,
            chunk=settings.prefill_chunk or _CHUNK,
            on_token=self._on_token,
            clock=self._clock,
        )


class EchoModel:
    """What `EchoEngine` loads."""

    def __init__(
        self,
        info: ModelInfo,
        *,
        replies: deque[Reply],
        requests: list[GenerationRequest],
        chunk: int,
        on_token: Callable[[], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self._info = info
        self._replies = replies
        self._requests = requests
        self._chunk = chunk
        self._on_token = on_token
        self._clock = clock
        self._closed = False

    @property
    def info(self) -> ModelInfo:
        return self._info

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """One token for each role, and those of the texts."""
        return sum(1 + len(_tokens(_whole_text(message))) for message in messages)

    def generate(self, request: GenerationRequest) -> Iterator[Event]:
        started = self._clock()
        self._refuse_if_closed()
        check(request, self._info)
        text = request.prompt if request.prompt is not None else _last_user_text(request.messages)
        size = len(_tokens(text)) if request.prompt is not None else self.count_tokens(request.messages)
        if size >= self._info.context_length:
            raise ContextTooLong(
                f"the prompt has {size} tokens, context_length is {self._info.context_length}; shorten the messages",
                option="context_length",
            )
        self._requests.append(request)
        try:
            reply = self._replies.popleft()
        except IndexError:
            reply = text
        return self._stream(request, reply, size, started)

    def close(self) -> None:
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def _stream(self, request: GenerationRequest, reply: Reply, size: int, started: float) -> Iterator[Event]:
        for processed in range(0, size, self._chunk):
            self._refuse_if_closed()
            yield PromptProgress(processed=min(processed + self._chunk, size), total=size)
        prefilled = self._clock()
        if isinstance(reply, str):
            reason, stop, count = yield from self._words(request, reply, self._info.context_length - size)
        else:
            reason, stop, count = _reason(reply), None, 0
            for event in reply:
                self._step()
                if isinstance(event, EngineError):
                    raise event
                yield event
                if isinstance(event, Finish):
                    return
                count += 1
        yield Finish(
            reason=reason,
            usage=Usage(prompt_tokens=size, completion_tokens=count),
            timings=Timings(prefill_seconds=prefilled - started, decode_seconds=self._clock() - prefilled),
            stop=stop,
        )

    def _words(
        self, request: GenerationRequest, text: str, room: int
    ) -> Generator[Event, None, tuple[FinishReason, str | None, int]]:
        limit = room if request.max_tokens is None else min(room, request.max_tokens)
        scanner = StopStrings(request.stop)
        tokens = _tokens(text)
        for count, token in enumerate(tokens[:limit], start=1):
            self._step()
            if piece := scanner.push(token):
                yield TextDelta(text=piece)
            if scanner.found is not None:
                return "stop", scanner.found, count
        if rest := scanner.flush():
            yield TextDelta(text=rest)
        return ("length" if len(tokens) > limit else "stop"), None, min(len(tokens), limit)

    def _step(self) -> None:
        if self._on_token is not None:
            self._on_token()
        self._refuse_if_closed()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ModelClosed(f"model {self._info.name!r} is closed; load it again")


def _reason(events: Sequence[Event | EngineError]) -> FinishReason:
    return "tool_calls" if any(isinstance(event, ToolCall) for event in events) else "stop"


def _tokens(text: str) -> list[str]:
    return re.findall(r"[^\S\n]?\w+|\W", text)


def _last_user_text(messages: Sequence[Message]) -> str:
    return next((message.text for message in reversed(messages) if message.role == "user"), "")


def _whole_text(message: Message) -> str:
    texts: list[str] = []
    for part in message.parts:
        if isinstance(part, TextPart | ReasoningPart):
            texts.append(part.text)
        elif isinstance(part, ToolCallPart):
            texts.append(part.arguments)
        elif isinstance(part, ToolResultPart):
            texts.append(part.content)
    return "".join(texts)
