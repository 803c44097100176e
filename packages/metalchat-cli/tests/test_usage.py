"""What a command line can get wrong, which home it works in, and how every failure looks."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from metalchat_cli import __version__
from metalchat_cli.app import COMMANDS
from metalchat_engine import OutOfMemory
from metalchat_engine.testing import EchoEngine
from metalchat_store.testing import FakeHub
from metalchat_store.testing.memory import tiny_model

Cli = Callable[..., Any]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nosuch"], "Unknown command \"nosuch\". See 'metalchat --help'"),
        (["promt"], "Did you mean \"prompt\"? See 'metalchat --help'"),
        (["model", "nosuch"], "Unknown command \"nosuch\". See 'metalchat model --help'"),
        (["model", "pull"], "name the repository to pull from, or --frozen"),
        (["model", "pull", "--revision"], "--revision requires an argument. See 'metalchat model pull --help'"),
        (["model", "list", "--nope"], "Unknown option: --nope. See 'metalchat model list --help'"),
        (["model", "list", "--abbrv"], "Did you mean --abbrev?"),
        (["model", "list", "x"], "unexpected argument 'x'. See 'metalchat model list --help'"),
        (["model", "verify"], "name one model, or --all"),
        (["model", "verify", "abcd", "--all"], "name one model, or --all"),
        (["checkout"], "requires an argument. See 'metalchat checkout --help'"),
        (["checkout", "--local", "--global", "abcd"], "give only one of --local and --global"),
        (["-f"], "-f needs a directory"),
        (["--file"], "-f needs a directory"),
        (["--file="], "-f needs a directory"),
        (["-f", "", "model", "list"], "-f needs a directory"),
        (["prompt"], "give one prompt: -c TEXT, a file, or -"),
        (["prompt", "file", "-c", "text"], "give one prompt: -c TEXT, a file, or -"),
        (["prompt", "-c"], "-c requires an argument"),
        (["prompt", "-c", "a", "-c", "b"], "-c specified multiple times"),
        (["prompt", "-c", " \n\t"], "the prompt is empty"),
        (["prompt", "nosuch.txt"], "cannot read the prompt file 'nosuch.txt': no such file or directory"),
        (["prompt", "."], "cannot read the prompt file '.': is a directory"),
        (["prompt", "a" * 300], "file name too long"),
        (["prompt", "-x"], "unknown option '-x'. See 'metalchat prompt --help'"),
        (["prompt", "--temprature", "1", "-c", "Hello"], "unknown option '--temprature'"),
        (["prompt", "-c", "Hello", "--temperature", "warm"], "--temperature"),
        (["prompt", "-c", "Hello", "--temperature", "nan"], "--temperature is nan, expected a number from 0 to 100"),
        (["prompt", "-c", "Hello", "--temperature", "-1"], "--temperature is -1.0, expected a number from 0 to 100"),
        (["prompt", "-c", "Hello", "--top-p", "1.5"], "--top-p is 1.5, expected a number from 0 to 1"),
        (["prompt", "-c", "Hello", "--top-p", "0"], "--top-p is 0.0, expected a number above 0, up to 1"),
        (["chat", "--top-p", "0"], "--top-p is 0.0, expected a number above 0, up to 1"),
        (["prompt", "-c", "Hello", "--top-k", "-1"], "--top-k is -1, expected an integer from 0"),
        (["prompt", "-c", "Hello", "--seed", "-1"], "--seed is -1, expected an integer from 0"),
        (["prompt", "-c", "Hello", "--seed", "1.5"], ' error: Invalid value for --seed: "1.5" is not an integer. See'),
        (["prompt", "-c", "Hello", "--max-tokens", "0"], "--max-tokens is 0, expected an integer from 1"),
        (["chat", "--max-tokens", "0"], "--max-tokens is 0, expected an integer from 1"),
        (["chat", "Hello"], "unexpected argument 'Hello'. See 'metalchat chat --help'"),
        (["quickstart", "--temperature", "-1"], "--temperature is -1.0, expected a number from 0 to 100"),
        (["options", "set", "rms_norm_eps"], "requires an argument. See 'metalchat options set --help'"),
        (["options", "set", "x", "1", "-t", "list"], 'Choose from: "bool", "int", "float", "str"'),
        (["options", "set", "x", "1", "--local", "--global"], "give only one of --local, --global and --model"),
        (["options", "unset", "x", "--model", "--global"], "give only one of --local, --global and --model"),
        (["completion", "tcsh"], 'Choose from: "bash", "zsh", "fish"'),
        (["credential", "add", "--username", "alice"], "no host is named. Add --host"),
        (["credential", "add", "--host", "x", "--username", ""], "--username is empty"),
        (["credential", "remove"], "nothing is named. Add --host HOST, or --all"),
        (["credential", "remove", "--host", "x", "--all"], "give only one of --host and --all"),
        (["model", "pull", "org/m"], "it has no scheme such as https://"),
        (["model", "describe", "ftp://host/x"], "nothing installed can pull from 'ftp:' addresses"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_one_line_that_says_what_to_change(
    fails: Cli, place: Path, words: list[str], says: str
) -> None:
    line = fails(2, *words)
    assert line.startswith("metalchat: error: ")
    assert says in line
    assert not (place / ".metalchat").exists()
    assert not Path("metalchat.toml").exists()


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["model"], ["model", "--help"]], ids=" ".join)
def test_help_is_a_success_on_standard_output(cli: Cli, words: list[str]) -> None:
    done = cli(*words)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Usage: metalchat")


def test_the_help_names_every_command_and_the_home(cli: Cli) -> None:
    text = cli("--help").out
    assert all(f"│ {name} " in text for name in COMMANDS)
    assert "-f, --file DIRECTORY chooses the home" in text


def test_every_command_has_a_help_of_its_own(cli: Cli) -> None:
    for name in COMMANDS:
        done = cli(name, "--help")
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith(f"Usage: metalchat {name}")


def test_the_help_of_a_command_says_more_than_its_line_in_the_list(cli: Cli) -> None:
    assert "~/.local/share/bash-completion/completions/metalchat" in cli("completion", "--help").out
    assert "Exits with 1 if there is a problem" in cli("doctor", "--help").out
    assert "'metalchat model rollback' goes back" in " ".join(cli("model", "update", "--help").out.split())
    assert " ".join(cli("model", "--help").out.split("\n")[2].split()) == COMMANDS["model"][1]


def test_the_help_names_defaults_that_say_something(cli: Cli) -> None:
    def text(*words: str) -> str:
        return " ".join(cli(*words, "--help").out.replace("│", " ").split())

    assert "[default: 1h]" in text("store", "gc")
    assert "[default: keyring]" in text("credential", "add")
    for name in ("checkout", "chat", "prompt", "lock"):
        assert "default: " not in text(name)


@pytest.mark.parametrize("words", [["--version"], ["-V"], ["-f", "x", "--version"], ["model", "--version"]])
def test_the_version_is_said_in_one_way(cli: Cli, words: list[str]) -> None:
    assert cli(*words).out == f"metalchat {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [["prompt", "-c", "Hello"], ["options", "set", "x", "1", "-t", "int"], ["options", "unset", "x", "--global"]],
    ids=" ".join,
)
def test_a_scope_that_selects_no_model_is_said_in_the_words_of_old(fails: Cli, words: list[str]) -> None:
    assert fails(2, *words).startswith("error: requested scope not checked out")


@pytest.mark.parametrize("words", [["prompt", "-c", "Hello"], ["chat"], ["lock"]], ids=" ".join)
def test_a_manifest_that_came_with_a_project_says_what_to_pull(fails: Cli, words: list[str]) -> None:
    repository = "https://example.org/a/b;id"
    Path("metalchat.toml").write_text(
        f'[model]\nrepository = "{repository}"\narchitecture = "llama3"\n'
        'partitioning = "consolidated"\nvariant = "huggingface"\n'
    )
    line = fails(4, *words)
    assert line.startswith("fatal: model '")
    assert line.endswith(f"' not found. To fetch it: metalchat model pull '{repository}'")


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("{tmp}/other", "{tmp}/other"),
        ("~/other", "{place}/other"),
        ("other", "{place}/work/other"),
        ("./a/../other", "{place}/work/other"),
    ],
)
@pytest.mark.parametrize("how", ["-f", "--file", "--file=", "METALCHAT_HOME"])
def test_the_home_is_chosen_by_an_option_or_a_variable(
    cli: Cli,
    place: Path,
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    written: str,
    found: str,
) -> None:
    directory = written.format(tmp=tmp_path, place=place)
    words = ["model", "pull", folder.as_uri()]
    if how == "METALCHAT_HOME":
        monkeypatch.setenv(how, directory)
    elif how == "--file=":
        words.insert(0, f"{how}{directory}")
    else:
        words[:0] = [how, directory]
    assert cli(*words).code == 0
    assert len(list((Path(found.format(tmp=tmp_path, place=place)) / "models").iterdir())) == 1


def test_the_option_is_stronger_than_the_variable_and_leaves_it_alone(cli: Cli, pulled: str, tmp_path: Path) -> None:
    before = os.environ["METALCHAT_HOME"]
    assert cli("-f", tmp_path / "empty", "model", "list").out == ""
    assert os.environ["METALCHAT_HOME"] == before
    assert cli("model", "list").out.startswith(pulled)


def test_without_either_the_home_is_in_the_users_home(
    cli: Cli, pulled: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (None, ""):
        monkeypatch.delenv("METALCHAT_HOME", raising=False)
        if value is not None:
            monkeypatch.setenv("METALCHAT_HOME", value)
        assert cli("model", "list").out.startswith(pulled)


def test_a_user_who_does_not_exist_has_no_home(fails: Cli) -> None:
    line = fails(2, "-f", "~no-such-user-anywhere/x", "model", "list")
    assert line == "metalchat: error: there is no home directory. Set METALCHAT_HOME to the directory to use"


def test_a_home_that_cannot_be_written_is_an_error_of_the_disk(cli: Cli, folder: Path, place: Path) -> None:
    (place / "file").write_text("")
    for where in (place / "file", place / "file" / "below"):
        done = cli("-f", where, "model", "pull", folder.as_uri())
        assert (done.code, done.err.count("\n")) == (7, 1), done
        assert str(place / "file") in done.err


def test_a_checkout_into_a_home_that_cannot_be_written_is_an_error_of_the_disk(
    fails: Cli, pulled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mkdir(path: Path, *_more: object, **_options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    line = fails(7, "checkout", "--global", pulled)
    assert line == f"metalchat: error: {os.environ['METALCHAT_HOME']}: permission denied"


def test_a_working_directory_that_is_gone_is_an_error_that_says_so(
    fails: Cli, cli: Cli, pulled: str, place: Path
) -> None:
    gone = place / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    for words in (["options", "list"], ["checkout", pulled], ["prompt", "-c", "Hello"], ["credential", "list"]):
        assert "the working directory does not exist any more. Change to another one" in fails(2, *words)
    assert cli("doctor").code == 1


def fail(error: BaseException) -> Callable[[], None]:
    """An engine that raises as soon as it is made into a model."""

    class Failing(EchoEngine):
        def load(self, source: object, settings: object) -> Any:
            raise error

    return Failing()


def test_what_nobody_expected_is_one_line_and_the_programs_own_fault(
    fails: Cli, checked_out: str, use_engine: Cli
) -> None:
    use_engine(fail(ZeroDivisionError("one\ntwo\x1b[31m")))
    line = fails(1, "prompt", "-c", "Hello")
    shown = r"metalchat: error: unexpected ZeroDivisionError: one two\x1b[31m. METALCHAT_DEBUG=1 shows where"
    assert line == shown


def test_debugging_shows_where_an_error_came_from(
    cli: Cli, checked_out: str, use_engine: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_engine(fail(ZeroDivisionError("hf_abcdefghijklmnopqrstuvwxyz\x1b[31m")))
    monkeypatch.setenv("METALCHAT_DEBUG", "1")
    done = cli("prompt", "-c", "Hello")
    assert done.code == 1
    assert done.err.startswith("Traceback")
    assert "in load" in done.err
    assert "hf_abc" not in done.err
    assert "\x1b" not in done.err


def test_an_error_without_words_is_named_by_its_class(fails: Cli, checked_out: str, use_engine: Cli) -> None:
    use_engine(fail(KeyError()))
    assert "unexpected KeyError: KeyError." in fails(1, "prompt", "-c", "Hello")


def test_an_engines_own_error_has_its_own_code_and_words(fails: Cli, checked_out: str, use_engine: Cli) -> None:
    use_engine(fail(OutOfMemory("the weights need 9 GB, 8 GB are free; choose a smaller model")))
    line = fails(OutOfMemory.exit_code, "prompt", "-c", "Hello")
    assert line == "metalchat: error: the weights need 9 GB, 8 GB are free; choose a smaller model"


def test_a_context_that_does_not_fit_names_the_setting(fails: Cli, checked_out: str, use_engine: Cli) -> None:
    use_engine(fail(OutOfMemory("it needs 9 GB for 8192 tokens, 8 GB are available", largest_context=5000)))
    line = fails(OutOfMemory.exit_code, "prompt", "-c", "Hello")
    assert line.endswith("8 GB are available; set inference.max_sequence_length to 5000 or less")


def test_a_token_in_an_error_is_not_shown(fails: Cli, checked_out: str, use_engine: Cli) -> None:
    use_engine(fail(OutOfMemory("header Bearer hf_abcdefghijklmnopqrstuvwxyz")))
    assert fails(1, "prompt", "-c", "Hello") == "metalchat: error: header Bearer hf_…"


@pytest.mark.parametrize("debug", ["", "1"])
def test_C_4_a_token_that_a_server_sends_back_is_not_shown_whatever_it_looks_like(
    cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch, debug: str
) -> None:
    token = "not.like/others=0123456789"
    (place / "files").mkdir()
    (place / "files" / "a.txt").write_text("a")
    with FakeHub() as hub:
        hub.add_token(token, user="alice", role="write")
        hub.add_repo("alice/m", files=tiny_model())
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setenv("METALCHAT_DEBUG", debug)
        hub.fault(path="/preupload/", status=400, body=f'{{"error": "bad header Bearer {token}"}}'.encode(), times=-1)
        done = cli("model", "push", place / "files", f"{hub.url}/alice/m")
    assert done.code == 5
    assert "bad header Bearer hf_…" in done.err
    assert token not in done.err


def test_an_interrupted_command_has_its_own_code(cli: Cli, checked_out: str, use_engine: Cli) -> None:
    use_engine(fail(KeyboardInterrupt()))
    done = cli("prompt", "-c", "Hello")
    assert (done.code, done.out, done.err) == (130, "", "")


def test_each_family_of_errors_has_its_own_code(cli: Cli, checked_out: str, home: Path, place: Path) -> None:
    """1 and 130 have tests of their own."""
    found: dict[int, str] = {}

    def note(*words: str) -> None:
        done = cli(*words)
        assert done.err.count("\n") == 1, done
        found[done.code] = done.err

    with FakeHub() as hub:
        hub.add_repo("org/gated", files=tiny_model(), gated=True)
        hub.add_repo("org/m", files=tiny_model())
        hub.rename("org/m", "org/renamed")
        hub.add_repo("org/papers", files={"README.md": b"words"})
        note("model", "pull", f"{hub.url}/org/gated")
        note("model", "pull", f"{hub.url}/org/m")
        note("model", "pull", f"{hub.url}/org/papers")
        note("model", "path", "0000")
        hub.fault(role="hub", status=429, set={"Retry-After": "86400"}, times=-1)
        note("model", "pull", f"{hub.url}/org/renamed")
    Path("metalchat.toml").write_text("[inference]\nmax_sequence_lenght = 1\n")
    note("options", "list")
    (place / "file").write_text("")
    note("-f", str(place / "file"), "model", "pull", (place / "SmallModel").as_uri())
    assert set(found) == {2, 3, 4, 5, 6, 7, 8}, found


def test_a_broken_manifest_is_an_error_that_names_its_line(fails: Cli, checked_out: str) -> None:
    Path("metalchat.toml").write_text("[model]\nrepository = 5\n")
    for words in (["prompt", "-c", "Hello"], ["options", "list"], ["config", "list"]):
        assert fails(2, *words).startswith("metalchat: error: metalchat.toml line 2")
