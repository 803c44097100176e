"""How long `metalchat` takes to start, beside bare Python and an empty program of the same argument parser."""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from _machine import circumstances, load_afterwards
from _measure import Sample, Spent, alternate, cache_directory, clean_environment, script, spent
from _report import Check, Goal, Report, Row, add_arguments, publish

HEAVY = ("mlx", "httpx", "keyring", "tokenizers", "jinja2")
EMPTY = """\
import cyclopts
app = cyclopts.App(name="empty", version="1", help_format="plaintext")
@app.default
def main(): pass
app()
"""
PACKAGES = ("metalchat-cli", "metalchat-store", "metalchat-manifest", "cyclopts", "rich")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--models", type=int, metavar="N", help="models in the store that is listed (1000)")
    arguments = parser.parse_args()
    runs = arguments.runs or (3 if arguments.quick else 20)
    models = arguments.models or (100 if arguments.quick else 1000)
    cache = (arguments.cache or cache_directory()).absolute()
    home = filled_store(cache / f"store-{models}", models)
    facts = circumstances(PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        empty = directory / "empty.py"
        empty.write_text(EMPTY, encoding="utf-8")
        environment = clean_environment(METALCHAT_HOME=str(home))
        python, metalchat = sys.executable, script("metalchat")
        commands = {
            "bare": [python, "-c", "pass"],
            "version": [metalchat, "--version"],
            "empty help": [python, str(empty), "--help"],
            "help": [metalchat, "--help"],
            "empty": [python, str(empty)],
            "list": [metalchat, "model", "list"],
        }
        check_listing(commands["list"], environment, directory, models)
        timed: dict[str, Callable[[], Spent]] = {
            name: partial(spent, command, environment=environment, directory=directory)
            for name, command in commands.items()
        }
        rows: list[Row | Check] = [*duration_rows(alternate(timed, runs=runs), models)]
        for name in ("version", "help", "list"):
            imported = heavy_imports(commands[name], environment, directory)
            rows.append(
                Check(
                    measure=f"heavy imports of metalchat {' '.join(commands[name][1:])}",
                    found=", ".join(imported) or "none",
                    wanted=f"none of {', '.join(HEAVY)}",
                    met=not imported,
                )
            )
    facts["load afterwards"] = load_afterwards()
    notes = [
        f"{runs} runs of each program in turn, after one that is not counted; wall time of the whole process, "
        "median (first to third quartile)",
        "the installed `metalchat` script; bytecode is cached for both sides; plain-text help on both sides",
    ]
    publish(Report(name="startup", facts=facts, notes=notes, rows=rows), arguments)


def duration_rows(found: Mapping[str, Sequence[Spent]], models: int) -> Iterator[Row]:
    """Wall time with its goals, then processor time, which others on the machine change less."""
    pairs = [
        ("version", "metalchat --version", "bare", "python -c pass", Goal(kind="within", value=50)),
        (
            "help",
            "metalchat --help",
            "empty help",
            "--help of an empty cyclopts program",
            Goal(kind="ratio at most", value=1.25),
        ),
        (
            "list",
            f"metalchat model list, {models} models",
            "empty",
            "an empty cyclopts program",
            Goal(kind="within", value=200),
        ),
    ]
    for judged in (True, False):
        for ours, measure, theirs, peer, goal in pairs:
            yield Row(
                measure=measure if judged else f"processor time of {measure}",
                unit="ms",
                ours=milliseconds(found[ours], wall=judged),
                peer_name=peer,
                peer=milliseconds(found[theirs], wall=judged),
                goal=goal if judged else None,
            )


def milliseconds(runs: Sequence[Spent], *, wall: bool) -> Sample:
    return Sample(values=tuple((run.wall if wall else run.processor) * 1000 for run in runs))


def filled_store(home: Path, count: int) -> Path:
    """A home whose store holds `count` small models, each pulled; made once and kept. Takes a minute or two."""
    from metalchat_store import Store
    from metalchat_store.testing import MemoryRemote
    from metalchat_store.testing.memory import tiny_model

    remote = MemoryRemote(files=tiny_model(size=1000))
    store = Store(home, environ={}, remotes={"memory": lambda: remote})
    kept = {entry.spec.repository for entry in store.list() if entry.spec is not None and entry.damaged is None}
    wanted = [f"memory://models/organisation/model-{number:04}" for number in range(count)]
    missing = [repository for repository in wanted if repository not in kept]
    if missing:
        print(f"Pulling {len(missing)} small models into {home} ...", file=sys.stderr)
    for repository in missing:
        store.pull(repository)
    return home


def check_listing(command: list[str], environment: dict[str, str], directory: Path, count: int) -> None:
    """Raises RuntimeError where the listing is not what is to be timed."""
    listed = subprocess.run(command, env=environment, cwd=directory, capture_output=True, text=True, check=True)
    lines = listed.stdout.splitlines()
    if len(lines) != count or any("damaged" in line for line in lines):
        raise RuntimeError(f"{' '.join(command)} lists {len(lines)} models where {count} whole ones were pulled")


def heavy_imports(command: list[str], environment: dict[str, str], directory: Path) -> list[str]:
    """Which of HEAVY the command imported, told by Python itself."""
    told = subprocess.run(
        command,
        env=environment | {"PYTHONPROFILEIMPORTTIME": "1"},
        cwd=directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    ).stderr
    imported = {line.rpartition("|")[2].strip() for line in told.splitlines() if line.startswith("import time:")}
    if "metalchat_cli" not in imported:
        raise RuntimeError(f"{' '.join(command)} did not tell what it imports")
    return [name for name in HEAVY if any(f"{module}.".startswith(f"{name}.") for module in imported)]


if __name__ == "__main__":
    main()
