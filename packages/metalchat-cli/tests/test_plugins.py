"""Other distributions' parts: listed without being imported, run when they are asked for, refused when they clash."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cyclopts
import pytest
from metalchat_cli import terminal as screen
from metalchat_engine.testing import EchoEngine, write_distribution

Cli = Callable[..., Any]
Register = Callable[..., None]


@pytest.fixture
def explosive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A distribution with a plug-in of every kind, whose module leaves a file and raises when it is imported."""
    where = tmp_path / "explosive"
    kinds = ("engines", "credentials", "remotes", "commands")
    write_distribution(
        where, "explosive", {f"metalchat.{kind}": {"bang": "explosive_module:x"} for kind in kinds}, version="2.0"
    )
    (where / "explosive_module.py").write_text(
        "from pathlib import Path\nPath('imported').touch()\nraise RuntimeError('bang\\nbang')\n"
    )
    monkeypatch.syspath_prepend(where)
    return "explosive"


def test_everything_installed_is_listed_without_being_imported(cli: Cli, explosive: str) -> None:
    lines = cli("plugins").out.splitlines()
    for kind in ("engine", "credentials", "remote", "command"):
        assert f"{kind}  bang  explosive 2.0" in lines
    assert any(line.startswith("engine  mlx  metalchat-engine-mlx ") for line in lines)
    assert any(line.startswith("remote  https  metalchat-store ") for line in lines)
    assert any(line.startswith("credentials  keyring  metalchat-credentials ") for line in lines)
    for words in (["--help"], ["plugins", "--json"], ["model", "list"], ["completion", "bash"], ["bnag"]):
        cli(*words)
    assert not Path("imported").exists()


def test_the_list_as_json_has_these_keys(cli: Cli, explosive: str) -> None:
    listed = json.loads(cli("plugins", "--json").out)
    assert {
        "kind": "command",
        "name": "bang",
        "distribution": "explosive",
        "version": "2.0",
        "enabled": True,
    } in listed


@pytest.mark.parametrize(("value", "allowed"), [("", False), ("other", False), ("bang", True), ("other, bang", True)])
def test_a_variable_restricts_what_may_load_and_never_what_is_built_in(
    cli: Cli, explosive: str, monkeypatch: pytest.MonkeyPatch, value: str, allowed: bool
) -> None:
    monkeypatch.setenv("METALCHAT_PLUGINS", value)
    lines = cli("plugins").out.splitlines()
    assert ("command  bang  explosive 2.0" in lines) == allowed
    assert ("command  bang  explosive 2.0  not in METALCHAT_PLUGINS" in lines) == (not allowed)
    assert not any("metalchat-" in line and "not in" in line for line in lines)
    assert ("│ bang " in cli("--help").out) == allowed
    done = cli("bang")
    assert Path("imported").exists() == allowed
    assert done.code == (1 if allowed else 2)


def test_a_command_that_does_not_import_is_one_line_that_names_its_distribution(fails: Cli, explosive: str) -> None:
    line = fails(1, "bang")
    assert line == "metalchat: error: command 'bang' of explosive 2.0 does not import: RuntimeError: bang bang"
    line = fails(1, "bang", "--help")
    assert "explosive 2.0" in line


def test_a_function_is_a_command(cli: Cli, fails: Cli, register: Register) -> None:
    def hello(name: str, /, *, twice: bool = False) -> int:
        """Greet somebody."""
        screen.line(f"Hello {name}\x1b[31m" * (2 if twice else 1))
        return 5

    register("hello-command", {"metalchat.commands": {"hello": hello}})
    assert "│ hello           From hello-command." in cli("--help").out
    done = cli("hello", "Ada", "--twice")
    assert (done.code, done.out) == (5, "Hello Ada\\x1b[31mHello Ada\\x1b[31m\n")
    assert "Greet somebody." in cli("hello", "--help").out
    assert "unexpected argument" not in fails(2, "hello", "--nope")
    assert "See 'metalchat hello --help'" in fails(2, "hello", "Ada", "Bob")


