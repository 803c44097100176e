"""A loaded model: answers from any thread."""

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

import mlx.core as mx
from metalchat_engine import (
    Capabilities,
    ContextTooLong,
    Event,
    GenerationRequest,
    InvalidModel,
    Message,
    ModelClosed,
    ModelInfo,
    OutOfMemory,
    Tool,
    UnsupportedRequest,
    check,
)

from metalchat_engine_mlx.constraints import Compiler, Guide
from metalchat_engine_mlx.decoder import Decoder
from metalchat_engine_mlx.defaults import Defaults
from metalchat_engine_mlx.generate import Answer
from metalchat_engine_mlx.job import Plan
from metalchat_engine_mlx.reply import Reply
from metalchat_engine_mlx.running import Remembers, Runs
from metalchat_engine_mlx.sampling import Sampler
from metalchat_engine_mlx.scheduler import Scheduler
from metalchat_engine_mlx.speculation import Speculation
from metalchat_engine_mlx.streams import give_back

if TYPE_CHECKING:
    from metalchat_prompt import Prompt

SEED_BITS = 64
_D = TypeVar("_D", bound=Runs)


class AnsweringModel(Generic[_D]):
    """Implements `metalchat_engine.Model` and `SupportsTokenCount`."""

    def __init__(
        self,
        decoder: _D,
        prompt: "Prompt",
        *,
        name: str,
        defaults: Defaults,
        streams: Sequence[mx.Stream],
        context_length: int,
        memory_bound: bool,
        chunk: int,
        recall: Remembers,
        batch: int,
        deterministic: bool,
        speculation: Speculation,
        dtype: str,
        quantization: str | None,
        capabilities: Capabilities,
        adapters: tuple[str, ...] = (),
    ) -> None:
        self._prompt = prompt
        self._defaults = defaults
        self._streams = streams
        self._chunk = chunk
        self._recall = recall
        self._speculation = speculation
        self._closed = threading.Event()
        self._closing = threading.Lock()
        self._scratch = decoder.scratch, speculation.scratch
        self._scheduler = Scheduler(
            decoder,
            recall,
            streams[0],
            batch=batch,
            chunk=chunk,
            exact=deterministic,
            translated=self._failure,
            closed=self._refusal,
            speculation=speculation,
        )
        self._stop_ids = decoder.config.eos_token_ids | defaults.eos_token_ids | prompt.stop_ids
        self._weights_bytes = decoder.nbytes
        self._name, self._dtype, self._quantization = name, dtype, quantization
        self._vocab_size, self._context_length = decoder.config.vocab_size, context_length
        self._limit = "there is memory for" if memory_bound else "the context length is"
        self._architecture = decoder.config.model_type
        self._capabilities, self._adapters = capabilities, adapters
        self._compiler = Compiler(prompt, vocab_size=self._vocab_size, stop_ids=self._stop_ids)

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(
            name=self._name,
            architecture=self._architecture,
            context_length=self._context_length,
            vocab_size=self._vocab_size,
            dtype=self._dtype,
            memory_bytes=0 if self._closed.is_set() else self._held_bytes(),
            capabilities=self._capabilities,
            quantization=self._quantization,
            adapters=self._adapters,
        )

    def generate(self, request: GenerationRequest) -> Iterator[Event]:
        started = time.perf_counter()
        self._check_open()
        check(request, self.info)
        tokens = self._tokens(request)
        room = self._context_length - len(tokens)
        if room < 1:
            raise ContextTooLong(
                f"the prompt has {len(tokens)} tokens, and {self._limit} {self._context_length}; shorten the prompt",
                option="context_length",
            )
        with self._translated():
            guide = self._guide(request, tokens)
            reply = self._reply(request, tokens, guided=guide is not None)
        seed = request.sampling.seed
        sampler = partial(
            Sampler,
            request.sampling,
            self._defaults,
            prompt=tokens,
            vocab_size=self._vocab_size,
            seed=secrets.randbits(SEED_BITS) if seed is None else seed,
        )
        plan = Plan(
            tokens=tokens,
            limit=room if request.max_tokens is None else min(room, request.max_tokens),
            chunk=self._chunk,
            stop_ids=self._stop_ids,
            logprobs=request.logprobs,
            sampler=sampler,
            guide=guide,
            adapter=request.adapter,
        )
        return self._answer(request, plan, reply, started)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """The prompt tokens of `messages`, with what begins the answer."""
        self._check_open()
        request = GenerationRequest(messages=tuple(messages))
        check(request, self.info)
        return len(self._tokens(request))

    def close(self) -> None:
        with self._closing:
            if self._closed.is_set():
                return
            self._closed.set()
            self._scheduler.close()
            self._recall.close()
            self._speculation.close()
            self._speculation = Speculation()
            give_back(self._streams)
            mx.clear_cache()
            self._prompt.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def _held_bytes(self) -> int:
        return self._weights_bytes + self._recall.nbytes + self._speculation.nbytes

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise self._refusal()

    def _refusal(self) -> ModelClosed:
        return ModelClosed(f"model '{self._name}' is closed")

    def _tokens(self, request: GenerationRequest) -> tuple[int, ...]:
        from metalchat_prompt import ConversationRefused, NoTemplate, PromptError

        try:
            if request.prompt is None:
                tokens = self._prompt.encode(request.messages, tools=_offered(request))
            else:
                tokens = self._prompt.encode_text(request.prompt)
        except (ConversationRefused, NoTemplate) as error:
            raise UnsupportedRequest(str(error), option="messages") from error
        except PromptError as error:
            raise InvalidModel(f"model '{self._name}': {error}") from error
        strange = next((token for token in tokens if not 0 <= token < self._vocab_size), None)
        if strange is not None:
            raise InvalidModel(
                f"model '{self._name}': the tokenizer gives the token {strange}, 'vocab_size' is {self._vocab_size}"
            )
        # The model needs something to start from; an empty text may have no tokens at all.
        return tokens or tuple(sorted(self._stop_ids)[:1]) or (0,)

    def _guide(self, request: GenerationRequest, tokens: Sequence[int]) -> Guide | None:
        """What the answer must look like, compiled. Raises UnsupportedRequest for what cannot be."""
        tools = _offered(request)
        if request.constraint is not None:
            if tools:
                raise UnsupportedRequest(
                    "a constraint and tools cannot be combined; set tool_choice to 'none', or leave one of them out",
                    option="constraint",
                )
            return self._compiler.constraint(request.constraint, tokens)
        if not tools or request.tool_choice == "auto":
            return None
        named = [tool for tool in tools if tool.name == request.tool_choice]
        grammar = self._prompt.call_grammar(named or tools, after=tokens, several=not named)
        if grammar is None:
            raise UnsupportedRequest(
                f"model '{self._name}' cannot be made to call tools in its own syntax; set tool_choice to 'auto'",
                option="tool_choice",
            )
        return self._compiler.calls(grammar)

    def _reply(self, request: GenerationRequest, tokens: Sequence[int], *, guided: bool) -> Reply:
        from metalchat_prompt import OutputFormat

        tools = _offered(request)
        parser = self._prompt.parser(tools, after=tokens, by_token=True)
        if guided and not tools and not parser.reasoning:
            # Such an answer begins at once, whatever it looks like.
            parser = self._prompt.parser(layout=OutputFormat())
        return Reply(
            self._prompt.detokenizer(),
            parser,
            stop=request.stop,
            own_stop=() if request.prompt is not None else self._prompt.stop_strings,
        )

    def _answer(self, request: GenerationRequest, plan: Plan, reply: Reply, started: float) -> Iterator[Event]:
        from metalchat_prompt import PromptError

        outbox = self._scheduler.submit(plan)
        answer = Answer(
            outbox,
            reply,
            self._prompt.tokenizer,
            prompt_tokens=len(plan.tokens),
            logprobs=request.logprobs is not None,
            started=started,
            check_open=self._check_open,
            peak=lambda: mx.get_peak_memory() + sum(scratch() for scratch in self._scratch),
        )
        try:
            yield from answer.events()
        except PromptError as error:
            raise InvalidModel(f"model '{self._name}': {error}") from error
        finally:
            outbox.cancel()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        from metalchat_prompt import PromptError

        try:
            yield
        except PromptError as error:
            raise InvalidModel(f"model '{self._name}': {error}") from error

    def _failure(self, error: BaseException) -> BaseException:
        """What a request's thread sees of what went wrong in the scheduler's."""
        known = isinstance(error, RuntimeError) and ("allocate" in str(error) or "memory" in str(error))
        if not known and not isinstance(error, MemoryError):
            return error
        found = OutOfMemory(f"model '{self._name}' ran out of memory; lower context_length")
        found.__cause__ = error
        return found


