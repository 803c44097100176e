"""What is computed once: the first token of a second turn, of a second process, and what a constraint costs a token."""

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from _machine import circumstances, load_afterwards
from _measure import Sample, alternate, clean_environment
from _report import Goal, Report, Row, add_arguments, add_model, publish

if TYPE_CHECKING:
    from metalchat_engine import Constraint, Message, Model, Timings

SENTENCE = "Chapter {0}: the ferry left the harbour of the island at {0} minutes past nine, and nobody waved."
QUESTION = "Which chapter did you like best?"
STORY = "Write a short story about a dog."
SCHEMA = {"type": "array", "items": {"type": "string", "maxLength": 40}, "minItems": 40}
PACKAGES = ("metalchat-engine-mlx", "mlx", "numpy", "llguidance")
WARM_UP = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    add_model(parser)
    parser.add_argument("--history-tokens", type=int, metavar="N", help="what a second turn or process has read (2000)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--states", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.gguf is None:
        parser.error("name a model with --gguf")
    tokens = arguments.history_tokens or (300 if arguments.quick else 2000)
    if arguments.side:
        with _loaded(arguments.gguf, arguments.states) as model:
            print(json.dumps(SIDES[arguments.side](model, tokens)))
        return
    facts = circumstances(PACKAGES)

    def run(side: str) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as states:
            command = [sys.executable, __file__, "--side", side, "--gguf", arguments.gguf]
            command += ["--history-tokens", str(tokens), "--states", states]
            for _ in range(2 if side == "processes" else 1):
                done = subprocess.run(
                    command, env=clean_environment(), stdout=subprocess.PIPE, text=True, check=True
                ).stdout
                found.setdefault(side, []).append(json.loads(done.splitlines()[-1]))
        return found[side][-1]

    found: dict[str, list[dict[str, float]]] = {}
    alternate(
        {side: partial(run, side) for side in SIDES}, runs=arguments.runs or (1 if arguments.quick else 3), warm_up=0
    )
    facts["load afterwards"] = load_afterwards()
    notes = [
        f"model {arguments.gguf.name}, greedy; a history of {tokens} tokens or a few more",
        "first token: from the request to it; the model is loaded, and has answered something short",
        "constrained: tokens a second after the first; a grammar that allows everything gives the same tokens",
    ]
    publish(Report(name="reuse", facts=facts, notes=notes, rows=_rows(found)), arguments)


def turns(model: "Model", tokens: int) -> dict[str, float]:
    """Seconds to the first token of a conversation's first answer and of its second."""
    from metalchat_engine import Message

    asked = (Message.user(_long(model, tokens)),)
    first, said = _answer(model, asked, 8)
    second, _ = _answer(model, (*asked, Message.assistant(said), Message.user(QUESTION)), 1)
    return {"first": first.prefill_seconds, "second": second.prefill_seconds}


def processes(model: "Model", tokens: int) -> dict[str, float]:
    """Seconds to the first token behind a long system prompt; the state is saved as the model is closed."""
    from metalchat_engine import Message

    found, _ = _answer(model, (Message.system(_long(model, tokens)), Message.user(QUESTION)), 1)
    return {"first": found.prefill_seconds}


def constrained(model: "Model", _tokens: int) -> dict[str, float]:
    """Tokens a second: free, under a regular expression that allows everything, and as JSON of a schema."""
    from metalchat_engine import JsonSchema, Message, Regex

    kinds: dict[str, Constraint | None] = {
        "free": None,
        "anything": Regex(pattern=r"[\s\S]*"),
        "schema": JsonSchema(schema=SCHEMA),
    }
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(4):
        for kind, constraint in kinds.items():
            found, _ = _answer(model, (Message.user(STORY),), 48, constraint)
            if turn:  # the first compiles the grammar
                rates[kind].append(47 / found.decode_seconds)
    return {kind: max(found) for kind, found in rates.items()}


SIDES = {"turns": turns, "processes": processes, "constrained": constrained}


def _loaded(gguf: Path, states: Path | None) -> "Model":
    from metalchat_engine import EngineSettings, Message, ModelSource
    from metalchat_engine_mlx import MlxEngine

    model = MlxEngine().load(ModelSource(path=gguf), EngineSettings(state_directory=states))
    _answer(model, (Message.user("Hello"),), WARM_UP)
    return model


def _long(model: "Model", tokens: int) -> str:
    from metalchat_engine import Message, SupportsTokenCount

    if not isinstance(model, SupportsTokenCount):
        raise TypeError("the engine counts tokens")
    text, number = "", 0
    while model.count_tokens((Message.user(text),)) < tokens:
        text += " ".join(SENTENCE.format(number + each) for each in range(4)) + " "
        number += 4
    return text


def _answer(
    model: "Model", messages: "tuple[Message, ...]", limit: int, constraint: "Constraint | None" = None
) -> "tuple[Timings, str]":
    from metalchat_engine import GenerationRequest, Sampling, measure

    sampling = Sampling(temperature=0)
    request = GenerationRequest(messages=messages, sampling=sampling, max_tokens=limit, constraint=constraint)
    (found,) = measure(model, [request]).answers
    return found.finish.timings, found.text


def _rows(found: dict[str, list[dict[str, float]]]) -> list[Row]:
    def taken(side: str, name: str, place: int = 0, step: int = 1) -> Sample:
        return Sample(values=tuple(run[name] for run in found[side][place::step]))

    first = partial(Row, unit="s", digits=3)
    rate = partial(Row, unit="tok/s", peer_name="free", peer=taken("constrained", "free"))
    return [
        first(
            measure="first token of the second turn",
            ours=taken("turns", "second"),
            peer_name="of the first turn",
            peer=taken("turns", "first"),
            goal=Goal(kind="ratio at most", value=0.05),
        ),
        first(
            measure="first token of the second process",
            ours=taken("processes", "first", 1, 2),
            peer_name="of the first process",
            peer=taken("processes", "first", 0, 2),
            goal=Goal(kind="ratio at most", value=0.2),
        ),
        rate(
            measure="a constraint that allows everything",
            ours=taken("constrained", "anything"),
            goal=Goal(kind="ratio at least", value=0.9),
        ),
        rate(
            measure="JSON of a schema",
            ours=taken("constrained", "schema"),
            goal=Goal(kind="ratio at least", value=0.9),
        ),
    ]


if __name__ == "__main__":
    main()
