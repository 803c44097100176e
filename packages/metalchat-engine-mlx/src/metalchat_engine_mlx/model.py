"""A loaded model: answers from any thread, one step at a time."""

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

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
from metalchat_engine_mlx.generate import Answer, Plan
from metalchat_engine_mlx.recall import Recall
from metalchat_engine_mlx.reply import Reply
from metalchat_engine_mlx.sampling import Sampler
from metalchat_engine_mlx.streams import give_back
from metalchat_engine_mlx.turns import Turns

if TYPE_CHECKING:
    from metalchat_prompt import Prompt

SEED_BITS = 64


class MlxModel:
    """Implements `metalchat_engine.Model` and `SupportsTokenCount`."""

    def __init__(
        self,
        decoder: Decoder,
        prompt: "Prompt",
        *,
        name: str,
        defaults: Defaults,
        streams: Sequence[mx.Stream],
        context_length: int,
        chunk: int,
        recall: Recall,
        dtype: str,
        quantization: str | None,
        capabilities: Capabilities,
    ) -> None:
        self._decoder: Decoder | None = decoder
        self._prompt = prompt
        self._defaults = defaults
        self._streams = streams
        self._chunk = chunk
        self._recall = recall
        self._turns = Turns()
        self._closed = threading.Event()
        self._stop_ids = decoder.config.eos_token_ids | defaults.eos_token_ids | prompt.stop_ids
        self._weights_bytes = decoder.nbytes
        self._name, self._dtype, self._quantization = name, dtype, quantization
        self._vocab_size, self._context_length = decoder.config.vocab_size, context_length
        self._architecture = decoder.config.model_type
        self._capabilities = capabilities
        self._compiler = Compiler(prompt, vocab_size=self._vocab_size, stop_ids=self._stop_ids)

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(
            name=self._name,
            architecture=self._architecture,
            context_length=self._context_length,
            vocab_size=self._vocab_size,
            dtype=self._dtype,
            memory_bytes=0 if self._closed.is_set() else self._weights_bytes + self._recall.nbytes,
            capabilities=self._capabilities,
            quantization=self._quantization,
        )

    def generate(self, request: GenerationRequest) -> Iterator[Event]:
        started = time.perf_counter()
        self._check_open()
        check(request, self.info)
        tokens = self._tokens(request)
        room = self._context_length - len(tokens)
        if room < 1:
            raise ContextTooLong(
                f"the prompt has {len(tokens)} tokens, and the context length is {self._context_length};"
                " shorten the prompt or raise context_length",
                option="context_length",
            )
        plan = Plan(
            tokens=tokens,
            limit=room if request.max_tokens is None else min(room, request.max_tokens),
            chunk=self._chunk,
            stop_ids=self._stop_ids,
            logprobs=request.logprobs,
            started=started,
        )
        with self._translated():
            guide = self._guide(request, tokens)
            reply = self._reply(request, tokens, guided=guide is not None)
        return self._answer(request, plan, reply, guide)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """The prompt tokens of `messages`, with what begins the answer."""
        self._check_open()
        request = GenerationRequest(messages=tuple(messages))
        check(request, self.info)
        return len(self._tokens(request))

    def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        with self._turns:
            self._decoder = None
            self._recall.close()
            give_back(self._streams)
            mx.clear_cache()
        self._prompt.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise ModelClosed(f"model '{self._name}' is closed")

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

    def _answer(self, request: GenerationRequest, plan: Plan, reply: Reply, guide: Guide | None) -> Iterator[Event]:
        from metalchat_prompt import PromptError

        with self._turn():
            decoder = self._decoder
            if decoder is None:
                raise ModelClosed(f"model '{self._name}' is closed")
            seed = request.sampling.seed
            sampler = Sampler(
                request.sampling,
                self._defaults,
                prompt=plan.tokens,
                vocab_size=self._vocab_size,
                seed=secrets.randbits(SEED_BITS) if seed is None else seed,
            )
            taken = self._recall.take(plan.tokens, decoder.config.regime(len(plan.tokens)))
        answer = Answer(
            decoder,
            plan,
            taken.cache,
            sampler,
            reply,
            self._prompt.tokenizer,
            self._turn,
            guide=guide,
            keep=self._recall.put,
            checkpoint=taken.common,
        )
        config = decoder.config
        del decoder, sampler, taken
        kept = False
        try:
            yield from answer.events()
            kept = True
        except GeneratorExit:
            kept = True
            raise
        except PromptError as error:
            raise InvalidModel(f"model '{self._name}': {error}") from error
        finally:
            # A cache is worth keeping if no step was broken off, and if all its tokens were rotated alike.
            alike = config.regime(len(answer.tokens)) == answer.regime
            if kept and alike and not self._closed.is_set():
                with self._turn():
                    self._recall.put(answer.cache, answer.tokens, answer.regime)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        from metalchat_prompt import PromptError

        try:
            yield
        except PromptError as error:
            raise InvalidModel(f"model '{self._name}': {error}") from error

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._turns:
            self._check_open()
            try:
                with mx.stream(self._streams[0]):
                    yield
            except MemoryError as error:
                raise OutOfMemory(f"model '{self._name}' ran out of memory; lower context_length") from error
            except RuntimeError as error:
                if "allocate" not in str(error) and "memory" not in str(error):
                    raise
                raise OutOfMemory(f"model '{self._name}' ran out of memory; lower context_length") from error


def _offered(request: GenerationRequest) -> tuple[Tool, ...]:
    """The tools that the model may call."""
    return () if request.tool_choice == "none" else request.tools
