"""One answer as the scheduler sees it: a prompt in chunks, then token by token, or as many as were guessed ahead."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from metalchat_engine_mlx import blas
from metalchat_engine_mlx.constraints import Guide
from metalchat_engine_mlx.drawing import Draw
from metalchat_engine_mlx.outbox import End, Outbox, Progress
from metalchat_engine_mlx.rope import Regime
from metalchat_engine_mlx.running import Remembers, Runs, TextCache
from metalchat_engine_mlx.sampling import Sampler
from metalchat_engine_mlx.speculation import Ahead, Speculation


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that one answer depends on. `limit` is the largest number of answer tokens, at least 1.

    `sampler` makes the request's own, and is called once.
    """

    tokens: tuple[int, ...]
    limit: int
    chunk: int
    stop_ids: frozenset[int]
    logprobs: int | None
    sampler: Callable[[], Sampler]
    guide: Guide | None = None
    adapter: str | None = None


class Job:
    """All its methods are called by the scheduler's thread alone.

    `tokens` are those whose keys and values the cache holds, once a step is over. `regime` is that of the prompt, or
    of all tokens where they were computed again. With `exact`, nothing is kept that was computed in other pieces than
    a whole prompt is. `speculation` guesses tokens ahead. A `stalled` job waits for room for its next tokens.
    """

    def __init__(
        self,
        model: Runs,
        plan: Plan,
        recall: Remembers,
        outbox: Outbox,
        *,
        exact: bool,
        speculation: Speculation,
    ) -> None:
        self.plan, self.outbox = plan, outbox
        self.regime = model.config.regime(len(plan.tokens))
        self.ended = self.stalled = False
        self._model, self._recall, self._exact = model, recall, exact
        self._known = list(plan.tokens)
        self._cache: TextCache | None = None
        self._cached = self._checkpoint = self._count = 0
        self._prompt_kept = False
        self._sampler: Sampler | None = None
        self._draw: Draw | None = None
        self._next: Draw | None = None
        self._ahead: Ahead | None = speculation.begin(plan.tokens, most=self.most, pays_from=model.batch_from)
        self._proposed: list[int] = []

    @property
    def most(self) -> int:
        """The tokens that prompt and answer may become."""
        return len(self.plan.tokens) + self.plan.limit

    @property
    def begun(self) -> bool:
        return self._cache is not None

    @property
    def prefilled(self) -> bool:
        return self._draw is not None

    @property
    def cache(self) -> TextCache:
        if self._cache is None:
            raise TypeError("a job has a cache once it has begun")
        return self._cache

    @property
    def tokens(self) -> list[int]:
        return self._known[: self.cache.length]

    @property
    def waits(self) -> bool:
        """Whether a token must be known before the next can be drawn."""
        return self.plan.guide is not None or (self._ahead is not None and not self._ahead.pauses)

    def prefill(self, chunk: int) -> None:
        """Compute one more piece of the prompt; after the last, the first token is known too."""
        plan, total = self.plan, len(self.plan.tokens)
        if self._cache is None:
            taken = self._recall.take(plan.tokens, self.regime, most=total + plan.limit, adapter=plan.adapter)
            self._cache, self._checkpoint, self._cached = taken.cache, taken.common, taken.cache.length
            self._sampler = plan.sampler()
            if self._cached:
                self.outbox.put(Progress(processed=self._cached, cached=True))
        start = self.cache.length
        end = min(start + chunk, self._checkpoint if start < self._checkpoint else total)
        tokens = mx.array(plan.tokens[start:end])
        if end < total:
            self._model.prefill(tokens, self.cache, self.regime)
            if end == self._checkpoint:
                self._keep(end)
            self.outbox.put(Progress(processed=end))
            return
        self.draw(self._model(tokens, self.cache, self.regime))
        self._draw, self._next = self._next, None
        if self._draw is None:
            raise TypeError("a token was drawn")
        mx.eval(self._draw.arrays())
        self.outbox.put(Progress(processed=total))
        # The answer's end keeps all of it, unless a window has forgotten by then, or a file is wanted.
        forgets = self._exact or any(window is not None for window in self._model.config.windows)
        if forgets or self._recall.saves(total - self._cached):
            self.keep_prompt()

    def goes_on(self) -> bool:
        """Whether a token is wanted after the one that is being drawn."""
        guide = self.plan.guide
        return not self.ended and self._count + (not self.waits) < self.plan.limit and not (guide and guide.done)

    @property
    def following(self) -> Regime:
        """The regime under which the next token is computed."""
        return self._model.config.regime(self.cache.length + 1)

    def own_step(self) -> bool:
        """Compute the next logits alone, if they must be: the rope has changed for all tokens. False, if not."""
        regime = self.following
        if not self._model.config.recomputes or regime == self.regime:
            return False
        known = mx.concatenate([mx.array(self.tokens), self.token.astype(mx.int32)])
        logits, self._cache = self._model.again(known, regime, self.plan.chunk, self.plan.adapter)
        self.regime = regime
        self.draw(logits)
        return True

    @property
    def token(self) -> mx.array:
        """The last token that was drawn, perhaps not yet computed: [1]."""
        if self._draw is None:
            raise TypeError("no token was drawn")
        return self._draw.token.reshape(1)

    def propose(self, most: int) -> None:
        """Guess what follows the last token, at most so many tokens, where that is known and the time is right."""
        if self._ahead is None or self._ahead.pauses:
            if self._ahead is not None:
                self._ahead.rest()
            return
        if self._sampler is None:
            raise TypeError("a job has a sampler once it has begun")
        most = min(self.plan.limit - self._count - 1, most)
        if most > 0:
            self._proposed = self._ahead.propose(self._known, most, self._sampler)
        # What is computed at once must be rotated alike.
        if self._model.config.regime(self.cache.length + 1 + len(self._proposed)) != self.following:
            self._proposed.clear()

    @property
    def computing(self) -> mx.array:
        """The tokens of the next step: the last one, and those that were proposed after it."""
        return mx.array([self._known[-1], *self._proposed], dtype=mx.uint32) if self._proposed else self.token

    def settle(self, logits: mx.array) -> None:
        """Draw from the logits [n, vocab_size] after the tokens of this step.

        As far as what is drawn was proposed, the tokens are told; the first one that was not is the next.
        """
        proposed = self._proposed.copy()
        self._proposed.clear()
        if not proposed or self._ahead is None:
            self.draw(logits[0])
            return
        self.cache.length -= len(proposed)
        self.outbox.proposed += len(proposed)
        for accepted, guess in enumerate(proposed):
            self.draw(logits[accepted])
            if self._next is None or self._next.token.item() != guess:
                self._ahead.judge(accepted)
                return
            self.cache.length += 1
            self.outbox.accepted += guess not in self.plan.stop_ids
            self.turn()
            self.tell()
            if self.ended:
                return
        self._ahead.judge(len(proposed))
        self.draw(logits[-1])

    def draw(self, logits: mx.array) -> None:
        """Draw the next token, lazily, from the logits [vocab_size]."""
        allowed = None
        if self.plan.guide is not None:
            mx.async_eval(logits)
            allowed = blas.array(self.plan.guide.mask())
        if self._sampler is None:
            raise TypeError("a job has a sampler once it has begun")
        self._next = Draw(self._sampler(logits, allowed), logits, self.plan.logprobs)

    def drawing(self) -> list[mx.array]:
        """What must be evaluated for the next token to be known."""
        return [] if self._next is None else self._next.arrays()

    def tell(self) -> None:
        """Pass on the last token, and end where it ends the answer; waits until it is computed."""
        plan = self.plan
        if self._draw is None:
            raise TypeError("no token was drawn")
        drawn = self._draw.wait()
        self._known.append(drawn.token)
        if drawn.token in plan.stop_ids:
            self.end(End(reason="stop"))
            return
        if plan.guide is not None:
            plan.guide.accept(drawn.token)
        self._count += 1
        done = plan.guide is not None and plan.guide.done
        if done or self._count == plan.limit:
            # The taker may go on at once: what it sees of the model is settled before.
            self.ended = True
            self.keep()
            self.outbox.put(drawn)
            self.outbox.put(End(reason="stop" if done else "length"))
        else:
            self.outbox.put(drawn)

    def turn(self) -> None:
        """The next token becomes the last."""
        self._draw, self._next = self._next, None

    def end(self, end: End) -> None:
        self.ended = True
        self.keep()
        self.outbox.put(end)

    def fail(self, error: BaseException) -> None:
        self.ended = True
        self.outbox.put(error)

    def keep(self) -> None:
        """Keep the keys and values of prompt and answer for others, if all were rotated alike."""
        if self._ahead is not None:
            self._ahead.keep(self._known)
        if self._cache is not None and not self._exact:
            tokens = self.tokens
            if self._model.config.regime(len(tokens)) == self.regime:
                self._recall.move(self.cache, tokens, self.regime)
            self._cache = None

    def keep_prompt(self) -> None:
        """Keep the keys and values of the prompt for others, once, while the answer goes on."""
        if not self._prompt_kept:
            self._prompt_kept = True
            self._keep(len(self.plan.tokens))

    def shares(self, other: Sequence[int], least: int) -> bool:
        """Whether the prompt begins with the same `least` tokens as another."""
        return len(other) > least and self.plan.tokens[:least] == other[:least]

    def _keep(self, end: int) -> None:
        self._recall.put(self.cache, self.plan.tokens[:end], self.regime, end - self._cached)
