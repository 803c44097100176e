"""`metalchat doctor`: what this installation has, what is wrong with it, and what to do about it."""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from metalchat_cli import __version__, errors, home, session, sizes, terminal

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
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a check that fails is a finding, whatever failed
        text = errors.describe(error).removeprefix("metalchat: error: ")
        yield Finding(level="problem", subject=check.__name__, text=text)


def machine() -> Iterator[Finding]:
    yield Finding(
        level="ok",
        subject="metalchat",
        text=f"{__version__}, Python {platform.python_version()} at {sys.executable}, {platform.platform()}",
    )


def directory() -> Iterator[Finding]:
    where = home.home()
    place = where
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        yield Finding(level="problem", subject="home", text=f"{where} cannot be written. Set {home.HOME_VARIABLE}")
        return
    free = shutil.disk_usage(place).free / 1e9
    level: Level = "ok" if free >= 1 else "warning"
    yield Finding(level=level, subject="home", text=f"{where}, {free:.1f} GB free")


def models() -> Iterator[Finding]:
    entries = home.store().list()
    count = sizes.count_text(len(entries), "model")
    yield Finding(level="ok", subject="store", text=count)
    for entry in entries:
        if entry.damaged is not None:
            text = f"model '{entry.id}' is damaged: {entry.damaged}. Pull it again, or remove it"
            yield Finding(level="problem", subject="store", text=text)


def manifests() -> Iterator[Finding]:
    resolved = home.settings()
    for manifest in resolved.manifests.values():
        for unknown in manifest.unknown:
            text = f"{manifest.path} line {unknown.line}: '{unknown.key}' is not a key that metalchat knows"
            yield Finding(level="warning", subject="manifest", text=text)
    for each in resolved.ignored:
        origin = each.setting.origin
        where = f"{origin.path} line {origin.line}: " if origin.path else ""
        text = f"{where}'{each.setting.key}' is not in force here: {each.reason}"
        yield Finding(level="warning", subject="manifest", text=text)
    model = resolved.model
    if model is None:
        text = "no model is checked out. Run 'metalchat quickstart'"
        yield Finding(level="warning", subject="checkout", text=text)
        return
    from metalchat_store import ModelNotFound

    try:
        home.store().find(model.id)
    except ModelNotFound:
        text = f"{model.repository} is not in the store. To fetch it: {home.pull_command(model)}"
        yield Finding(level="problem", subject="checkout", text=text)
    else:
        yield Finding(level="ok", subject="checkout", text=model.repository)


def engines() -> Iterator[Finding]:
    from metalchat_engine import EngineError, EngineSettings, SupportsDiagnosis, load_engine
    from metalchat_engine import engines as found
    from metalchat_manifest import Value
    from metalchat_store import ModelNotFound

    try:
        chosen, table = session.engine_table(home.settings())
    except ModelNotFound as error:
        yield Finding(level="problem", subject="engine", text=f"'draft' of [engine]: {error}")
        chosen, table = "", dict[str, Value]()
    points = {point.name: point for point in found() if point.allowed}
    if not points:
        yield Finding(level="problem", subject="engine", text="none is installed. pip install metalchat-engine-mlx")
    for point in points.values():
        lines: Sequence[str] = ()
        try:
            engine = load_engine(point.name)
            if isinstance(engine, SupportsDiagnosis):
                lines = engine.diagnose(EngineSettings(extra=table if point.name == chosen else {}))
        except EngineError as error:
            yield Finding(level="problem", subject="engine", text=f"{point.name}: {error}")
        else:
            yield Finding(level="ok", subject="engine", text=f"{point.name} ({point.distribution} {point.version})")
        for line in lines:
            yield Finding(level="ok", subject="engine", text=f"{point.name}: {line}")


def weights() -> Iterator[Finding]:
    """How what is checked out would be loaded, where its engine has a choice, and whether it fits."""
    from metalchat_engine import EngineError, SupportsMemoryEstimate
    from metalchat_store import ModelNotFound

    try:
        engine, source, settings = session.engine_for(home.settings())
    except (errors.NotCheckedOut, ModelNotFound):
        return  # that is another finding
    if not isinstance(engine, SupportsMemoryEstimate):
        return
    try:
        found = engine.estimate(source, settings)
    except EngineError as error:
        yield Finding(level="problem", subject="weights", text=f"{source.name}: {error}")
        return
    if found.fits is False and not found.largest_context:
        needed, left = sizes.size_text(found.total), sizes.size_text(found.available or 0)
        text = f"{source.name} needs {needed} of memory, and {left} are left"
        yield Finding(level="warning", subject="weights", text=text)
    elif found.reason is not None:
        yield Finding(level="ok", subject="weights", text=f"{source.name}: {found.reason}")


def secrets() -> Iterator[Finding]:
    found = home.credentials()
    yield Finding(level="ok", subject="credentials", text=f"{len(found.list())} kept")
    for notice in found.notices:
        yield Finding(level="warning", subject="credentials", text=notice)


def commands() -> Iterator[Finding]:
    from metalchat_cli import app, extensions

    for point in extensions.points(app.COMMANDS):
        yield Finding(level="ok", subject="command", text=f"{point.name} ({point.distribution} {point.version})")


CHECKS = (machine, directory, manifests, models, engines, weights, secrets, commands)
