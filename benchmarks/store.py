"""How fast `metalchat model pull` is beside `hf download`, and how large stores are listed and collected."""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from _machine import circumstances, load_afterwards
from _measure import alternate, cache_directory, clean_environment, sample, script
from _report import Check, Goal, Report, Row, add_arguments, publish
from _store_many import Times, many_models, timed
from _store_server import FastHub, Served, served

PACKAGES = ("metalchat-store", "metalchat-cli", "huggingface_hub", "httpx")
MIB = 1 << 20
LATENCY = 0.04
RATE = 50e6
MEMORY = 100.0
_HF = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """One measured pull: seconds until it ended, more seconds until its bytes are on the disk, and MiB of memory."""

    seconds: float
    syncing: float
    memory: float


@dataclass(slots=True)
class Race:
    """Both programs, at one hub, each time into an empty home."""

    folder: Path
    hub: FastHub
    name: str
    files: Mapping[str, Served]
    verified: set[str] = field(default_factory=set)

    def ours(self) -> Pull:
        home = self._empty("metalchat")
        command = [script("metalchat"), "model", "pull", f"{self.hub.url}/{self.name}"]
        return self._timed("metalchat", command, home, clean_environment(METALCHAT_HOME=str(home)))

    def peer(self) -> Pull:
        home = self._empty("hf")
        environment = clean_environment(HF_HOME=str(home), HF_ENDPOINT=self.hub.url, **_HF)
        return self._timed("hf", [script("hf"), "download", self.name], home, environment)

    def _empty(self, who: str) -> Path:
        home = self.folder / who
        shutil.rmtree(home, ignore_errors=True)
        os.sync()  # what an earlier run left to be written is not this one's business
        return home

    def _timed(self, who: str, command: list[str], home: Path, environment: dict[str, str]) -> Pull:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stderr.close()
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}: {said.decode(errors='replace')[-500:]}")
        syncing = _synced(home)
        if who not in self.verified:
            self._verify(home)
            self.verified.add(who)
        shutil.rmtree(home)
        return Pull(seconds=seconds, syncing=syncing, memory=usage.ru_maxrss / 1024)

    def _verify(self, home: Path) -> None:
        """RuntimeError unless every file of the repository is there."""
        found = {path.name: path for path in home.rglob("*") if path.is_file()}
        for name, file in self.files.items():
            if name not in found:
                raise RuntimeError(f"{name} did not arrive")
            with found[name].open("rb") as content:
                if hashlib.file_digest(content, "sha256").hexdigest() != file.sha256:
                    raise RuntimeError(f"{name} arrived damaged")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    arguments = parser.parse_args()
    runs = arguments.runs or (1 if arguments.quick else 5)
    cache = (arguments.cache or cache_directory()).absolute()
    large = one_file(cache / "store", (256 if arguments.quick else 1024) * MIB)
    small = small_files(cache / "store")
    facts = circumstances(PACKAGES)
    rows: list[Row | Check] = []
    memory = 0.0
    with tempfile.TemporaryDirectory(prefix="pulled-", dir=cache) as place:
        folder = Path(place)
        ceiling = curl(large)
        for files, what in (
            (large, f"1 file, {_size(large) / MIB:.0f} MiB"),
            (small, f"{len(small) - 2} files, 20 kB"),
        ):
            days: list[tuple[str, float, float | None]] = [("", 0.0, None), (", 40 ms", LATENCY, None)]
            if files is large:
                days.append((", 40 ms, 50 MB/s a connection", LATENCY, RATE))
            for words, latency, rate in days:
                with FastHub({"org/m": files}, latency=latency, rate=rate) as hub:
                    race = Race(folder, hub, "org/m", files)
                    found = alternate({"ours": race.ours, "peer": race.peer}, runs=runs, warm_up=0 if rate else 1)
                rows += compared(f"{what}{words}", _size(files), found)
                memory = max(memory, *(pull.memory for pull in found["ours"]))
        peak = f"{memory:.0f} MiB"
        rows.append(Check(measure="most memory of a pull", found=peak, wanted="< 100 MiB", met=memory < MEMORY))
        rows += large_store(folder, 1_000 if arguments.quick else 10_000)
    pulled = next(row for row in rows if isinstance(row, Row))
    hashing = hash_speed()
    share = pulled.ours.median / hashing
    facts["load afterwards"] = load_afterwards()
    notes = [
        f"{runs} runs of each command in turn, whole processes with their start; median (first to third quartile)",
        "`metalchat model pull` hashes every byte and waits for the disk; `hf download` does neither (no Xet)",
        "where it says so, the time until the files are on the disk is added to that of `hf download`",
        f"the server alone, read by curl into nothing: {ceiling:,.0f} MB/s",
        f"SHA-256 of one core: {hashing:,.0f} MB/s; at the speed of the first row it takes {share:.0%} of the time",
    ]
    if arguments.quick:
        notes.insert(0, "QUICK: few runs, small inputs")
    publish(Report(name="store", facts=facts, notes=notes, rows=rows), arguments)


