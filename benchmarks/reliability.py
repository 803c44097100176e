"""What a pull survives: kills, failing calls, lost writes, crowds, bad networks and answers, wrong clocks, damage."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from _machine import ROOT, circumstances, load_afterwards
from _report import Check, Report, publish
from _store_scenarios import OURS, PEER, cases, play

TESTS = ROOT / "packages" / "metalchat-store" / "tests"
PACKAGES = ("metalchat-store", "metalchat-cli", "huggingface_hub", "httpx")
ERRNOS = 6
Facts = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside(Check):
    """What both clients do on one bad day."""

    peer: str

    def cells(self) -> list[str]:
        return [self.measure, self.found, "huggingface_hub", self.peer, "", self.wanted, _said(self.met)]

    def record(self) -> dict[str, object]:
        return {"measure": self.measure, "found": self.found, "peer": self.peer, "goal": self.wanted, "met": self.met}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One program of the harness, what it is to show, and how its facts are told.

    `alone`: it has time limits, so that nothing else is run beside it.
    """

    measure: str
    program: str
    arguments: tuple[object, ...]
    wanted: str
    tell: Callable[[Facts], str]
    alone: bool = False
    more: Callable[[Facts], bool] = lambda _: True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small part of everything: shows that it works")
    parser.add_argument("--seeds", type=int, metavar="N", help="random kills (1000)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="where the random choices begin (1)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="programs at once, but for what is timed (1)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every fact of every part there")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    arguments = parser.parse_args()
    facts = circumstances(PACKAGES)
    facts["seeds"] = f"from {arguments.seed} on"
    rows: list[Check] = []
    requests = leaks = 0
    with tempfile.TemporaryDirectory(prefix="metalchat-reliability-") as folder:
        for part, found in run_all(
            parts(arguments.quick, arguments.seeds, arguments.seed), Path(folder), arguments.jobs
        ):
            wrong = found.get("wrong_count", 1)
            requests += int(str(found.get("requests", 0)))
            leaks += "token" in str(found.get("wrong"))
            met = wrong == 0 and part.more(found)
            rows.append(Check(measure=part.measure, found=told(part, found), wanted=part.wanted, met=met))
        rows.append(
            Check(
                measure="the token at a foreign server, in a file or in an error",
                found=f"{leaks} times in {requests:,} requests",
                wanted="0",
                met=leaks == 0,
            )
        )
        for case in cases(quick=arguments.quick):
            ours, peer = play(case, OURS, Path(folder)), play(case, PEER, Path(folder))
            met = re.search(case.wanted, ours) is not None
            rows.append(Beside(measure=case.name, found=ours, peer=peer, wanted="", met=met))
            say(f"{case.name}: {ours} | {peer}")
    facts["load afterwards"] = load_afterwards()
    notes = [
        "rows with a peer: `metalchat model pull` and `hf download` of 40 MB, the same fake hub, one after the other",
        "the power failure is simulated: calls are recorded, and states built that their order allows",
        "NOT RUN: a real power cut, macOS and APFS, network file systems, the real hub",
    ]
    if arguments.quick:
        notes.insert(0, "QUICK: a small part of everything")
    publish(Report(name="reliability", facts=facts, notes=notes, rows=rows), arguments)
    if not all(row.met for row in rows):
        sys.exit(1)


