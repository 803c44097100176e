"""What the package is, seen from outside."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import metalchat_engine
import metalchat_engine.errors
import metalchat_engine.testing
import pytest
from metalchat_engine import EngineError

SOURCE = Path(metalchat_engine.__file__).parent


def fresh(code: str) -> list[str]:
    """The lines that code prints in an interpreter of its own."""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_the_package_imports_next_to_nothing() -> None:
    added = fresh("import sys; before = set(sys.modules); import metalchat_engine; print(*set(sys.modules) - before)")
    assert {name.partition(".")[0] for name in added} <= {"metalchat_engine", "importlib", "warnings"}
    assert "importlib.metadata" not in added


def test_every_public_name_comes_from_the_standard_library_alone() -> None:
    tops = fresh(
        "import sys; before = set(sys.modules); from metalchat_engine import *\n"
        "import metalchat_engine.testing; print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    assert set(tops) - sys.stdlib_module_names == {"metalchat_engine"}


@pytest.mark.parametrize("heavy", ["importlib.metadata", "json", "email", "socket", "logging", "asyncio", "pytest"])
def test_no_public_name_needs_a_heavy_module(heavy: str) -> None:
    assert heavy not in fresh(
        "import sys; from metalchat_engine import *\n"
        "from metalchat_engine.testing import EchoEngine; print(*sys.modules)"
    )


@pytest.mark.parametrize("package", [metalchat_engine, metalchat_engine.testing], ids=lambda package: package.__name__)
def test_every_public_name_is_there(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert len(set(names)) == len(names)
    assert all(getattr(package, name) is not None for name in names)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # type: ignore[attr-defined]  # noqa: B018 - the access is what is tested


def test_type_checkers_see_what_is_exported() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    imported = {
        (alias.name, node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module != "importlib"
        for alias in node.names
    }
    assert {name for name, _ in imported} == set(metalchat_engine.__all__)
    for name, module in imported:
        assert getattr(metalchat_engine, name) is getattr(sys.modules[str(module)], name)
    assert set(dir(metalchat_engine)) >= set(metalchat_engine.__all__)


def test_the_tree_of_errors_is_the_one_its_docstring_draws() -> None:
    def tree(error: type[EngineError], prefix: str = "") -> list[str]:
        lines: list[str] = []
        below = sorted(error.__subclasses__(), key=order.index)
        for child in below:
            last = child is below[-1]
            lines.append(f"{prefix}{'└── ' if last else '├── '}{child.__name__} {child.exit_code}")
            lines += tree(child, prefix + ("    " if last else "│   "))
        return lines

    order = [error for error in vars(metalchat_engine.errors).values() if isinstance(error, type)]
    drawn = re.findall(r"^    (\S.*?\w+) +(\d)", str(metalchat_engine.errors.__doc__), re.MULTILINE)
    assert [f"{name} {code}" for name, code in drawn] == [f"EngineError {EngineError.exit_code}", *tree(EngineError)]


def test_every_error_says_it_in_the_package_and_needs_no_more_than_a_message() -> None:
    for error in (EngineError, *EngineError.__subclasses__()):
        assert str(error("one line")) == "one line"
        assert error.__name__ in metalchat_engine.__all__