class MlxModel(AnsweringModel[Decoder]):
    """A model that this engine's own decoder runs. Implements `SupportsEmbedding`, too."""

    def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """A vector of length one for each text: the mean of its tokens' last hidden states.

        Each waits for room for its keys and values where answers under way, or other texts, have it.

        Raises UnsupportedRequest for a text that is empty or no text, ContextTooLong, ModelClosed, OutOfMemory.
        """
        self._check_open()
        asked = []
        for text in texts:
            request = GenerationRequest(prompt=text)
            check(request, self.info)
            asked.append(self._tokens(request))
            if len(asked[-1]) > self._context_length:
                raise ContextTooLong(
                    f"a text has {len(asked[-1])} tokens, and {self._limit} {self._context_length}; shorten it",
                    option="context_length",
                )
        try:
            return [self._vector(tokens) for tokens in asked]
        except (RuntimeError, MemoryError) as error:
            found = self._failure(error)
            if found is error:
                raise
            raise found from error

    def _vector(self, tokens: Sequence[int]) -> list[float]:
        from metalchat_engine_mlx.embedding import embedding

        with self._scheduler.visiting(len(tokens)):
            return embedding(tokens, self._scheduler.compute, self._chunk)


def _offered(request: GenerationRequest) -> tuple[Tool, ...]:
    """The tools that the model may call."""
    return () if request.tool_choice == "none" else request.tools