def parts(quick: bool, seeds: int | None, seed: int) -> list[Part]:
    """Everything that only metalchat has to show."""
    kills = seeds if seeds is not None else 20 if quick else 1000
    step = 25 if quick else 1
    scenarios = ("first", "parts", "update", "folder", "shared")
    found = [
        Part(
            measure="kill -9 at a random moment of a pull",
            program="harness/kills.py",
            arguments=(seed, kills),
            wanted="0 half models, 0 files left, ≥ 90% resumed",
            tell=lambda f: f"{f['runs']} pulls, {f['killed']} killed; resumed {_percent(f['resumed'])} (median)",
            more=lambda f: f["resumed"] is None or float(str(f["resumed"])) >= 0.9,
        )
    ]
    found += [
        Part(
            measure=f"kill at the k-th call, {name}",
            program="fault_sweep.py",
            arguments=("kill", name, 1, step),
            wanted="0 half models, 0 files left",
            tell=lambda f: f"{f['reached']} kills",
        )
        for name in scenarios
    ]
    found += [
        Part(
            measure=f"k-th call fails, {ERRNOS} errnos, {name}",
            program="fault_sweep.py",
            arguments=("errno", name, 1, step),
            wanted="1 line each, 0 files left",
            tell=lambda f: f"{f['reached']} failures",
        )
        for name in scenarios
    ]
    found += [
        Part(
            measure=f"{processes} processes, {words}",
            program="harness/crowd.py",
            arguments=(kind, processes, seed),
            wanted=wanted,
            tell=tell,
        )
        for kind, words, wanted, tell in (
            ("locks", "one model", "all right, 1 body a file", lambda f: f"{f['most_bodies']} body a file"),
            ("nolocks", "locks broken", "all right", lambda f: f"at most {f['most_bodies']} bodies a file"),
            ("stops", "stopped, continued, killed", "the others all right", lambda f: f"{f['killed']} killed"),
            ("history", "pull, open, remove, collect", "no impossible history", lambda f: f"{f['events']} events"),
        )
        for processes in ((8,) if quick else (32,))
    ]
    found += [
        Part(
            measure="power failure, simulated",
            program="harness/power.py",
            arguments=(seed, 1 if quick else 3, 20 if quick else 1),
            wanted="0 wrong contents, 0 half models",
            tell=lambda f: f"{f['states']} states of {f['calls']} calls",
        ),
        Part(
            measure="every network fault at every request",
            program="harness/network.py",
            alone=True,
            arguments=(seed, 40 if quick else 1),
            wanted="a model or 1 line, ≤ 8 s",
            tell=lambda f: (
                f"{f['cases']} pulls, {f['faults']} faults, {f['places']} requests, slowest "
                f"{float(str(f['slowest'])):.1f} s: {_counts(f['outcomes'])}"
            ),
            more=lambda f: float(str(f["slowest"])) <= 8,
        ),
        Part(
            measure="malformed answers of a hub",
            program="harness/answers.py",
            alone=True,
            arguments=(seed, 2_000 if quick else 20_000),
            wanted="1 line each, ≤ 5 s",
            tell=lambda f: f"{f['cases']}, slowest {float(str(f['slowest'])):.2f} s",
            more=lambda f: float(str(f["slowest"])) <= 5,
        ),
        Part(
            measure="wrong and jumping clocks",
            program="harness/clocks.py",
            arguments=(),
            wanted="no difference",
            tell=lambda f: f"{f['cases']} pulls",
        ),
        Part(
            measure="one flipped bit, and other damage",
            program="harness/flips.py",
            arguments=(seed, 300 if quick else 10_000),
            wanted="all found",
            tell=lambda f: f"{f['flips']} flips, {f['structural']} other damages",
        ),
    ]
    return found


def run_all(parts: Sequence[Part], folder: Path, jobs: int) -> Iterator[tuple[Part, Facts]]:
    """The parts with their facts, in order."""

    def one(number: int) -> Facts:
        place = folder / str(number)
        place.mkdir()
        found, seconds = run(parts[number], place)
        say(f"{parts[number].measure}: {told(parts[number], found)} ({seconds:.0f} s)")
        return found

    with ThreadPoolExecutor(jobs) as pool:
        together = {number: pool.submit(one, number) for number, part in enumerate(parts) if not part.alone}
    for number, part in enumerate(parts):
        yield part, together[number].result() if number in together else one(number)


def told(part: Part, found: Facts) -> str:
    """What a part has shown, and what must not be."""
    wrong = found.get("wrong_count", 1)
    text = part.tell(found) if "wrong" in found else "it did not end"
    return f"{text}; {wrong} WRONG: {found.get('wrong')}" if wrong else text


def run(part: Part, place: Path) -> tuple[Facts, float]:
    """The facts that a program printed, and how long it took."""
    words = [str(argument) for argument in part.arguments]
    if part.program == "harness/answers.py":
        pass
    elif part.program == "fault_sweep.py":
        words.insert(2, str(place))
    elif part.program == "harness/crowd.py":
        words.insert(1, str(place))
    else:
        words.insert(0, str(place))
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", TESTS / part.program, *words],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith(("HF_", "METALCHAT_"))},
    )
    seconds = time.monotonic() - started
    if done.returncode:
        say(done.stderr[-2000:])
        return {}, seconds
    facts = json.loads(done.stdout)
    return facts | {"wrong_count": len(facts["wrong"])} | facts, seconds


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _percent(share: object) -> str:
    return "nothing" if share is None else f"{float(str(share)):.0%}"


def _counts(outcomes: object) -> str:
    items = outcomes.items() if isinstance(outcomes, dict) else ()
    return ", ".join(f"{count} {name}" for name, count in sorted(items, key=lambda item: -item[1]))


def _said(met: bool | None) -> str:
    return "" if met is None else "yes" if met else "NO"


if __name__ == "__main__":
    main()
