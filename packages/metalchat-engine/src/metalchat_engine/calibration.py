"""Whether settings that only change the speed pay on this machine: the same answers with each of them, in turn."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from metalchat_engine.engine import Engine, EngineSettings, ModelSource
from metalchat_engine.measuring import Spread, measure
from metalchat_engine.messages import Message
from metalchat_engine.request import GenerationRequest, Sampling

LEAST_GAIN = 1.1
"""How many times as fast settings must be, over all prompts, to be worth having."""
LEAST_EACH = 0.95
"""And how slow they may be, on any single one."""
_HOPELESS = 0.8
"""What is as slow on a single prompt, in its runs so far, is tried no more."""
_WARM = 4

_NOTICE = (
    "The ferry to the island leaves at nine in the morning and again at three in the afternoon. Tickets are sold at "
    "the small kiosk next to the harbour master's office, and they cost twelve crowns for adults and six for children. "
    "Dogs travel free of charge, but they must be kept on a lead. In winter the ferry does not run on Sundays."
)
PROMPTS: Mapping[str, str] = {
    "free": "Write a short story about a dog who finds a letter.",
    "repeating": f"Copy this text word by word, without any change:\n\n{_NOTICE}",
}
"""What is asked: a text of the model's own, and one that says again what the prompt says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One answer to the prompt of the name `prompt`, with the settings of the name `candidate`."""

    candidate: str
    prompt: str
    rate: float
    text: str
    completion_tokens: int
    proposed_tokens: int
    accepted_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a candidate did. `rates` are tokens a second by prompt; `gains` the ratios of their means to the first
    candidate's, and `ahead` the prompts on which its slowest run was faster than that one's fastest. `agreed` is how
    many of its answers were those of the first candidate, of `answers`. It was `given_up` where it was clearly worse
    than another, and so had fewer runs."""

    candidate: str
    rates: Mapping[str, Spread]
    gains: Mapping[str, float]
    ahead: tuple[str, ...]
    answers: int
    agreed: int
    given_up: bool = False

    @property
    def gain(self) -> float:
        """The geometric mean of the gains."""
        return math.exp(math.fsum(map(math.log, self.gains.values())) / max(len(self.gains), 1))

    @property
    def pays(self) -> bool:
        each = all(gain >= LEAST_EACH for gain in self.gains.values())
        return self.gain >= LEAST_GAIN and each and bool(self.ahead) and not self.given_up


def calibrate(
    engine: Engine,
    source: ModelSource,
    candidates: Mapping[str, EngineSettings],
    *,
    runs: int = 3,
    tokens: int = 96,
    prompts: Mapping[str, str] = PROMPTS,
) -> Iterator[Trial]:
    """`runs` times, every prompt with every candidate: from the last to the first, and the next time forwards.

    A candidate is given up after a turn in which it is clearly worse: another is a tenth faster on every prompt, or the
    first one on any. The model is loaded anew for each, and is warm. Raises what the engine raises for settings that it
    does not have.
    """
    found: list[Trial] = []
    left = list(candidates)
    for turn in range(runs):
        for name in left[:: 1 if turn % 2 else -1]:
            settings = candidates[name]
            with engine.load(source, settings) as model:
                for prompt, text in prompts.items():
                    chat = model.info.capabilities.messages
                    request = GenerationRequest(
                        messages=(Message.user(text),) if chat else (),
                        prompt=None if chat else text,
                        sampling=Sampling(temperature=0),
                        max_tokens=tokens,
                    )
                    # What is made once is made here, and the prompt read.
                    measure(model, [replace(request, max_tokens=_WARM)])
                    run = measure(model, [request])
                    usage = run.answers[0].finish.usage
                    found.append(
                        Trial(
                            candidate=name,
                            prompt=prompt,
                            rate=run.decode_rate or 0.0,
                            text=run.answers[0].text,
                            completion_tokens=usage.completion_tokens,
                            proposed_tokens=usage.proposed_tokens,
                            accepted_tokens=usage.accepted_tokens,
                        )
                    )
                    yield found[-1]
        now = standings(found, left)
        left = [one.candidate for one in now if one is now[0] or not _is_hopeless(one, now)]


def standings(found: Sequence[Trial], candidates: Iterable[str]) -> tuple[Standing, ...]:
    """How each of the candidates did beside the first of them, in their order."""
    names = list(candidates)
    prompts = [
        prompt
        for prompt in dict.fromkeys(trial.prompt for trial in found)
        # An answer of a single token has no speed.
        if all(trial.rate > 0 for trial in found if trial.prompt == prompt)
    ]
    said = {trial.prompt: trial.text for trial in reversed(found) if trial.candidate == names[0]}
    made: list[Standing] = []
    base: dict[str, list[float]] = {}
    for name in names:
        own = [trial for trial in found if trial.candidate == name]
        runs = {prompt: [trial.rate for trial in own if trial.prompt == prompt] for prompt in prompts}
        base = base or runs
        rates = {prompt: Spread.of(runs[prompt]) for prompt in prompts}
        made.append(
            Standing(
                candidate=name,
                rates=rates,
                gains={prompt: rates[prompt].mean / Spread.of(base[prompt]).mean for prompt in prompts},
                ahead=tuple(prompt for prompt in prompts if min(runs[prompt]) > max(base[prompt])),
                answers=len(own),
                given_up=len(own) < sum(trial.candidate == names[0] for trial in found),
                agreed=sum(trial.text == said[trial.prompt] for trial in own),
            )
        )
    return tuple(made)


def _is_hopeless(one: Standing, others: Sequence[Standing]) -> bool:
    if any(gain < _HOPELESS for gain in one.gains.values()):
        return True
    return bool(one.gains) and any(
        all(other.gains[prompt] >= LEAST_GAIN * gain for prompt, gain in one.gains.items()) for other in others
    )


def winner(found: Sequence[Standing]) -> Standing | None:
    """The one that gains most of those that pay, None where none does."""
    return max((standing for standing in found if standing.pays), key=lambda standing: standing.gain, default=None)
