"""T-1: nothing that others wrote reaches the terminal as anything but visible text, whichever way it comes."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from metalchat_engine import Inspection, OutOfMemory, TextDelta
from metalchat_engine.testing import EchoEngine
from metalchat_store import Listing, NetworkError, RemoteContext
from metalchat_store.testing import MemoryRemote
from metalchat_store.testing.memory import tiny_model

Cli = Callable[..., Any]

ESC = "\x1b"
SEQUENCES = [
    *(f"{ESC}[{code}" for code in ("31m", "0m", "8m", "2J", "H", "1;1H", "K", "1A", "5B", "6n", "c", "?25l", "?1049h")),
    *(f"{ESC}[{code}" for code in ("?2004h", "3J", "1000D", "20t", "21t", "5i", ">c", "!p", "38;2;255;0;0m", "s", "u")),
    *(f"{ESC}]{code}\x07" for code in ("0;title", "2;title", "52;c;ZXZpbA==", "7;file:///x")),
    *(f"{ESC}]{code}{ESC}\\" for code in ("0;title", "2;title", "52;c;ZXZpbA==", "7;file:///x")),
    f"{ESC}]8;;https://evil.example{ESC}\\text{ESC}]8;;{ESC}\\",
    f"{ESC}]1337;File=inline=1:AAAA\x07",
    f"{ESC}]1337;ClearScrollback\x07",
    f"{ESC}]9;notify\x07",
    f"{ESC}]4;1;?\x07",
    f"{ESC}P+q544e{ESC}\\",
    f"{ESC}Pq#0;2;0;0;0{ESC}\\",
    f"{ESC}_Gf=100;AAAA{ESC}\\",
    f"{ESC}_apc{ESC}\\",
    f"{ESC}^pm{ESC}\\",
    f"{ESC}Xsos{ESC}\\",
    f"{ESC}c",
    f"{ESC}#8",
    f"{ESC}(0",
    f"{ESC}7",
    f"{ESC}8",
    f"{ESC}D",
    f"{ESC}M",
    f"{ESC}=",
    f"{ESC}%G",
    ESC,
    "\x9b31m",
    "\x9d52;c;ZXZpbA==\x9c",
    "\x90q\x9c",
    "\x9fGf\x9c",
    "\x85",
    "over\rwritten",
    "\b" * 1000,
    "\x00",
    "\x05",
    "\x07",
    "\x0b",
    "\x0c",
    "\x0e",
    "\x0f",
    "\x11\x13",
    "\x18\x1a",
    "\x7f",
]
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
INVISIBLE = "a\u202eb\u2066c\u2069d\u200be\u2028f\u00adg\U000e0041h"
ALL = "|".join(SEQUENCES)
CHUNKS = ["|".join(SEQUENCES[start : start + 10]) for start in range(0, len(SEQUENCES), 10)]


def harmless(done: Any) -> str:
    """All output of a command, which holds no control character."""
    text = done.out + done.err
    assert not CONTROL.search(text), ascii(CONTROL.search(text))
    return text


def test_there_are_enough_of_them() -> None:
    assert len(SEQUENCES) == len(set(SEQUENCES)) >= 60
    assert all(CONTROL.search(sequence) for sequence in SEQUENCES)


@pytest.mark.parametrize("sequence", SEQUENCES, ids=ascii)
def test_t_1_an_answer_shows_them_written_out(
    cli: Cli, checked_out: str, use_engine: Cli, monkeypatch: pytest.MonkeyPatch, sequence: str
) -> None:
    pieces = [TextDelta(text=character) for character in f"<{sequence}>"]
    use_engine(EchoEngine([f"<{sequence}>", pieces, f"<{sequence}>", pieces]))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n"), encoding="utf-8"))
    whole, cut = cli("prompt", "-c", "x"), cli("prompt", "-c", "x")
    assert harmless(whole) == harmless(cut)
    visible = CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", sequence)
    assert whole.out == f"<{visible}>"
    assert harmless(cli("chat")) == f"<{visible}>\n" * 2


def test_t_1_a_million_backspaces_are_written_out(cli: Cli, checked_out: str, use_engine: Cli) -> None:
    use_engine(EchoEngine([[TextDelta(text="\b" * 1_000_000)]]))
    assert cli("prompt", "-c", "x").out == "\\x08" * 1_000_000


def test_t_1_errors_show_them_written_out(fails: Cli, checked_out: str, use_engine: Cli) -> None:
    class Failing(EchoEngine):
        def load(self, source: object, settings: object) -> Any:
            raise errors.pop()

    use_engine(Failing())
    errors: list[Exception] = []
    for sequence in CHUNKS:
        errors = [OutOfMemory(f"no {sequence} memory"), ValueError(f"odd {sequence} value")]
        assert not CONTROL.search(fails(1, "prompt", "-c", "x"))
        assert not CONTROL.search(fails(1, "prompt", "-c", "x"))


@pytest.mark.parametrize(
    "words",
    [
        ["{}"],
        ["model", "{}"],
        ["model", "list", "--{}"],
        ["model", "list", "{}"],
        ["model", "pull", "https://host/{}"],
        ["model", "path", "{}"],
        ["checkout", "{}"],
        ["prompt", "{}"],
        ["prompt", "-c", "x", "--temperature", "{}"],
        ["prompt", "-c", "x", "--engine", "{}"],
        ["options", "set", "{}", "1"],
        ["options", "set", "rms_norm_eps", "{}"],
        ["options", "get", "{}"],
        ["config", "explain", "{}"],
        ["credential", "remove", "--host", "{}"],
        ["credential", "add", "--host", "huggingface.co", "--username", "{}", "--secret", "x"],
        ["credential", "add", "--host", "huggingface.co", "--username", "x", "--backend", "{}"],
        ["credential", "add", "--host", "huggingface.co", "--username", "x", "--secret", "{}"],
        ["completion", "{}"],
        ["-f", "{}", "credential", "remove", "--host", "{}"],
    ],
    ids=" ".join,
)
def test_t_1_what_is_wrong_with_the_command_line_is_shown_written_out(
    cli: Cli, checked_out: str, use_engine: Cli, words: list[str]
) -> None:
    use_engine(EchoEngine())
    for sequence in [*CHUNKS, INVISIBLE]:
        done = cli(*[word.replace("{}", f"x{sequence}y".replace("\0", "")) for word in words])
        text = harmless(done)
        assert done.code != 1, done
        assert "\u202e" not in text
        assert done.err.count("\n") <= 2


@pytest.fixture
def evil(register: Callable[..., None]) -> MemoryRemote:
    """A remote that says what a hub might say; its scheme is `evil`."""

    class Talking(MemoryRemote):
        def list(self, repository: str, *, revision: str | None, context: RemoteContext) -> Listing:
            for sequence in (*SEQUENCES, INVISIBLE):
                context.notice(f"wait {sequence} for it")
            return super().list(repository, revision=revision, context=context)

    remote = Talking(files=tiny_model(size=2000), license="odd")
    register("evil-remote", {"metalchat.remotes": {"evil": lambda: remote}})
    return remote


def test_t_1_a_pull_shows_them_written_out(cli: Cli, evil: MemoryRemote) -> None:
    done = cli("model", "pull", "evil://host/m")
    assert done.code == 0
    assert "\u202e" not in harmless(done)
    assert len(done.err.splitlines()) == len(SEQUENCES) + 1
    for sequence in CHUNKS:
        evil.listing_faults.append(NetworkError(f"no {sequence} network"))
        done = cli("model", "pull", "evil://host/m")
        assert done.code == 5
        harmless(done)


def test_t_1_a_pull_in_a_terminal_shows_them_written_out(terminal: Cli, tmp_path: Path, monkeypatch: Any) -> None:
    import os

    from metalchat_engine.testing import write_distribution

    where = tmp_path / "for_processes"
    write_distribution(where, "evil-remote", {"metalchat.remotes": {"evil": "evil_module:make"}})
    (where / "evil_module.py").write_text(
        "from metalchat_store.testing import MemoryRemote\n"
        "from metalchat_store.testing.memory import tiny_model\n"
        "class Talking(MemoryRemote):\n"
        "    def list(self, repository, *, revision, context):\n"
        f"        for sequence in {SEQUENCES!a}:\n"
        "            context.notice(f'<{sequence}>:smile:')\n"
        "        return super().list(repository, revision=revision, context=context)\n"
        "def make(): return Talking(files=tiny_model(size=2000))\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(where), os.environ.get("PYTHONPATH", "")]))
    window = terminal("model", "pull", "evil://host/m")
    assert window.end() == 0
    shown = window.text
    for sequence in SEQUENCES:
        assert f"<{sequence}" not in shown
    assert "<\\x1b[31m>:smile:" in shown
    assert not re.search("[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]", shown)
    moves = set(re.findall(r"\x1b(?:\[[0-9;?]*[A-Za-z]|.)", shown))
    assert all(re.fullmatch(r"\x1b\[[0-9;?]*[mAKhlJG]", move) for move in moves), moves


def quoted(text: str) -> str:
    """A TOML string."""
    return '"' + "".join(f"\\U{ord(character):08X}" for character in text) + '"'


@pytest.fixture
def odd_manifest(checked_out: str) -> None:
    """A sequence in every place of the local manifest that takes any text."""
    lines = [
        Path("metalchat.toml").read_text(),
        "[options]",
        *(f"x{number} = {quoted(sequence)}" for number, sequence in enumerate(SEQUENCES)),
        f"rms = {quoted(INVISIBLE)}",
        "[chat]",
        *(f"{quoted(sequence)} = {number}" for number, sequence in enumerate(SEQUENCES)),
        *(f"[{quoted(sequence)}]\nx = 1" for sequence in SEQUENCES),
    ]
    Path("metalchat.toml").write_text("\n".join(lines))


LOOKS = (
    ["options", "list"],
    ["options", "list", "--show-scope"],
    ["options", "get", "x0"],
    ["options", "get", "rms"],
    ["config", "list"],
    ["config", "explain", "options.x0"],
    ["config", "explain", "options.rms"],
    ["doctor"],
)


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
@pytest.mark.usefixtures("odd_manifest")
def test_t_1_settings_show_them_written_out(cli: Cli, words: list[str]) -> None:
    done = cli(*words)
    text = harmless(done)
    # No engine loads this model, which the doctor says.
    assert (done.code, done.err) == (int(words == ["doctor"]), "")
    assert text
    if words[:2] != ["options", "get"]:
        assert "\u202e" not in text


@pytest.mark.parametrize(
    "words",
    [
        ["options", "list"],
        ["config", "list"],
        ["config", "explain", "options.x0"],
        ["doctor"],
        ["plugins"],
        ["model", "list"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("odd_manifest")
def test_t_1_json_is_ascii_without_control_characters(cli: Cli, checked_out: str, home: Path, words: list[str]) -> None:
    (home / "models" / checked_out / "model.safetensors").unlink()
    done = cli(*words, "--json")
    assert done.out.isascii()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", done.out)
    json.loads(done.out)


@pytest.mark.usefixtures("odd_manifest")
def test_t_1_json_gives_back_what_was_written(cli: Cli) -> None:
    values = {option["name"]: option["value"] for option in json.loads(cli("options", "list", "--json").out)}
    assert [values[f"x{number}"] for number in range(len(SEQUENCES))] == SEQUENCES
    assert values["rms"] == INVISIBLE


def test_t_1_models_are_listed_with_them_written_out(cli: Cli, checked_out: str, home: Path) -> None:
    for number, sequence in enumerate([*SEQUENCES, INVISIBLE]):
        entry = home / "models" / f"{number:040x}"
        entry.mkdir()
        address = quoted(f"https://host/{sequence}")
        words = '\narchitecture = "llama3"\npartitioning = "consolidated"\nvariant = "huggingface"\n'
        (entry / "metalchat.toml").write_text(f"[model]\nrepository = {address}{words}")
    for words in ("list", "list --abbrev", "list --json", "verify --all", "verify --all --json"):
        done = cli("model", *words.split())
        assert "\u202e" not in harmless(done)
    assert len(cli("model", "list").out.splitlines()) == len(SEQUENCES) + 2
    done = cli("doctor")
    assert done.code == 1
    harmless(done)


def test_t_1_a_description_shows_them_written_out(cli: Cli, checked_out: str, use_engine: Cli) -> None:
    class Odd(EchoEngine):
        def inspect(self, source: object) -> Inspection:
            return Inspection(loadable=False, reason=f"odd {ALL} {INVISIBLE}", dtype=ALL, quantization=ALL)

    use_engine(Odd())
    done = cli("model", "describe", checked_out)
    assert "reason                 odd \\x1b[31m|" in done.out
    assert "\u202e" not in harmless(done)
    assert cli("model", "describe", checked_out, "--json").out.isascii()


def test_t_1_plugins_are_listed_with_them_written_out(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tmp_path / "odd"
    info = where / "odd-1.dist-info"
    info.mkdir(parents=True)
    name = "odd\x1b[31m\x9b31m\u202e"
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\x1b[2J\x7f\n", encoding="utf-8")
    points = "".join(f"[metalchat.{group}]\no{name} = x:y\n" for group in ("engines", "remotes", "commands"))
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    monkeypatch.syspath_prepend(where)
    for words in (["plugins"], ["plugins", "--json"], ["doctor"], ["doctor", "--json"], ["--help"], ["nosuch"]):
        done = cli(*words)
        assert "\u202e" not in harmless(done)
        assert "31m" in done.out + done.err
    assert "is not a plain word" in done.err
