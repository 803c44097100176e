"""The rules of the repository that no package can see by itself: who imports whom, who may print, what lies where."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))

# The packages of this project that each may import. Everything points down; an engine is found by its entry point.
BELOW = {
    "metalchat-credentials": set(),
    "metalchat-manifest": set(),
    "metalchat-engine": set(),
    "metalchat-prompt": {"metalchat-engine"},
    "metalchat-store": {"metalchat-manifest"},
    "metalchat-engine-mlx": {"metalchat-engine", "metalchat-prompt"},
    "metalchat-cli": {
        "metalchat-credentials",
        "metalchat-engine",
        "metalchat-manifest",
        "metalchat-prompt",
        "metalchat-store",
    },
}
# Declared without being imported: the engine that whoever installs the command gets.
PLUGGED_IN = {"metalchat-cli": {"metalchat-engine-mlx"}}
# Imported without being declared: a conformance kit runs where pytest is installed anyway.
ONLY_IN_KITS = {"pytest"}

HTTP = {"metalchat-credentials": {"auth"}, "metalchat-store": {"_http", "_transport"}}
TERMINAL_MODULES = {"cmd", "curses", "getpass", "prompt_toolkit", "pty", "readline", "rich", "termios", "tty"}

TOP_LEVEL = {
    "packages",
    "tests-integration",
    "benchmarks",
    "docs",
    ".github",
    ".ci",
    "pyproject.toml",
    "hatch.toml",
    "ruff.toml",
    "README.md",
    "CONTRIBUTING.md",
    "LICENSE",
    ".gitignore",
}


def modules(package: Path) -> Iterator[tuple[str, ast.Module]]:
    """The dotted name below the import package, and the syntax tree, of every module that is installed."""
    source = package / "src" / package.name.replace("-", "_")
    for path in sorted(source.rglob("*.py")):
        yield ".".join(path.relative_to(source).with_suffix("").parts), ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> set[str]:
    """The top-level names of all that a module imports, inside functions and for type checkers, too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            found.add(str(node.module).partition(".")[0])
    return found


def project(package: Path) -> dict[str, object]:
    return tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def declared(package: Path) -> set[str]:
    lines = project(package)["dependencies"]
    assert isinstance(lines, list)
    return {normalised(re.split(r"[\s\[<>=!~;]", line, maxsplit=1)[0]) for line in lines}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def distributions() -> dict[str, list[str]]:
    found = importlib.metadata.packages_distributions()
    own = {package.name.replace("-", "_"): [package.name] for package in PACKAGES}
    return {name: [normalised(one) for one in several] for name, several in found.items()} | own


@cache
def tracked() -> tuple[Path, ...]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("this is no git checkout")
    return tuple(path for name in done.stdout.decode().split("\0") if name and (path := ROOT / name).is_file())


def texts() -> Iterator[tuple[str, str]]:
    for path in tracked():
        try:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # no text


each_package = pytest.mark.parametrize("package", PACKAGES, ids=[package.name for package in PACKAGES])


def test_every_package_has_its_place_in_the_import_graph() -> None:
    assert {package.name for package in PACKAGES} == set(BELOW)


@each_package
def test_imports_point_down(package: Path) -> None:
    own = {one.name.replace("-", "_"): one.name for one in PACKAGES}
    for name, tree in modules(package):
        imported = {own[one] for one in imports(tree) if one in own}
        assert imported - {package.name} <= BELOW[package.name], name


@each_package
def test_declared_dependencies_are_the_imported_ones(package: Path) -> None:
    imported: set[str] = set()
    for name, tree in modules(package):
        kit = name.partition(".")[0] == "testing"
        for one in imports(tree) - set(sys.stdlib_module_names) - {package.name.replace("-", "_")}:
            if not (kit and one in ONLY_IN_KITS):
                names = distributions().get(one, [one])
                imported.add(next((name for name in names if name in declared(package)), names[0]))
    assert declared(package) == imported | PLUGGED_IN.get(package.name, set())


@each_package
def test_only_the_command_line_talks_to_a_person(package: Path) -> None:
    if package.name == "metalchat-cli":
        return
    for name, tree in modules(package):
        assert not imports(tree) & TERMINAL_MODULES, name
        for node in ast.walk(tree):
            where = f"{name}, line {getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("print", "input", "breakpoint"), where
            if isinstance(node, ast.Attribute):
                assert node.attr != "isatty", where
                if isinstance(node.value, ast.Name) and node.value.id == "sys":
                    assert node.attr not in ("stdin", "stdout", "stderr", "__stdin__", "__stdout__"), where


@each_package
def test_no_pattern_has_a_possessive_group(package: Path) -> None:
    # Python 3.11.0 to 3.11.4 (Debian 12 has 3.11.2) match them wrongly where the group itself could backtrack.
    for name, tree in modules(package):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re."):
                patterns = [one.value for one in node.args if isinstance(one, ast.Constant)]
                assert not [one for one in patterns if re.search(r"[^\\]\)[*+?]\+", str(one))], f"{name}:{node.lineno}"


@each_package
def test_few_modules_know_the_http_library(package: Path) -> None:
    assert {name for name, tree in modules(package) if "httpx" in imports(tree)} == HTTP.get(package.name, set())


@each_package
def test_every_package_is_complete(package: Path) -> None:
    import_name = package.name.replace("-", "_")
    for name in (
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        f"src/{import_name}/__init__.py",
        f"src/{import_name}/py.typed",
    ):
        assert (package / name).is_file(), name
    assert (package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    facts = project(package)
    assert facts["name"] == package.name
    assert facts["requires-python"] == ">=3.11"
    changes = re.search(r"^## (\S+)", (package / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert changes is not None
    assert changes[1] in (facts["version"], "Unreleased")


@each_package
def test_a_version_is_the_same_wherever_it_is_written(package: Path) -> None:
    version = project(package)["version"]
    for name, tree in modules(package):
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == "__version__" for target in node.targets
            ):
                assert ast.literal_eval(node.value) == version, name


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_the_environment_has_the_entry_points_of_the_tree(package: Path) -> None:
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    groups = dict(project.get("entry-points", {}))
    if "scripts" in project:
        groups["console_scripts"] = project["scripts"]
    declared = {(group, name, value) for group, points in groups.items() for name, value in points.items()}
    installed = {
        (point.group, point.name, point.value) for point in importlib.metadata.distribution(package.name).entry_points
    }
    assert installed == declared, "this environment is older than the tree: 'hatch env prune' makes it anew"


def test_the_checkers_know_every_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pyrefly"]
    assert settings["search-path"] == [f"packages/{package.name}/src" for package in PACKAGES]
    environments = tomllib.loads((ROOT / "hatch.toml").read_text(encoding="utf-8"))["envs"]
    alone = environments["alone"]["matrix"][0]["package"]
    assert sorted(f"metalchat-{part}" for part in alone) == [package.name for package in PACKAGES]


def test_the_top_level_holds_what_it_should() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} == TOP_LEVEL


def test_no_module_is_longer_than_400_lines() -> None:
    lengths = {name: text.count("\n") for name, text in texts() if name.endswith(".py")}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_nothing_mentions_a_place_outside_the_repository() -> None:
    outside = re.compile(r"\.\./[s]hared|\bissues? +#?\d|(?<=[\s(])#\d{1,4}\b", re.IGNORECASE)
    found = [f"{name}: {match[0]}" for name, text in texts() for match in outside.finditer(text)]
    assert found == []
