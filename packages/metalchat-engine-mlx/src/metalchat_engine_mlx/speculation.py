"""Speculative decoding: tokens are proposed, computed at once, and kept as far as the model draws the same.

What is drawn at each place comes from the model's own logits by the request's own sampler, so that an answer is token
for token what it would be without. Its logits may differ in the last bits, as many tokens are computed by other kernels
than one. (arXiv 2211.17192 and 2302.01318 accept more of what a draft proposes, but say something else.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metalchat_engine_mlx.draft import Draft, DraftModel
from metalchat_engine_mlx.lookup import Lookup
from metalchat_engine_mlx.sampling import Sampler

# So many steps at most pass without a proposal where the last ones were of no use.
_LONGEST_PAUSE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """How one model's answers are guessed ahead: `lookup` tokens of the text so far, 0 for none, or else, with a
    `draft`, `draft_tokens` of what it says."""

    lookup: int = 0
    draft: DraftModel | None = None
    draft_tokens: int = 0

    @property
    def nbytes(self) -> int:
        return 0 if self.draft is None else self.draft.nbytes

    @property
    def scratch(self) -> Callable[[], int]:
        """What tells the bytes that a draft keeps besides its weights, outside of MLX."""
        return (lambda: 0) if self.draft is None else self.draft.decoder.scratch

    def close(self) -> None:
        """Forget what a draft has read."""
        if self.draft is not None:
            self.draft.prefixes.clear()

    def begin(self, tokens: Sequence[int], *, most: int, pays_from: int) -> "Ahead | None":
        """For one text that may become `most` tokens, where anything is guessed.

        Several tokens at once pay if that saves `pays_from` - 1 steps.
        """
        return Ahead(self, tokens, most, pays_from) if self.lookup or self.draft is not None else None


class Ahead:
    """The guesses for one answer to the prompt `tokens`. After some that were of no use it pauses, ever longer."""

    def __init__(self, speculation: Speculation, tokens: Sequence[int], most: int, pays_from: int) -> None:
        self._how, self._prompt, self._most, self._pays_from = speculation, tokens, most, pays_from
        self._lookup = Lookup() if speculation.lookup else None
        self._draft: Draft | None = None
        self._pause = self._failures = 0

    @property
    def pauses(self) -> bool:
        """Whether nothing is proposed for the next step."""
        return self._pause > 0

    def rest(self) -> None:
        """A step of a pause has passed."""
        self._pause -= 1

    def propose(self, known: Sequence[int], most: int, sampler: Sampler) -> list[int]:
        """Up to `most` tokens after those of prompt and answer, all `known`."""
        found: list[int] = []
        if self._lookup is not None:
            found = self._lookup.propose(known, min(most, self._how.lookup))
        if not found and self._how.draft is not None:
            if self._draft is None:
                self._draft = self._how.draft.begin(self._prompt, self._most)
            found = self._draft.propose(known, min(most, self._how.draft_tokens), sampler)
        return found if len(found) >= self._pays_from - 1 else []

    def judge(self, accepted: int) -> None:
        """Of the last proposal so many tokens were said."""
        self._failures = self._failures + 1 if accepted + 1 < self._pays_from else 0
        self._pause = min(2**self._failures, _LONGEST_PAUSE) - 1

    def keep(self, known: Sequence[int]) -> None:
        """The answer has ended with `known` tokens of prompt and answer."""
        if self._draft is not None:
            self._draft.keep(known)
            self._draft = None
