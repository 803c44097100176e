"""Every block of the guides does what it says, with the hub's double in place of https://huggingface.co."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from metalchat_engine.testing import write_distribution
from metalchat_engine_mlx.testing import write_tiny_model
from metalchat_store.testing import FakeHub

sys.path.insert(0, str(Path(__file__).parent))

from documents import Block, Step, blocks, fits, steps
from hub_over_tls import HubOverTls
from machine import Machine

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TOKEN = "hf_CANARYCANARYCANARYCANARY"

# The program of https://www.passwordstore.org, as far as the guide uses it.
PASS = """\
#!/bin/sh
file="$HOME/passwords/$(echo "$2$3$4" | tr -dc a-z)"
case "$1" in
    show) cat "$file" ;;
    insert) mkdir -p "$HOME/passwords"; cat > "$HOME/passwords/$(echo "$4" | tr -dc a-z)" ;;
    rm) rm "$HOME/passwords/$(echo "$3" | tr -dc a-z)" ;;
esac
"""

needs_names = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the system's store decides which authorities are trusted"
)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    model = write_tiny_model(tmp_path / "model", max_position_embeddings=8192)
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    with FakeHub() as hub:
        hub.add_token(TOKEN, user="alice", role="write")
        hub.add_repo("meta-llama/Llama-3.2-1B-Instruct", files=files, gated=True, license="llama3.2")
        hub.grant("meta-llama/Llama-3.2-1B-Instruct", "alice")
        yield hub


class Reader:
    """Somebody who types what a document says, in the directory of a machine that has metalchat."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.directory = machine.work
        self.installed = machine.home / "installed"
        self.installed.mkdir()
        programs = machine.home / "bin"
        programs.mkdir()
        (programs / "pass").write_text(PASS)
        (programs / "pass").chmod(0o755)
        self.environ = machine.environ | {
            "PATH": f"{programs}{os.pathsep}{machine.environ['PATH']}",
            "PYTHONPATH": f"{self.installed}{os.pathsep}{machine.environ['PYTHONPATH']}",
            "HF_ACCESS_TOKEN": TOKEN,
            "HF_USERNAME": "alice",
        }

    def read(self, block: Block) -> None:
        if block.language == "console":
            for step in steps(block):
                self.type(step)
        elif block.file is not None:
            (self.directory / block.file).parent.mkdir(parents=True, exist_ok=True)
            (self.directory / block.file).write_text(block.text)
        elif block.language == "python":
            self.run([sys.executable, "-c", block.text], "")
        elif block.language == "toml":
            tomllib.loads(block.text)

    def type(self, step: Step) -> None:
        if match := re.fullmatch(r"cd (\S+)", step.command):
            self.directory = (self.directory / match[1].replace("~", str(self.machine.home))).resolve()
            assert self.directory.is_dir(), step.command
        elif match := re.fullmatch(r"pip install (?:-e )?(\./\S+|\.)", step.command):
            self.install((self.directory / match[1]).resolve())
        else:
            self.run(["bash", "-c", step.command], step.shown)

    def install(self, source: Path) -> None:
        """What pip makes of a folder of modules with a pyproject.toml, without pip."""
        project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
        for module in source.glob("*.py"):
            (self.installed / module.name).write_bytes(module.read_bytes())
        write_distribution(self.installed, project["name"], project["entry-points"], version=project["version"])

    def run(self, command: list[str], shown: str) -> None:
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
        )
        assert fits(shown, done.stdout), f"{command[-1]}\nsaid\n{done.stdout}\nand not\n{shown}"
        failed = re.search(r"^(metalchat: )?(error|fatal): ", shown, re.MULTILINE) is not None
        assert (done.returncode != 0) == failed, f"{command[-1]} ended with {done.returncode}\n{done.stdout}"


@needs_names
@pytest.mark.parametrize("document", DOCUMENTS, ids=[path.name for path in DOCUMENTS])
def test_what_a_document_shows_is_what_happens(document: Path, hub: FakeHub, tmp_path: Path) -> None:
    with HubOverTls(hub, tmp_path) as front:
        reader = Reader(Machine(tmp_path, front.environ()))
        for block in blocks(document):
            if block.reason is None:
                reader.read(block)


@pytest.mark.parametrize("document", DOCUMENTS, ids=[path.name for path in DOCUMENTS])
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize(
    ("shown", "said", "expected"),
    [
        ("one\ntwo\n", "one  \ntwo\n\n", True),
        ("one\n...\nfour\n", "one\ntwo\nthree\nfour\n", True),
        ("e37f2df  ...\n", "e37f2df  llama3\n", True),
        ("", "something\n", False),
        ("one\n", "", False),
        ("one\n", "one\ntwo\n", False),
    ],
)
def test_three_dots_stand_for_anything(shown: str, said: str, expected: bool) -> None:
    assert fits(shown, said) is expected