def test_an_app_of_any_name_is_a_command(cli: Cli, register: Register) -> None:
    app = cyclopts.App(name="something-else", help="Serve.")

    @app.command
    def start(port: int) -> None:
        screen.line(f"on {port}")

    register("serve-command", {"metalchat.commands": {"serve": app}})
    assert cli("serve", "start", "80").out == "on 80\n"
    assert "│ serve           From serve-command." in cli("--help").out


@pytest.mark.parametrize(
    ("end", "code", "err"),
    [
        (SystemExit(), 0, ""),
        (SystemExit(4), 4, ""),
        (SystemExit("no\nluck"), 1, "metalchat: error: no luck\n"),
        (KeyboardInterrupt(), 130, ""),
        (FileNotFoundError(2, "No such file", "/x"), 7, "metalchat: error: /x: no such file\n"),
        (OSError(28, "No space left on device"), 7, "metalchat: error: no space left on device\n"),
        (ConnectionResetError(104, "Connection reset"), 1, "metalchat: error: connection reset\n"),
    ],
    ids=repr,
)
def test_a_command_may_end_as_programs_do(
    cli: Cli, register: Register, end: BaseException, code: int, err: str
) -> None:
    def stop() -> None:
        raise end

    register("stop-command", {"metalchat.commands": {"stop": stop}})
    done = cli("stop")
    assert (done.code, done.out, done.err) == (code, "", err)


def test_what_is_no_command_is_refused(fails: Cli, register: Register) -> None:
    register("odd-command", {"metalchat.commands": {"odd": 5}})
    line = fails(1, "odd")
    assert line.startswith(
        "metalchat: error: command 'odd' of odd-command 1.0 is neither a function nor a cyclopts App"
    )


