"""The code blocks of a Markdown document, and whether what a command said is what the document shows.

A block that cannot be run stands below a comment that says why:

    <!-- not run: it needs a microphone -->
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+?) -->\n+)?^```(?P<language>[a-z]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_FILE = re.compile(r"# (?P<name>[\w./-]+\.\w+)\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """`reason` says why it is not run. `file` is the name in the comment of its first line, if there is one."""

    line: int
    language: str
    text: str
    reason: str | None
    file: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A command of a console block, and the lines below it; `...` in them stands for anything."""

    command: str
    shown: str


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        file = _FILE.match(match["text"])
        found.append(
            Block(
                line=text.count("\n", 0, match.start("text")) + 1,
                language=match["language"],
                text=match["text"],
                reason=match["reason"],
                file=None if file is None else file["name"],
            )
        )
    return found


def steps(block: Block) -> Iterator[Step]:
    assert block.text.startswith("$ "), f"line {block.line}: a console block begins with a command"
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines(keepends=True)
        count = 1
        while lines[count - 1].endswith("\\\n"):
            count += 1
        yield Step(command="".join(lines[:count]).rstrip("\n"), shown="".join(lines[count:]))


def fits(shown: str, said: str) -> bool:
    """Whether `said` is what `shown` promises, blanks at the ends of lines and an empty end aside."""
    pattern = r"(?s:.*?)".join(re.escape(piece) for piece in _trimmed(shown).split("..."))
    return re.fullmatch(pattern, _trimmed(said)) is not None


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())
