"""What is measured through the contract, with clocks that tests turn."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from metalchat_engine import (
    BatchRun,
    Capabilities,
    ContextTooLong,
    EngineSettings,
    Finish,
    GenerationRequest,
    Model,
    ModelSource,
    OutOfMemory,
    Spread,
    Timed,
    Timings,
    Trial,
    UnsupportedRequest,
    Usage,
    bench,
    calibrate,
    measure,
    standings,
    winner,
)
from metalchat_engine.testing import EchoEngine


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    (tmp_path / "model").touch()
    return ModelSource(path=tmp_path / "model", name="echo")


def ticking() -> Callable[[], float]:
    """A clock that advances by a second whenever it is read."""
    seconds = count()
    return lambda: float(next(seconds))


def timed(
    started: float,
    prefill: float,
    decode: float,
    *,
    tokens: int = 11,
    cached: int = 0,
    said_at: tuple[float, ...] = (),
) -> Timed:
    usage = Usage(prompt_tokens=20, completion_tokens=tokens, cached_tokens=cached)
    timings = Timings(prefill_seconds=prefill, decode_seconds=decode, peak_memory=None)
    return Timed(
        text="", started=started, said_at=said_at, finish=Finish(reason="length", usage=usage, timings=timings)
    )


def test_one_answer_is_timed_as_the_engine_times_it(source: ModelSource) -> None:
    clock = ticking()
    with EchoEngine(clock=clock).load(source, EngineSettings()) as model:
        run = measure(model, [GenerationRequest(prompt="one two three four")], clock=clock)
    (answer,) = run.answers
    assert (answer.text, answer.started) == ("one two three four", 0.0)
    assert (run.prompt_tokens, run.completion_tokens) == (4, 4)
    timings = answer.finish.timings
    assert run.first_token_seconds == timings.prefill_seconds == 1.0
    assert run.prefill_rate == 4 / timings.prefill_seconds
    assert run.decode_rate == 3 / timings.decode_seconds
    assert len(answer.said_at) == 4
    assert run.peak_memory is None


def test_answers_in_company_share_one_stretch_of_time() -> None:
    run = BatchRun(answers=(timed(0, 2, 10, cached=5, said_at=(2, 3, 5, 6, 12)), timed(1, 3, 6, said_at=(4, 10))))
    assert run.first_token_seconds == 2.5
    # 15 and 20 prompt tokens were computed by second 4. From there to second 12 came three of the five pieces of the
    # first answer, and all tokens of the second but one.
    assert run.prefill_rate == 35 / 4
    assert run.decode_rate == (11 * 3 / 5 + 10) / 8
    assert BatchRun(answers=(timed(0, 2, 0, tokens=1),)).decode_rate is None
    assert BatchRun(answers=(timed(0, 2, 1, cached=20),)).prefill_rate is None


def test_all_are_asked_at_once(source: ModelSource) -> None:
    together = threading.Barrier(4, timeout=30)
    with EchoEngine(on_token=together.wait).load(source, EngineSettings()) as model:
        run = measure(model, [GenerationRequest(prompt="word", max_tokens=1)] * 4)
    assert [answer.text for answer in run.answers] == ["word"] * 4


def test_what_goes_wrong_is_raised_in_the_thread_that_asked(source: ModelSource) -> None:
    with EchoEngine(["fine", [OutOfMemory("no room")], "fine"]).load(source, EngineSettings()) as model:
        with pytest.raises(OutOfMemory, match="no room"):
            measure(model, [GenerationRequest(prompt="word")] * 3)
        with pytest.raises(UnsupportedRequest):
            measure(model, [GenerationRequest(prompt="")])


def test_a_spread_is_a_mean_and_the_deviation_of_a_sample() -> None:
    assert Spread.of([4.0]) == Spread(mean=4.0, deviation=0.0)
    assert Spread.of([1.0, 2.0, 3.0]) == Spread(mean=2.0, deviation=1.0)


def test_a_bench_asks_for_prompts_of_the_length_that_nobody_has_seen(source: ModelSource) -> None:
    engine = EchoEngine()
    with engine.load(source, EngineSettings()) as model:
        runs = list(bench(model, prompt_tokens=30, output_tokens=12, batches=(1, 3), runs=2))
    assert [len(run.answers) for run in runs] == [1, 3, 1, 3]
    usages = [answer.finish.usage for run in runs for answer in run.answers]
    assert {(usage.prompt_tokens, usage.completion_tokens) for usage in usages} == {(30, 12)}
    prompts = [request.prompt for request in engine.requests[1:]]
    assert len(set(prompts)) == len(prompts) == 8
    assert {request.sampling.temperature for request in engine.requests} == {0}


def test_a_bench_that_does_not_fit_the_context_says_so_before_it_begins(source: ModelSource) -> None:
    engine = EchoEngine(context_length=64)
    with engine.load(source, EngineSettings()) as model, pytest.raises(ContextTooLong, match="context length of 64"):
        next(bench(model, prompt_tokens=60, output_tokens=5))
    assert engine.requests == []


class _Paced(EchoEngine):
    """Answers a token in as many seconds as its `prefill_chunk` says."""

    def __init__(self, capabilities: Capabilities | None = None) -> None:
        self.seconds = 0.0
        self.order: list[tuple[int, str]] = []
        super().__init__(capabilities=capabilities, clock=lambda: self.seconds, on_token=self.step)
        self.pace = 0

    def step(self) -> None:
        self.seconds += self.pace

    def load(self, source: ModelSource, settings: EngineSettings) -> Model:
        self.pace = settings.prefill_chunk or 0
        return super().load(source, settings)


@pytest.mark.parametrize("messages", [True, False], ids=["chat", "text"])
def test_candidates_take_turns_and_the_fastest_of_those_that_pay_wins(messages: bool, source: ModelSource) -> None:
    engine = _Paced(Capabilities(messages=messages, seed=True))
    paces = {"off": 4, "fast": 2, "slow": 5}
    candidates = {name: EngineSettings(prefill_chunk=pace) for name, pace in paces.items()}
    found = list(calibrate(engine, source, candidates, runs=2, tokens=20))
    assert [trial.candidate for trial in found[::2]] == ["slow", "fast", "off", "off", "fast"]
    assert {trial.completion_tokens for trial in found} == {12, 20}  # the shorter prompt has no more words
    off, fast, slow = standings(found, paces)
    assert (off.gain, off.pays) == (1.0, False)
    assert fast.gain == pytest.approx(2, rel=0.01)
    assert slow.gain == pytest.approx(0.8, rel=0.01)
    assert (fast.agreed, fast.answers, fast.given_up) == (4, 4, False)
    assert (slow.agreed, slow.answers, slow.given_up) == (2, 2, True)
    assert winner([off, fast, slow]) is fast
    assert winner([off, slow]) is None


@pytest.mark.parametrize(
    ("paces", "tried"),
    [
        ({"off": 10, "a": 5.0, "b": 5.2}, ["b", "a", "off", "off", "a", "b"]),
        ({"off": 10, "a": 5.0, "b": 6.0}, ["b", "a", "off", "off", "a"]),
        ({"off": 10, "a": 10.6, "b": 13}, ["b", "a", "off", "off", "a"]),
    ],
    ids=["near", "behind another", "behind the first"],
)
def test_what_is_clearly_worse_is_given_up_early(
    paces: dict[str, float], tried: list[str], source: ModelSource
) -> None:
    engine = _Paced(Capabilities(seed=True))
    candidates = {name: EngineSettings(prefill_chunk=round(100 * pace)) for name, pace in paces.items()}
    found = list(calibrate(engine, source, candidates, runs=2, tokens=20))
    assert [trial.candidate for trial in found[::2]] == tried


def test_what_was_given_up_never_wins() -> None:
    found = [*rates("off", 10, 10), *rates("a", 20, 20), *rates("b", 15, 15), *rates("off", 10, 10), *rates("a", 9, 9)]
    _, _, given_up = standings(found, ["off", "a", "b"])
    assert given_up.gain > 1.1
    assert given_up.given_up
    assert not given_up.pays


def trial(candidate: str, prompt: str, rate: float, text: str = "same") -> Trial:
    return Trial(
        candidate=candidate,
        prompt=prompt,
        rate=rate,
        text=text,
        completion_tokens=10,
        proposed_tokens=0,
        accepted_tokens=0,
    )


def rates(name: str, free: float, repeating: float) -> Iterator[Trial]:
    yield trial(name, "free", free)
    yield trial(name, "repeating", repeating)


@pytest.mark.parametrize(
    ("free", "repeating", "pays"), [(10, 13, True), (9.6, 20, True), (9.4, 40, False), (10.3, 10.3, False)]
)
def test_a_gain_must_be_real_and_no_prompt_slower(free: float, repeating: float, pays: bool) -> None:
    found = [*rates("off", 10, 10), *rates("lookup", free, repeating)]
    assert standings(found, ["off", "lookup"])[1].pays is pays


def test_a_gain_within_the_noise_is_none() -> None:
    names = ["off", "lookup"]
    noisy = [*rates("off", 10, 10), *rates("lookup", 14, 9), *rates("off", 10, 20), *rates("lookup", 9.9, 25)]
    assert standings(noisy, names)[1].gain > 1.1
    assert not standings(noisy, names)[1].pays
    steady = [*rates("off", 10, 10), *rates("lookup", 12, 11), *rates("off", 11, 10), *rates("lookup", 13, 12)]
    assert standings(steady, names)[1].ahead == ("free", "repeating")
    assert standings(steady, names)[1].pays


def test_answers_that_differ_are_counted_and_those_of_one_token_have_no_speed() -> None:
    found = [*rates("off", 10, 10), *rates("lookup", 12, 12)]
    names = ["off", "lookup"]
    other = standings([*found[:3], replace(found[3], text="else")], names)[1]
    assert (other.agreed, other.answers) == (1, 2)
    short = standings([*found[:3], replace(found[3], rate=0.0)], names)
    assert [list(standing.gains) for standing in short] == [["free"], ["free"]]
    nothing = standings([replace(one, rate=0.0) for one in found], names)
    assert winner(nothing) is None
