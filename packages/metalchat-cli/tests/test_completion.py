"""What a shell completes."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from metalchat_cli.app import COMMANDS

Cli = Callable[..., Any]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_names_every_command(cli: Cli, shell: str) -> None:
    done = cli("completion", shell)
    assert (done.code, done.err) == (0, "")
    assert all(name in done.out for name in (*COMMANDS, "abbrev"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_valid_where_the_shell_is_installed(cli: Cli, shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    Path("script").write_text(cli("completion", shell).out)
    done = subprocess.run([program, "-n", "script"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_a_command_and_its_options(cli: Cli) -> None:
    Path("script").write_text(cli("completion", "bash").out)
    ask = (
        'source ./script; COMP_WORDS=({words}); COMP_CWORD={last}; COMP_LINE="{line}"; COMP_POINT={point}; '
        '_metalchat metalchat; echo "${{COMPREPLY[@]}}"'
    )

    def complete(*words: str) -> list[str]:
        line = " ".join(words)
        quoted = " ".join(f'"{word}"' for word in words)
        code = ask.format(words=quoted, last=len(words) - 1, line=line, point=len(line))
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert complete("metalchat", "qui") == ["quickstart"]
    assert complete("metalchat", "model", "ver") == ["verify"]
    assert "--abbrev" in complete("metalchat", "model", "list", "--a")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes_a_command_and_its_options(cli: Cli) -> None:
    Path("script").write_text(cli("completion", "fish").out)

    def complete(line: str) -> list[str]:
        code = f'source ./script; complete -C "{line}"'
        done = subprocess.run(["fish", "--no-config", "-c", code], capture_output=True, text=True, check=True)
        return [line.partition("\t")[0] for line in done.stdout.splitlines()]

    assert complete("metalchat qui") == ["quickstart"]
    assert complete("metalchat model ver") == ["verify"]
    assert "--abbrev" in complete("metalchat model list --a")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize("load", ["compinit -u -D", "compinit -u -D; source ./script"], ids=["found", "sourced"])
def test_zsh_completes_a_command_and_its_options(cli: Cli, program: Callable[..., Any], load: str) -> None:
    Path("folder").mkdir()
    Path("script" if "script" in load else "folder/_metalchat").write_text(cli("completion", "zsh").out)
    zsh = program("zsh", "-f", "-i")
    zsh.type(f'fpath=($PWD/folder $fpath); autoload -Uz compinit; {load}; metalchat() {{ print -r "<$*>" }}\r')
    for typed, completed in (
        ("qui", "quickstart"),
        ("model ver", "model verify"),
        ("model list --ab", "model list --abbrev"),
    ):
        zsh.type(f"metalchat {typed}\t\r")
        zsh.wait_for(f"<{completed}>")