def compared(what: str, size: int, found: Mapping[str, list[Pull]]) -> list[Row]:
    """Megabytes a second, as the commands end and as the bytes are safe."""
    ours = sample(*(size / 1e6 / pull.seconds for pull in found["ours"]))
    peer = sample(*(size / 1e6 / pull.seconds for pull in found["peer"]))
    safe = sample(*(size / 1e6 / (pull.seconds + pull.syncing) for pull in found["peer"]))
    goal = Goal(kind="ratio at least", value=1.0)
    first = Row(measure=what, unit="MB/s", ours=ours, peer_name="hf download", peer=peer, goal=goal)
    second = Row(measure=f"{what}, until on the disk", unit="MB/s", ours=ours, peer_name="hf download", peer=safe)
    return [first, second]


def large_store(folder: Path, count: int) -> list[Check]:
    """Whether listing and collecting take time in proportion to the number of models.

    Judged by processor time, since one of the two stores is read in a moment in which others may use the machine.
    """
    figures: dict[int, list[tuple[Times, Times]]] = {}
    blobs = 0
    for models in (count // 10, count):
        home = folder / f"many-{models}"
        blobs = many_models(home, models)
        figures[models] = [timed(home, models) for _ in range(5)]
        shutil.rmtree(home)
    rows = []
    for at, what in ((0, "listing"), (1, "collection")):
        few, many = (min(found[at].processor for found in figures[models]) for models in (count // 10, count))
        wall = min(found[at].wall for found in figures[count])
        growth = many / few / 10
        rows.append(
            Check(
                measure=f"{what}: {count:,} models, {blobs:,} blobs",
                found=f"{wall:.2f} s, {many:.2f} s of the processor; {few:.3f} s for a tenth: {growth:.2f}x a model",
                wanted="≤ 1.5x a model",
                met=growth <= 1.5,
            )
        )
    return rows


def one_file(cache: Path, size: int) -> dict[str, Served]:
    """A repository with one file of that size, made once."""
    folder = cache / f"one-{size}"
    if not (folder / "model.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
        with (folder / "making").open("wb") as file:
            for _ in range(size // MIB):
                file.write(os.urandom(MIB))
        (folder / "making").rename(folder / "model.safetensors")
    return served(folder)


def small_files(cache: Path, count: int = 500, size: int = 20_000) -> dict[str, Served]:
    """A repository with that many shards, made once."""
    folder = cache / f"many-{count}"
    names = [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_bytes(os.urandom(size))
        weights = {f"layer.{number}": name for number, name in enumerate(names)}
        index = json.dumps({"metadata": {}, "weight_map": weights})
        (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")
        (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    return served(folder)


def curl(files: Mapping[str, Served]) -> float:
    """MB/s that the server gives to a program that only reads; the best of three."""
    file = max(files.values(), key=lambda one: one.size)
    best = 0.0
    with FastHub({"org/m": files}) as hub:
        for _ in range(3):
            started = time.perf_counter()
            subprocess.run(["curl", "-sf", "-o", os.devnull, hub.blob_url(file.sha256)], check=True)
            best = max(best, file.size / 1e6 / (time.perf_counter() - started))
    return best


def hash_speed() -> float:
    """MB/s of SHA-256 in one thread."""
    data, hasher = bytes(MIB), hashlib.sha256()
    started = time.perf_counter()
    for _ in range(256):
        hasher.update(data)
    return 256 * MIB / 1e6 / (time.perf_counter() - started)


def _size(files: Mapping[str, Served]) -> int:
    return sum(file.size for file in files.values())


def _synced(home: Path) -> float:
    """Seconds until every file is on the disk."""
    started = time.perf_counter()
    for path in [path for path in home.rglob("*") if path.is_file() and not path.is_symlink()]:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