@pytest.mark.parametrize("words", [[], ["--help"], ["nosuch"]], ids=" ".join)
def test_a_command_that_exists_already_is_refused_in_a_line_that_names_both(
    fails: Cli, cli: Cli, register: Register, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    register("rude-command", {"metalchat.commands": {"prompt": print}})
    assert fails(2, *words) == (
        "metalchat: error: the command 'prompt' is offered by metalchat-cli and rude-command. "
        "Uninstall rude-command, or leave it out of METALCHAT_PLUGINS"
    )
    assert cli("model", "list").code == 0
    monkeypatch.setenv("METALCHAT_PLUGINS", "")
    assert cli("--help").code == 0


def test_a_command_of_two_distributions_is_refused_in_a_line_that_names_both(fails: Cli, register: Register) -> None:
    register("first-command", {"metalchat.commands": {"same": print}})
    register("second-command", {"metalchat.commands": {"same": print}})
    assert "the command 'same' is offered by first-command and second-command" in fails(2, "same")


def test_a_remote_of_two_distributions_is_refused_in_a_line_that_names_both(cli: Cli, register: Register) -> None:
    register("first-remote", {"metalchat.remotes": {"same": print}})
    register("second-remote", {"metalchat.remotes": {"same": print}})
    done = cli("model", "pull", "same://host/x")
    assert done.code == 2
    assert "first-remote and second-remote" in done.err


def levels(cli: Cli) -> dict[str, set[str]]:
    """The subjects that the doctor speaks of, by level; the text and the JSON must agree."""
    done = cli("doctor", "--json")
    found = json.loads(done.out)
    assert {tuple(each) for each in found} == {("level", "subject", "text")}
    plain = cli("doctor")
    assert done.code == plain.code == (1 if any(each["level"] == "problem" for each in found) else 0)
    assert len(plain.out.splitlines()) == len(found)
    assert (plain.err, done.err) == ("", "")
    by_level: dict[str, set[str]] = {"ok": set(), "warning": set(), "problem": set()}
    for each in found:
        by_level[each["level"]].add(each["subject"])
    return by_level


def test_the_doctor_of_an_empty_home_only_misses_a_checkout(cli: Cli, home: Path) -> None:
    found = levels(cli)
    assert (found["problem"], found["warning"]) == (set(), {"checkout"})
    assert not home.exists()


def test_the_doctor_of_a_model_in_use_has_no_complaint(cli: Cli, checked_out: str, use_engine: Cli) -> None:
    use_engine(EchoEngine())
    found = levels(cli)
    assert (found["problem"], found["warning"]) == (set(), set())
    assert "ok       store  1 model" in cli("doctor").out


def test_the_doctor_says_what_to_pull_for_a_manifest_that_came_with_a_project(cli: Cli, home: Path) -> None:
    Path("metalchat.toml").write_text(
        '[model]\nrepository = "https://example.org/a/b"\narchitecture = "llama3"\n'
        'partitioning = "consolidated"\nvariant = "huggingface"\n'
    )
    done = cli("doctor")
    line = "https://example.org/a/b is not in the store. To fetch it: metalchat model pull https://example.org/a/b"
    assert f"problem  checkout  {line}" in done.out.splitlines()
    assert done.code == 1


def test_the_doctor_reports_keys_without_meaning(cli: Cli, checked_out: str, home: Path) -> None:
    path = Path("metalchat.toml")
    path.write_text(path.read_text() + "[future]\nkey = 1\n[tools]\nx = true\n")
    text = cli("doctor").out
    assert f"warning  manifest  {path.absolute()} line 6: 'future' is not a key that metalchat knows" in text
    assert f"warning  manifest  {path.absolute()} line 9: 'tools.x' is not in force here" in text


@pytest.mark.parametrize(
    ("damage", "subject"),
    [
        ("manifest", "manifests"),
        ("global manifest", "manifests"),
        ("entry", "store"),
        ("engine", "engine"),
        ("command", "commands"),
        ("index", "secrets"),
        ("home", "models"),
        ("variable", "manifests"),
    ],
)
def test_the_doctor_survives_whatever_is_broken(
    cli: Cli,
    checked_out: str,
    home: Path,
    explosive: str,
    register: Register,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
    subject: str,
) -> None:
    monkeypatch.setenv("METALCHAT_PLUGINS", "bang" if damage == "engine" else "prompt")
    if damage == "manifest":
        Path("metalchat.toml").write_text("[model")
    elif damage == "global manifest":
        (home / "metalchat.toml").write_bytes(b"\xff\xfe")
    elif damage == "entry":
        (home / "models" / checked_out / "model.safetensors").unlink()
    elif damage == "command":
        register("rude-command", {"metalchat.commands": {"prompt": print}})
    elif damage == "index":
        (home / "config.toml").write_text("[credential")
    elif damage == "home":
        shutil.rmtree(home)
        home.write_text("")
    elif damage == "variable":
        monkeypatch.setenv("METALCHAT_INFERENCE_SAMPLING_TEMPERATURE", "warm")
    assert subject in levels(cli)["problem"]


def test_the_doctor_names_the_engine_that_does_not_import(
    cli: Cli, explosive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "problem  engine  bang: engine 'bang' of explosive 2.0 does not import: RuntimeError: bang bang"
    assert line in cli("doctor").out.splitlines()
    monkeypatch.setenv("METALCHAT_PLUGINS", "")
    assert cli("doctor").code == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_names_the_commands_of_others_and_imports_none(
    cli: Cli, explosive: str, shell: str
) -> None:
    assert "bang" in cli("completion", shell).out
    assert not Path("imported").exists()


def test_the_entry_point_script_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "metalchat_cli", "-V"], capture_output=True, text=True, check=True)
    script = Path(sys.executable).parent / "metalchat"
    if script.exists():
        again = subprocess.run([script, "-V"], capture_output=True, text=True, check=True)
        assert again.stdout == done.stdout
    assert done.stdout.startswith("metalchat ")
