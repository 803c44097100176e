"""The README's examples run, and the engine it writes keeps the contract."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=directory, capture_output=True, text=True, timeout=100, check=False
    )


def test_the_first_example_prints_what_the_text_says(tmp_path: Path) -> None:
    done = run("-c", BLOCKS[0], directory=tmp_path)
    assert done.stderr == ""
    assert done.stdout == "Hello, world\nstop, 5 tokens\n"
    for line in done.stdout.splitlines():
        assert f"`{line}`" in README.read_text(encoding="utf-8")


def test_the_engine_of_the_readme_keeps_the_contract(tmp_path: Path) -> None:
    for block in BLOCKS[1:3]:
        name = block.splitlines()[0].removeprefix("# ")
        (tmp_path / name).write_text(block, encoding="utf-8")
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "test_shout.py", directory=tmp_path)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d\d passed in", done.stdout, re.MULTILINE)


def test_the_last_example_prints_the_speed_of_each_size(tmp_path: Path) -> None:
    done = run("-c", BLOCKS[3], directory=tmp_path)
    assert done.stderr == ""
    assert [line.partition(" Spread(mean=")[0] for line in done.stdout.splitlines()] == ["1", "4"]
