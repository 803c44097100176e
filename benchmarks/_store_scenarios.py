"""The same bad days for `metalchat model pull` and for `hf download`, at the same fake hub, one after the other."""

import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from _measure import clean_environment, script
from metalchat_store.testing import FakeHub
from metalchat_store.testing.hub_wire import Recorded
from metalchat_store.testing.memory import tiny_model

TOKEN = "hf_canaryCANARYcanaryCANARYcanary12"
NAME = "alice/m"
WEIGHTS = "model.safetensors"
SIZE = 40_000_000
LARGE = "/blob/"
PATIENCE = 25.0
_HF = {
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A program that pulls, and where it keeps what it pulled below its home."""

    name: str
    command: Callable[[str], list[str]]
    home: str
    unfinished: str
    models: str


OURS = Client(
    name="metalchat",
    command=lambda url: [script("metalchat"), "model", "pull", f"{url}/{NAME}"],
    home="METALCHAT_HOME",
    unfinished="partial/*.part",
    models="models/*/",
)
PEER = Client(
    name="huggingface_hub",
    command=lambda _url: [script("hf"), "download", NAME],
    home="HF_HOME",
    unfinished="hub/**/*.incomplete",
    models="hub/models--alice--m/snapshots/*/",
)


@dataclass(slots=True)
class Bench:
    """A hub, a home and the files that a pull must bring."""

    client: Client
    folder: Path
    hub: FakeHub
    files: Mapping[str, bytes]
    text: str = ""

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def start(self, *, largest_file: int | None = None) -> subprocess.Popen[str]:
        def limited() -> None:
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        environment = clean_environment(HF_ENDPOINT=self.hub.url, HF_TOKEN=TOKEN, COLUMNS="200", NO_COLOR="1", **_HF)
        environment[self.client.home] = str(self.home)
        if "PYTHONPATH" in os.environ:  # the packages of this very program
            environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
        return subprocess.Popen(
            self.client.command(self.hub.url),
            env=environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            preexec_fn=limited,
        )

    def run(self, *, patience: float = PATIENCE, largest_file: int | None = None) -> str:
        """How a pull ends, in a few words."""
        process = self.start(largest_file=largest_file)
        try:
            _, self.text = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            process.kill()
            _, self.text = process.communicate()
            return f"still at it after {patience:.0f} s"
        said = [line for line in self.text.splitlines() if line.strip() and "Hint:" not in line]
        if process.returncode:
            begins = next((at for at, line in enumerate(said) if re.search("error|traceback", line, re.IGNORECASE)), 0)
            shape = "1 line" if len(said) - begins == 1 else f"{len(said) - begins} lines"
            return f"exit {process.returncode}, {shape}{', a traceback' if 'Traceback' in self.text else ''}"
        return "pulled" if self.right() else "pulled, WRONG CONTENT"

    def right(self) -> bool:
        """Whether every file of the model is there with the true bytes."""
        for folder in self.home.glob(self.client.models):
            if all((folder / name).is_file() for name in self.files):
                return all((folder / name).read_bytes() == data for name, data in self.files.items())
        return False

    def left(self) -> list[Path]:
        """Unfinished files."""
        return list(self.home.glob(self.client.unfinished))

    def bodies(self) -> list[Recorded]:
        """Requests for the bytes of the weights."""
        return [one for one in self.hub.requests if LARGE in one.target and one.method == "GET"]


Scenario = Callable[[Bench], str]


def _with(**fault: object) -> Scenario:
    def run(bench: Bench) -> str:
        bench.hub.fault(**fault)
        return bench.run()

    return run


def _resumed(**then: object) -> Scenario:
    """A body that breaks off at half its length, then something else."""

    def run(bench: Bench) -> str:
        bench.hub.fault(path=LARGE, method="GET", cut=SIZE // 2, rst=False)
        if then:
            bench.hub.fault(path=LARGE, method="GET", **then)
        ended = bench.run()
        sent = sum(request.sent for request in bench.bodies())
        return f"{ended}, {sent / SIZE:.2f} times the bytes"

    return run


def _bomb(bench: Bench) -> str:
    bench.hub.fault(path=LARGE, method="GET", bomb=200_000_000, times=-1)
    process = bench.start()
    most, until = 0, time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        files = [path for path in bench.home.rglob("*") if path.is_file() and not path.is_symlink()]
        most = max(most, sum(path.stat().st_size for path in files if path.exists()))
        time.sleep(0.02)
    process.kill()
    process.communicate()
    return f"exit {process.returncode}, {most / 1e6:.0f} MB on the disk"


def _traversal(bench: Bench) -> str:
    before = {path for path in bench.folder.rglob("*") if not path.is_relative_to(bench.home)}
    bench.hub.fault(path="/resolve/", times=-1, set={"X-Linked-Etag": '"../../../../outside"'})
    ended = bench.run()
    after = {path for path in bench.folder.rglob("*") if not path.is_relative_to(bench.home)}
    inside = list(bench.home.rglob("*outside*"))
    return f"{ended}{', A FILE WHERE THE SERVER SAID' if after - before or inside else ''}"


def _link(bench: Bench) -> str:
    target = f'<{bench.hub.evil_url}/api/page2>; rel="next"'
    bench.hub.fault(path="/(tree|revision)/", times=-1, set={"Link": target})
    ended = bench.run()
    leaked = len(bench.hub.seen(TOKEN))
    return f"{ended}, token sent there {leaked} times"


def _killed(count: int) -> Scenario:
    def run(bench: Bench) -> str:
        unfinished = leaked = 0
        shares = []
        seconds = 1.2
        for number in range(count):
            shutil.rmtree(bench.home, ignore_errors=True)
            bench.hub.requests.clear()
            bench.hub.faults.clear()
            bench.hub.fault(role="cdn", drip=(1 << 16, (1 << 16) * seconds / SIZE), times=-1)
            process = bench.start()
            while not bench.bodies() and process.poll() is None:
                time.sleep(0.01)
            time.sleep(seconds * (number + 0.5) / count)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            arrived = sum(request.sent for request in bench.bodies())
            bench.hub.requests.clear()
            bench.hub.faults.clear()
            if bench.run() != "pulled":
                return f"the pull after kill {number} failed: {bench.text[-200:]}"
            shares.append((SIZE - sum(request.sent for request in bench.bodies())) / max(1, arrived))
            unfinished += len(bench.left())
            leaked += sum(path.stat().st_size for path in bench.left())
        share = sorted(shares)[len(shares) // 2]
        return f"{count} kills: {unfinished} orphans, {leaked / 1e6:.0f} MB left, {max(0, share):.0%} resumed"

    return run


def _together(count: int) -> Scenario:
    def run(bench: Bench) -> str:
        bench.hub.fault(role="cdn", drip=(1 << 18, 0.02), times=-1)
        processes = [bench.start() for _ in range(count)]
        for process in processes:
            process.communicate(timeout=120)
        failed = sum(process.returncode != 0 for process in processes)
        return f"{count} processes: {failed} failed, {len(bench.bodies())} bodies"

    return run


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One bad day. `wanted` is searched in what metalchat does."""

    name: str
    scenario: Scenario
    wanted: str


def cases(*, quick: bool) -> list[Case]:
    """All of them; `quick` leaves out those that take minutes."""
    html = {"status": 200, "body": b"<html>Log in</html>", "set": {"Content-Type": "text/html"}, "times": -1}
    busy = {"status": 429, "set": {"Retry-After": "1"}}
    day = {"status": 429, "set": {"Retry-After": "86400"}, "times": -1}
    itself = {"redirect": "/api/models/alice/m/revision/main", "times": -1}
    revision, damaged, network = "/revision/", "exit 6, 1 line", "exit 5, 1 line"
    days: list[tuple[str, Scenario, str]] = [
        ("nothing", _with(path="nothing"), "pulled"),
        ("kill -9", _killed(3 if quick else 20), "0 orphans, 0 MB left, (100|9[0-9])%"),
        ("many at once", _together(3 if quick else 8), "0 failed, 1 bodies"),
        ("one changed byte, large file", _with(path=LARGE, flip=5, times=-1), damaged),
        ("one changed byte, small file", _with(path="resolve-cache.*config", flip=5, times=-1), damaged),
        ("content that changes during a resume", _resumed(swap=b"other" * 1000), "^pulled, [12]"),
        ("broken connection", _resumed(), "^pulled, 1.00"),
        ("bytes too many", _with(path=LARGE, extra=b"x" * 100, times=-1), damaged),
        ("compression bomb of 200 MB", _bomb, "exit 6, 0 MB"),
        ("a path as identity", _traversal, f"^{damaged}$"),
        ("signed address expired at the start", _with(path=LARGE, expire=True), "^pulled$"),
        ("signed address expired during a resume", _resumed(expire=True), "^pulled, 1.00"),
        ("CDN: 429, wait 1 s", _with(path=LARGE, **busy), "^pulled$"),
        ("API: 429, wait 1 s", _with(path=revision, **busy), "^pulled$"),
        ("API: 503 once", _with(path=revision, status=503), "^pulled$"),
        ("CDN: 429, wait a day", _with(path=LARGE, **day), network),
        ("no file above 1 MB can be written", lambda bench: bench.run(largest_file=1_000_000), "exit 7, 1 line"),
        ("the web page of a hotel", _with(**html), network),
        ("a list for an object", _with(path=revision, body=b"[]", times=-1), network),
        ("a page link to another server", _link, "token sent there 0 times"),
        ("a redirect to itself", _with(path=revision, **itself), network),
    ]
    if not quick:
        days.append(("a byte every half second", _drip, "says so after 6"))
    return [Case(name=name, scenario=scenario, wanted=wanted) for name, scenario, wanted in days]


def _drip(bench: Bench) -> str:
    bench.hub.fault(path=LARGE, method="GET", drip=(1, 0.5), times=-1)
    started = time.monotonic()
    process = bench.start()
    while process.poll() is None and time.monotonic() < started + 80 and len(bench.bodies()) < 2:
        time.sleep(0.5)
    asked = len(bench.bodies())
    process.kill()
    process.communicate()
    seconds = time.monotonic() - started
    return f"says so after {seconds:.0f} s" if asked > 1 else f"waits on after {seconds:.0f} s"


def play(case: Case, client: Client, folder: Path) -> str:
    """What `client` does on that day, in a home of its own."""
    place = folder / "place"
    place.mkdir()
    files = {name: data for name, data in tiny_model(size=SIZE).items() if not name.endswith((".bin", ".png"))}
    try:
        with FakeHub() as hub:
            hub.add_token(TOKEN, user="alice")
            hub.add_repo(NAME, files=files, private=True)
            return case.scenario(Bench(client, place, hub, files))
    finally:
        for path in place.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(place)
