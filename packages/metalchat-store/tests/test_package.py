"""The package as a whole: errors, imports, examples."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import metalchat_store
import pytest
from metalchat_store import errors
from metalchat_store.errors import StoreError

ROOT = Path(__file__).parents[1]


def test_the_tree_of_errors_is_the_documented_one() -> None:
    drawn = re.findall(r"^[│├└─ ]*(\w+) +(?:exit code )?(\d)", errors.__doc__ or "", re.MULTILINE)
    defined = {
        name: value for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, StoreError)
    }
    assert {(name, int(code)) for name, code in drawn} == {(name, cls.exit_code) for name, cls in defined.items()}
    assert set(defined) <= set(metalchat_store.__all__)


def test_every_public_name_can_be_imported() -> None:
    for name in metalchat_store.__all__:
        assert getattr(metalchat_store, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        metalchat_store.nothing  # noqa: B018 - the access is the test


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import metalchat_store",
        "from metalchat_store import *",
        "from metalchat_store import Store; from pathlib import Path; Store(Path('/nowhere'), environ={}).list()",
        "from metalchat_store import installed_remotes; installed_remotes()",
    ],
)
def test_nothing_heavy_is_imported_for_a_look(statement: str) -> None:
    heavy = {"httpx", "tomlkit", "filelock", "safetensors", "truststore", "ssl", "asyncio", "metalchat_store.pull"}
    assert not heavy & modules_after(statement)


def test_importing_the_package_costs_next_to_nothing() -> None:
    added = modules_after("import metalchat_store") - modules_after("pass")
    assert {name for name in added if name.startswith("metalchat")} == {"metalchat_store"}
    assert not {"typing", "re", "pathlib", "json", "dataclasses"} & added


def test_the_readme_example_works(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == re.findall(r"# prints (.*)", "\n".join(blocks))
