"""A benchmark's result: rows with a goal each, as a table, as JSON, and in the README."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from _measure import Sample

README = Path(__file__).resolve().with_name("README.md")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """`value` bounds ours divided by the peer's figure, or (`within`) ours less the peer's, in the row's unit."""

    kind: Literal["ratio at most", "ratio at least", "within"]
    value: float

    def met(self, ours: float, peer: float) -> bool:
        if self.kind == "within":
            return ours - peer <= self.value
        return ours / peer <= self.value if self.kind == "ratio at most" else ours / peer >= self.value

    def text(self, unit: str) -> str:
        if self.kind == "within":
            return f"at most {self.value:g} {unit} more"
        return f"{'≤' if self.kind == 'ratio at most' else '≥'} {self.value:g}x"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measure of ours beside a peer's. Without a goal it is there to be known."""

    measure: str
    unit: str
    ours: Sample
    peer_name: str
    peer: Sample
    goal: Goal | None = None
    digits: int = 1

    @property
    def met(self) -> bool | None:
        return None if self.goal is None else self.goal.met(self.ours.median, self.peer.median)

    @property
    def ratio(self) -> float:
        return self.ours.median / self.peer.median

    def cells(self) -> list[str]:
        difference = self.ours.median - self.peer.median
        compared = f"{self.ratio:.2f}x"
        if self.goal is not None and self.goal.kind == "within":
            compared += f", {difference:+.{self.digits}f} {self.unit}"
        return [
            self.measure,
            self._figure(self.ours),
            self.peer_name,
            self._figure(self.peer),
            compared,
            "" if self.goal is None else self.goal.text(self.unit),
            _said(self.met),
        ]

    def record(self) -> dict[str, object]:
        return {
            "measure": self.measure,
            "unit": self.unit,
            "ours": _record(self.ours),
            "peer": self.peer_name,
            "peers": _record(self.peer),
            "ratio": self.ratio,
            "goal": None if self.goal is None else {"kind": self.goal.kind, "value": self.goal.value},
            "met": self.met,
        }

    def _figure(self, sample: Sample) -> str:
        low, high = sample.quartiles
        text = f"{sample.median:.{self.digits}f}"
        if len(sample.values) > 1:
            text += f" ({low:.{self.digits}f} to {high:.{self.digits}f})"
        return f"{text} {self.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A fact that holds or does not: what was found where `wanted` is the goal."""

    measure: str
    found: str
    wanted: str
    met: bool | None

    def cells(self) -> list[str]:
        return [self.measure, self.found, "", "", "", self.wanted, _said(self.met)]

    def record(self) -> dict[str, object]:
        return {"measure": self.measure, "found": self.found, "goal": self.wanted, "met": self.met}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that one benchmark found. `notes` say how; `facts` are the circumstances."""

    name: str
    facts: Mapping[str, str]
    notes: Sequence[str]
    rows: Sequence[Row | Check]

    def markdown(self) -> str:
        head = ["measure", "metalchat", "peer", "peer's figure", "ratio", "goal", "met"]
        table = [head, *(row.cells() for row in self.rows)]
        widths = [max(len(line[column]) for line in table) for column in range(len(head))]
        lines = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
        lines.insert(1, " | ".join("-" * width for width in widths))
        parts = [f"| {line} |" for line in lines]
        parts += ["", self.verdict(), ""]
        parts += [f"- {note}" for note in self.notes]
        parts += [f"- {key}: {value}" for key, value in self.facts.items()]
        return "\n".join(parts)

    def verdict(self) -> str:
        """How many goals are met, and which are not."""
        judged = [row for row in self.rows if row.met is not None]
        missed = [row.measure for row in judged if not row.met]
        text = f"{len(judged) - len(missed)} of {len(judged)} goals met."
        return f"{text} NOT MET: {'; '.join(missed)}." if missed else text

    def json(self) -> str:
        record = {
            "benchmark": self.name,
            "circumstances": dict(self.facts),
            "notes": list(self.notes),
            "rows": [row.record() for row in self.rows],
        }
        return json.dumps(record, indent=2) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="few runs and small inputs: shows that it works, no more")
    parser.add_argument("--runs", type=int, metavar="N", help="runs of each program")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every value of every run there")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep what is slow to make there")


def add_model(parser: argparse.ArgumentParser) -> None:
    """`--gguf`, the file of a model, or what METALCHAT_TEST_SMOLLM2 names; None where nothing does."""
    named = os.environ.get("METALCHAT_TEST_SMOLLM2")
    parser.add_argument("--gguf", type=Path, metavar="PATH", default=named, help="the model ($METALCHAT_TEST_SMOLLM2)")


def publish(report: Report, arguments: argparse.Namespace) -> None:
    """Print the report, and put it where the options say."""
    print(report.markdown())
    if arguments.json is not None:
        arguments.json.write_text(report.json(), encoding="utf-8")
    if arguments.write:
        README.write_text(_replaced(README.read_text(encoding="utf-8"), report), encoding="utf-8")


def _replaced(text: str, report: Report) -> str:
    begin, end = f"<!-- {report.name}: written by --write -->\n", f"<!-- end of {report.name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{README} has no place for the table of '{report.name}'")
    return f"{before}{begin}\n{report.markdown()}\n\n{end}{after}"


def _record(sample: Sample) -> dict[str, object]:
    return {"median": sample.median, "quartiles": sample.quartiles, "values": sample.values}


def _said(met: bool | None) -> str:
    return "" if met is None else "yes" if met else "NO"
