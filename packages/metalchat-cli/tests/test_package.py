"""The package as a whole: version, imports, errors, the readme's example."""

import inspect
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import metalchat_cli
import pytest
from metalchat_cli import errors

ROOT = Path(__file__).parents[1]
HEAVY = {"mlx", "httpx", "keyring", "tokenizers", "jinja2", "tomlkit", "prompt_toolkit", "asyncio", "ssl"}


def modules_of(*arguments: str) -> set[str]:
    """The top-level modules that a command line imports."""
    code = f"import sys; from metalchat_cli.__main__ import main; main({list(arguments)}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["model", "--help"],
        ["prompt", "--help"],
        ["model", "list"],
        ["options", "list"],
        ["config", "list"],
        ["credential", "list"],
        ["checkout", "abcdef"],
        ["plugins"],
        ["nosuch"],
    ],
    ids=" ".join,
)
def test_what_only_looks_imports_nothing_heavy(arguments: list[str]) -> None:
    assert not HEAVY & modules_of(*arguments)


def test_checking_out_imports_no_engine_and_no_network(checked_out: str) -> None:
    assert not HEAVY - {"tomlkit"} & modules_of("checkout", checked_out)


def test_the_version_needs_no_parser_of_command_lines() -> None:
    assert not (HEAVY | {"cyclopts", "rich", "json", "metalchat_engine"}) & modules_of("--version")


def test_the_version_is_that_of_the_distribution() -> None:
    assert metalchat_cli.__version__ == version("metalchat-cli")


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_one_line(cli, flag: str) -> None:
    done = cli(flag)
    assert (done.code, done.out, done.err) == (0, f"metalchat {metalchat_cli.__version__}\n", "")


def test_the_tree_of_errors_is_the_documented_one() -> None:
    drawn = re.findall(r"^[│├└─ ]*([A-Z]\w+) +(\d)", errors.__doc__ or "", re.MULTILINE)
    defined = {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.CliError)
    }
    assert {(name, int(code)) for name, code in drawn} == {(name, kind.exit_code) for name, kind in defined.items()}


def test_the_readme_example_works(place: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "fatal: model 'e37f2df' not found\n")
    assert done.stdout.splitlines() == re.findall(r"# prints (.*)", "\n".join(blocks))


def test_every_command_of_the_readme_exists(cli) -> None:
    readme = (ROOT / "README.md").read_text()
    used = {tuple(found.split()) for found in re.findall(r"^\$ metalchat ([a-z]+(?: [a-z]+)?)", readme, re.MULTILINE)}
    assert used
    for words in used:
        assert cli(*words[:1], "--help").code == 0
        if cli(*words[:1], "--help").out.startswith(f"Usage: metalchat {words[0]} COMMAND"):
            assert cli(*words, "--help").code == 0
