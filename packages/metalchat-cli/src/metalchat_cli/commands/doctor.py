"""`metalchat doctor`: what this installation has, what is wrong with it, and what to do about it."""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metalchat_cli import __version__, terminal
from metalchat_cli.home import credentials, home, store

Level = Literal["ok", "warning", "problem"]
MARKS: dict[Level, str] = {"ok": "ok     ", "warning": "warning", "problem": "problem"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fact about the installation."""

    level: Level
    subject: str
    text: str


def doctor(*, json: bool = False) -> int:
    """Check this installation and say what to mend. Exits with 1 if there is a problem.

    Parameters
    ----------
    json
        Print JSON.
    """
    findings = [finding for check in CHECKS for finding in _guarded(check)]
    if json:
        terminal.json_line([{"level": f.level, "subject": f.subject, "text": f.text} for f in findings])
    else:
        for finding in findings:
            terminal.row(MARKS[finding.level], finding.subject, finding.text)
    return 1 if any(finding.level == "problem" for finding in findings) else 0


def _guarded(check: "Callable[[], Iterator[Finding]]") -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - a check that fails is a finding, whatever failed
        from metalchat_cli.errors import describe

        yield Finding(level="problem", subject=check.__name__, text=describe(error))


def machine() -> Iterator[Finding]:
    yield Finding(
        level="ok",
        subject="metalchat",
        text=f"{__version__}, Python {platform.python_version()} at {sys.executable}, {platform.platform()}",
    )


def directory() -> Iterator[Finding]:
    where = home()
    place = where
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        yield Finding(level="problem", subject="home", text=f"{where} cannot be written. Set METALCHAT_HOME")
        return
    free = shutil.disk_usage(place).free / 1e9
    level: Level = "ok" if free >= 1 else "warning"
    yield Finding(level=level, subject="home", text=f"{where}, {free:.1f} GB free")


def models() -> Iterator[Finding]:
    entries = store().list()
    yield Finding(level="ok", subject="store", text=f"{len(entries)} models")
    for entry in entries:
        if entry.damaged is not None:
            text = f"model '{entry.id}' is damaged: {entry.damaged}. Pull it again, or remove it"
            yield Finding(level="problem", subject="store", text=text)


def manifests() -> Iterator[Finding]:
    from metalchat_manifest import Manifest, find_local, resolve

    local = find_local(Path.cwd(), home=Path(os.environ.get("HOME", "/")))
    for path in (home() / "metalchat.toml", local):
        if path is None or not path.is_file():
            continue
        for unknown in Manifest.read(path).unknown:
            text = f"{path} line {unknown.line}: '{unknown.key}' is not known and has no effect"
            yield Finding(level="warning", subject="manifest", text=text)
    model = resolve(home=home(), directory=Path.cwd(), environ=os.environ).model
    text = model.repository if model else "no model is checked out. Run 'metalchat quickstart'"
    yield Finding(level="ok" if model else "warning", subject="checkout", text=text)


def engines() -> Iterator[Finding]:
    from metalchat_engine import EngineError, load_engine
    from metalchat_engine import engines as found

    points = found()
    if not points:
        yield Finding(level="problem", subject="engine", text="none is installed. pip install metalchat-engine-mlx")
    for point in points:
        try:
            load_engine(point.name)
        except EngineError as error:
            yield Finding(level="problem", subject="engine", text=f"{point.name}: {error}")
        else:
            yield Finding(level="ok", subject="engine", text=f"{point.name} ({point.distribution} {point.version})")


def secrets() -> Iterator[Finding]:
    kept = credentials().list()
    yield Finding(level="ok", subject="credentials", text=f"{len(kept)} kept")


CHECKS = (machine, directory, manifests, models, engines, secrets)
