"""A draft model: a smaller one with the same tokens, which guesses what the model will say."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import mlx.core as mx
from metalchat_engine import UnsupportedRequest

from metalchat_engine_mlx.checkpoint import Checkpoint
from metalchat_engine_mlx.decoder import Decoder
from metalchat_engine_mlx.drawing import numbers
from metalchat_engine_mlx.prefix import PrefixCache
from metalchat_engine_mlx.sampling import Sampler

if TYPE_CHECKING:
    from metalchat_prompt import Prompt


def check_draft(draft: Checkpoint, draft_prompt: "Prompt", checkpoint: Checkpoint, prompt: "Prompt") -> None:
    """Raises UnsupportedRequest for a draft that has other tokens, or that would have to read a text anew."""
    ours, theirs = prompt.tokenizer, draft_prompt.tokenizer
    size = ours.vocab_size
    if theirs.vocab_size != size or any(ours.token(index) != theirs.token(index) for index in range(size)):
        raise UnsupportedRequest(
            f"the draft '{draft.name}' has another vocabulary than '{checkpoint.name}'; choose one of the same family",
            option="draft",
        )
    if draft.config.regime(1) is not None:
        raise UnsupportedRequest(
            f"the draft '{draft.name}' has a rope that changes with the length of the text; choose another model",
            option="draft",
        )


class DraftModel:
    """Shared by all answers of a model with `vocab_size` tokens. It reads at most `chunk` tokens at a time."""

    def __init__(
        self, decoder: Decoder, *, vocab_size: int, chunk: int, context_length: int, prefix_cache_bytes: int
    ) -> None:
        self.decoder, self.vocab_size = decoder, vocab_size
        self.chunk, self.context_length = chunk, context_length
        self.prefixes = PrefixCache(decoder.config.windows, prefix_cache_bytes)

    @property
    def nbytes(self) -> int:
        return self.decoder.nbytes + self.prefixes.nbytes

    def begin(self, tokens: Sequence[int], most: int) -> "Draft":
        """Follow a text that begins with `tokens`, and may become `most`."""
        return Draft(self, tokens, most)


class Draft:
    """Follows one text. What others have read already is taken over, and what it has read is left to others."""

    def __init__(self, model: DraftModel, tokens: Sequence[int], most: int) -> None:
        self._model = model
        self._cache = model.prefixes.take(tokens, None, most=most).cache
        # The tokens that the cache holds; the first `_agreed` of them are surely those of the text.
        self._held = list(tokens[: self._cache.length])
        self._agreed = self._cache.length

    def propose(self, known: Sequence[int], most: int, sampler: Sampler) -> list[int]:
        """At most `most` tokens that may follow `known`; none while it has yet to read much of it.

        They are drawn as `sampler` would draw them, with the same random numbers: it agrees as often as the two models
        do, whatever the temperature.
        """
        model = self._model
        self._go_back(known)
        missing = list(known[len(self._held) :])
        if len(known) + most > model.context_length:
            return []
        if len(missing) > model.chunk:
            missing = missing[: model.chunk]
            model.decoder.prefill(mx.array(missing), self._cache, None)
            self._held += missing
            return []
        sampler = sampler.copy()
        tokens = mx.array(missing)
        drawn: list[mx.array] = []
        for _ in range(most):
            token = sampler(self._fitted(model.decoder(tokens, self._cache, None)))
            tokens = token.reshape(1)
            drawn.append(tokens)
        found = [int(token) for token in numbers(mx.concatenate(drawn))]
        self._held += [*missing, *found[:-1]]
        return found

    def keep(self, known: Sequence[int]) -> None:
        """The text has ended; nothing may be asked any more."""
        self._go_back(known)
        self._model.prefixes.put(self._cache, self._held, None, release=True)

    def _go_back(self, known: Sequence[int]) -> None:
        """Forget what was not said after all; the last token of `known` is always read again."""
        end = min(len(self._held), len(known) - 1)
        while self._agreed < end and self._held[self._agreed] == known[self._agreed]:
            self._agreed += 1
        self._agreed = min(self._agreed, end)
        del self._held[self._agreed :]
        self._cache.length = self._agreed

    def _fitted(self, logits: mx.array) -> mx.array:
        """Logits of the tokens that the model has; checkpoints pad their vocabularies differently."""
        missing = self._model.vocab_size - logits.shape[0]
        if missing <= 0:
            return logits[: self._model.vocab_size] if missing else logits
        return mx.concatenate([logits, mx.full((missing,), -mx.inf, dtype=logits.dtype)])
